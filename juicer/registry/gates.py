"""The gates that a version has to pass before it is promoted. Pure functions over stored figures and standard errors.

mlflow/promotion.yaml declares the gates; its comments and docs/registry.md say what each kind means.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from juicer.evaluation.significance import FEWEST, half_width, share_error
from juicer.runtime.errors import InputError, did_you_mean
from juicer.settings.base import Settings

Figures = Mapping[str, float]
"""Metric name to value, standard errors and number of prompts among them."""


@dataclass(frozen=True)
class Metric:
    """How a metric is measured."""

    error: str | None = None
    """Name of its standard error; SHARE for a share of prompts, PAIRS for a share of pairs and AVERAGE for the
    benchmarks' average, whose errors follow from other figures; None where it has none."""
    stage: str = "evaluate"
    """The kind of stage that measures it."""
    count: Literal["prompts", "pairs", "questions"] = "prompts"
    """What it is measured on."""


SHARE, PAIRS, AVERAGE = "share", "share of pairs", "average"
BENCHMARKS = tuple(f"leaderboard_{name}" for name in ("arc", "truthfulqa", "winogrande", "gsm8k", "hellaswag", "mmlu"))
LIMIT = "leaderboard_limit"
"""The most questions per task, among the figures of a model whose benchmarks were cut short."""
METRICS = {
    "reward_mean": Metric("reward_sem"),
    "win_rate_vs_sft": Metric(SHARE),
    "preference_accuracy": Metric(PAIRS, count="pairs"),
    "preference_accuracy_per_token": Metric(PAIRS, count="pairs"),
    "implicit_preference_accuracy": Metric(PAIRS, count="pairs"),
    "preference_gap": Metric("preference_gap_sem", count="pairs"),
    "demonstration_gap": Metric(),
    "ended": Metric(SHARE),
    "response_tokens": Metric(),
    "kl_to_sft": Metric(),
    "distinct_2": Metric(),
    **{name: Metric(f"{name}_sem", "leaderboard", "questions") for name in BENCHMARKS},
    "leaderboard_average": Metric(AVERAGE, "leaderboard", "questions"),
}
"""The metrics that a gate may use. For all that have a standard error, higher is better."""


def _known(name: str) -> str:
    if name not in METRICS:
        raise ValueError(f"unknown metric {name!r} ({did_you_mean(name, METRICS)})")
    return name


def _with_error(name: str) -> str:
    if METRICS[_known(name)].error is None:
        raise ValueError(f"{name!r} has no standard error to compare it by; give it a range under `within`")
    return name


Known = Annotated[str, AfterValidator(_known)]
Compared = Annotated[str, AfterValidator(_with_error)]


class Range(Settings):
    """The range that a metric has to be in."""

    at_least: float | None = None
    """Smallest value that passes."""
    at_most: float | None = None
    """Largest value that passes."""

    @model_validator(mode="after")
    def _has_a_bound(self) -> "Range":
        if self.at_least is None and self.at_most is None:
            raise ValueError("a range needs at_least or at_most")
        return self

    def holds(self, value: float) -> bool:
        """Whether the value lies in the range."""
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        bounds = [f"at least {self.at_least:g}"] if self.at_least is not None else []
        bounds += [f"at most {self.at_most:g}"] if self.at_most is not None else []
        return " and ".join(bounds)


class PromotionSettings(Settings):
    """mlflow/promotion.yaml."""

    noise: float = Field(1.96, ge=0)
    """Differences up to this many standard errors of the difference are noise; 1.96 is 95%. That is of many prompts:
    of few, noise is as much longer as the interval of the same confidence by Student's t."""
    committed_code: bool = True
    """The code that the version was registered with was committed."""
    better_than_base: list[Compared]
    """Higher than the base model's by more than noise."""
    better_where_measured: list[Compared] = Field(default_factory=list)
    """The same, for metrics that a recipe may leave out: applied only if the version or the base model has them. At
    least one gate of this kind or of `better_than_base` has to apply."""
    not_worse_than_champion: list[Compared]
    """Not lower than the champion's by more than noise."""
    not_worse_where_measured: list[Compared] = Field(default_factory=list)
    """The same, for metrics that a recipe may leave out: applied only if the version or the champion has them."""
    within: dict[Known, Range] = Field(default_factory=dict)
    """Ranges of metrics."""
    relative_to_sft: dict[Known, Range] = Field(default_factory=dict)
    """Ranges of metrics divided by those of the SFT model of the same recipe."""


@dataclass(frozen=True)
class Judged:
    """A model and its metrics."""

    name: str
    """Name in messages, for example quickstart 3 (irft-r2)."""
    model: str
    """Name in stages, for example irft-r2."""
    figures: Figures

    def value(self, metric: str) -> float:
        """The metric's value.

        Raises:
            InputError: it was not measured; with the stage that does that.
        """
        if metric not in self.figures:
            stage = f"{METRICS[metric].stage}@{self.model}"
            do = f"the stage {stage} measures it: dvc repro {stage} && dvc repro register"
            raise InputError(f"{self.name} has no metric {metric!r}", do=do)
        return self.figures[metric]

    def error(self, metric: str) -> float:
        """The metric's standard error; of a share, by Agresti and Coull: two more prompts each way, so never 0.

        Raises:
            InputError: it was not measured.
        """
        value, error = self.value(metric), METRICS[metric].error
        if error == AVERAGE:
            return math.hypot(*(self.error(benchmark) for benchmark in BENCHMARKS)) / len(BENCHMARKS)
        if error in (SHARE, PAIRS) and (count := self.count(metric)) is not None:
            return share_error(value, count)
        if error is None or error not in self.figures:
            raise InputError(f"{self.name} has no {error!r}, so the error of {metric!r} is not known")
        return self.figures[error]

    def count(self, metric: str) -> int | None:
        """The number of prompts, pairs or questions that the metric was measured on; None for a whole benchmark.

        Raises:
            InputError: it is not known.
        """
        key: str = METRICS[metric].count
        if key == "questions":
            return int(self.figures[LIMIT]) if LIMIT in self.figures else None
        if key == "pairs" and key not in self.figures:
            key = "prompts"  # older versions lack the other
        if key not in self.figures:
            raise InputError(f"{self.name} has no {key!r}, so the error of {metric!r} is not known")
        return int(self.figures[key])


@dataclass(frozen=True)
class Verdict:
    """The result of one gate."""

    gate: str
    """For example: reward_mean better than base."""
    result: Literal["passed", "failed", "not asked"]
    numbers: str


def judge(
    gates: PromotionSettings, candidate: Judged, base: Judged, sft: Judged, champion: Judged | None
) -> list[Verdict]:
    """Apply every gate to a candidate.

    Args:
        champion: None if there is none yet; then the gates that ask for it are not asked.

    Raises:
        InputError: a gated metric was not measured, or nothing that tells whether the candidate is better.
    """
    return [
        *_against_base(gates, candidate, base),
        *_against_champion(gates, candidate, champion),
        *(
            _in_range(f"{metric} {wanted}", candidate.value(metric), wanted, "")
            for metric, wanted in gates.within.items()
        ),
        *(_relative(metric, wanted, candidate, sft) for metric, wanted in gates.relative_to_sft.items()),
    ]


def judge_code(gates: PromotionSettings, name: str, tags: Mapping[str, str]) -> list[Verdict]:
    """Whether the commit that a version names holds its code; no verdict where the gate is off.

    Args:
        name: as in messages.
        tags: the version's.
    """
    if not gates.committed_code:
        return []
    gate, dirty = "code is committed", tags.get("git_dirty")
    if dirty == "true":
        do = "commit it, then: dvc repro register"
        return [Verdict(gate, "failed", f"{name} was registered with uncommitted changes ({do})")]
    if dirty == "false":
        return [Verdict(gate, "passed", tags.get("git_commit", "unknown"))]
    return [Verdict(gate, "not asked", "the version does not say")]


def _against_base(gates: PromotionSettings, candidate: Judged, base: Judged) -> Iterator[Verdict]:
    optional = gates.better_where_measured
    if optional and not gates.better_than_base and not any(_measured(metric, candidate, base) for metric in optional):
        raise InputError(
            f"neither {candidate.name} nor {base.name} has any of {', '.join(optional)}: nothing says what is better",
            do="give the recipe a scorer or enable its leaderboard, or ask for a metric that it has",
        )
    for metric in gates.better_than_base:
        yield _compared(gates, metric, candidate, base, better=True)
    for metric in optional:
        if _measured(metric, candidate, base):
            yield _compared(gates, metric, candidate, base, better=True)
        else:
            yield Verdict(f"{metric} better than base", "not asked", "neither was measured")


def _measured(metric: str, *models: Judged) -> bool:
    return any(metric in model.figures for model in models)


def _against_champion(gates: PromotionSettings, candidate: Judged, champion: Judged | None) -> Iterator[Verdict]:
    for metric in [*gates.not_worse_than_champion, *gates.not_worse_where_measured]:
        gate = f"{metric} not worse than the champion"
        if champion is None:
            yield Verdict(gate, "not asked", "there is no champion yet")
        elif metric in gates.not_worse_where_measured and not _measured(metric, candidate, champion):
            yield Verdict(gate, "not asked", "neither was measured")
        else:
            yield _compared(gates, metric, candidate, champion, better=False)


def _compared(gates: PromotionSettings, metric: str, candidate: Judged, other: Judged, *, better: bool) -> Verdict:
    """The two are treated as independent; on the same prompts the true error is smaller, so `noise` is conservative.

    Too few prompts pass no gate: of them nothing is known, neither that the one is better nor that it is not worse.
    """
    gate = f"{metric} {'better' if better else 'not worse'} than {'base' if better else 'the champion'}"
    difference = candidate.value(metric) - other.value(metric)
    counts = [count for each in (candidate, other) if (count := each.count(metric)) is not None]
    if counts and min(counts) < FEWEST:
        kind = METRICS[metric].count
        few = f"too few to tell: {min(counts)} {kind}, and below {FEWEST} nothing is called a difference"
        return Verdict(gate, "failed", f"{few} ({candidate.value(metric):.4g} against {other.value(metric):.4g})")
    width = half_width(min(counts), _probability(gates.noise)) if counts else gates.noise
    noise = width * math.hypot(candidate.error(metric), other.error(metric))
    passed = difference > noise if better else difference >= -noise
    numbers = (
        f"{candidate.value(metric):.4g} ± {candidate.error(metric):.2g} against "
        f"{other.value(metric):.4g} ± {other.error(metric):.2g}: difference {difference:+.4g}, noise {noise:.2g}"
    )
    return Verdict(gate, "passed" if passed else "failed", numbers)


def _probability(noise: float) -> float:
    """The share of a normal distribution below this many standard deviations: 0.975 for 1.96."""
    return (1 + math.erf(noise / math.sqrt(2))) / 2


def _relative(metric: str, wanted: Range, candidate: Judged, sft: Judged) -> Verdict:
    value, reference = candidate.value(metric), sft.value(metric)
    gate = f"{metric} over sft's {wanted}"
    if reference == 0:
        return Verdict(gate, "failed", f"{value:.4g} / 0")
    return _in_range(gate, value / reference, wanted, f" = {value:.4g} / {reference:.4g}")


def _in_range(gate: str, value: float, wanted: Range, how: str) -> Verdict:
    return Verdict(gate, "passed" if wanted.holds(value) else "failed", f"{value:.4g}{how}")


def as_markdown(verdicts: list[Verdict]) -> str:
    """A table of all gates, with those that failed first."""
    ordered = sorted(verdicts, key=lambda verdict: ("failed", "passed", "not asked").index(verdict.result))
    rows = [f"| {verdict.result} | {verdict.gate} | {verdict.numbers} |" for verdict in ordered]
    return "\n".join(["| result | gate | numbers |", "|---|---|---|", *rows])
