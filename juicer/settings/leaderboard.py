"""Settings of the leaderboard: the six benchmarks of the paper's table."""

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from juicer.settings.base import Settings


class BenchmarkSettings(Settings):
    """How one column of the table is measured."""

    fewshot: int = Field(ge=0)
    """Solved examples before each question."""
    metric: Literal["acc", "acc_norm", "exact_match"]
    """Metric of the harness: `acc_norm` divides log-likelihoods by the bytes of the answers."""
    filter: str = "none"
    """Filter of the harness that reads an answer from what was generated, for example `strict-match`."""


class HarnessSettings(Settings):
    """What lm-eval is asked to do. A benchmark that is given in part keeps the defaults of the rest."""

    arc: BenchmarkSettings = BenchmarkSettings(fewshot=25, metric="acc_norm")
    """ai2_arc: arc_easy and arc_challenge, mean over all their questions."""
    truthfulqa: BenchmarkSettings = BenchmarkSettings(fewshot=0, metric="acc")
    """truthfulqa_mc1; its six fixed examples are part of the task."""
    winogrande: BenchmarkSettings = BenchmarkSettings(fewshot=5, metric="acc")
    """winogrande (winogrande_xl)."""
    gsm8k: BenchmarkSettings = BenchmarkSettings(fewshot=5, metric="exact_match", filter="strict-match")
    """gsm8k; `strict-match` takes the number after "####", `flexible-extract` the last number."""
    hellaswag: BenchmarkSettings = BenchmarkSettings(fewshot=10, metric="acc_norm")
    """hellaswag."""
    mmlu: BenchmarkSettings = BenchmarkSettings(fewshot=1, metric="acc")
    """mmlu: 57 subjects, mean over all their questions; the paper's script gives one example."""
    limit: int | None = Field(None, ge=1)
    """At most this many questions per task (per subject of mmlu), for a quick look; null takes all."""
    batch_size: Literal["auto"] | int = "auto"
    """Questions at once; `auto` is the most that fits into memory, at most 64."""
    seed: int = Field(1234, ge=0)
    """Seed of the few-shot examples. Not the recipe's, so that all models answer the same; 1234 is lm-eval's own."""

    @field_validator("arc", "truthfulqa", "winogrande", "gsm8k", "hellaswag", "mmlu", mode="before")
    @classmethod
    def _keep_defaults(cls, given: Any, info: ValidationInfo) -> Any:
        if not isinstance(given, dict):
            return given
        return {**cls.model_fields[str(info.field_name)].default.model_dump(), **given}

    @field_validator("truthfulqa")
    @classmethod
    def _no_other_examples(cls, given: BenchmarkSettings) -> BenchmarkSettings:
        if given.fewshot:
            raise ValueError("fewshot must be 0: the task has its own six examples, and lm-eval adds no others")
        return given

    @field_validator("batch_size")
    @classmethod
    def _at_least_one(cls, given: str | int) -> str | int:
        if isinstance(given, int) and given < 1:
            raise ValueError("must be auto or at least 1")
        return given


class LeaderboardSettings(Settings):
    """The paper's six benchmarks, by lm-eval."""

    enabled: bool = False
    """Run them. A tiny model only guesses, and seven billion parameters take GPU hours."""
    rounds: Literal["last", "all"] = "last"
    """Which rounds are measured beside base, sft and sft-matched: each method's `last`, or `all`."""
    mirror: str | None = None
    """Folder that `python -m tasks.mirror --out FOLDER` made; null lets a stage make it from the hub."""
    paper: bool = False
    """Show the paper's figures (zephyr-7b-sft-full on UltraChat-200k) beside base (T = 0) and the last IRFT round."""
    harness: HarnessSettings = HarnessSettings()
    """Few-shot counts, metrics, limit and batch size."""
