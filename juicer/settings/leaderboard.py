"""Settings of the leaderboard: the six benchmarks of the paper's table."""

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from juicer.settings.base import Settings
from juicer.settings.bounds import Batch, Fewshot, Rows, SmallSeed
from juicer.settings.text import Place, Word


class BenchmarkSettings(Settings):
    """How one benchmark is measured."""

    fewshot: Fewshot = Field(ge=0)
    """Solved examples before each question."""
    metric: Literal["acc", "acc_norm", "exact_match"]
    """Metric of lm-eval; `acc_norm` is accuracy with log-likelihoods divided by the bytes of the answers."""
    filter: Word = "none"
    """Filter of lm-eval that extracts the answer from the generated text, for example `strict-match`."""


class HarnessSettings(Settings):
    """Settings of lm-eval. A benchmark of which only some settings are given keeps the defaults of the others."""

    arc: BenchmarkSettings = BenchmarkSettings(fewshot=25, metric="acc_norm")
    """ai2_arc: arc_easy and arc_challenge; mean over all questions of both."""
    truthfulqa: BenchmarkSettings = BenchmarkSettings(fewshot=0, metric="acc")
    """truthfulqa_mc1; the task has six fixed examples of its own."""
    winogrande: BenchmarkSettings = BenchmarkSettings(fewshot=5, metric="acc")
    """winogrande (winogrande_xl)."""
    gsm8k: BenchmarkSettings = BenchmarkSettings(fewshot=5, metric="exact_match", filter="strict-match")
    """gsm8k; `strict-match` takes the number after "####", `flexible-extract` the last number."""
    hellaswag: BenchmarkSettings = BenchmarkSettings(fewshot=10, metric="acc_norm")
    """hellaswag."""
    mmlu: BenchmarkSettings = BenchmarkSettings(fewshot=1, metric="acc")
    """mmlu, 57 subjects: mean over all questions; the paper's script gives one example."""
    limit: Rows | None = Field(None, ge=1)
    """Largest number of questions per task (per subject of mmlu), for a quick look; null asks all."""
    batch_size: Literal["auto"] | Batch = "auto"
    """Questions per forward pass; `auto` takes as many as fit into memory, at most 64."""
    seed: SmallSeed = Field(1234, ge=0)
    """Seed of the few-shot examples, apart from the recipe's so that all models get the same; 1234 is lm-eval's."""

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
            raise ValueError("fewshot must be 0: the task has six examples of its own, and lm-eval adds no others")
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
    """Whether the benchmarks run. A tiny model only guesses, and a model of 7B parameters takes GPU hours."""
    rounds: Literal["last", "all"] = "last"
    """Rounds that are measured beside base, sft and sft-matched: the `last` of each method, or `all`."""
    mirror: Place | None = None
    """Folder with the benchmarks' data, made by `python -m tasks.mirror --out FOLDER`; null downloads it."""
    paper: bool = False
    """Whether the report shows the paper's figures (zephyr-7b-sft-full on UltraChat-200k) beside base (T = 0) and the
    last round of IRFT."""
    harness: HarnessSettings = HarnessSettings()
    """Few-shot counts, metrics, limit and batch size."""
