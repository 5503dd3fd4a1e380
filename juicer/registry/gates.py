"""The gates that a version has to pass before it is promoted. Pure functions over stored figures and standard errors.

mlflow/promotion.yaml declares the gates; its comments and docs/registry.md say what each kind means.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from juicer.evaluation.significance import FEWEST, half_width, interval, mean_and_error, share_error
from juicer.registry.per_prompt import PerPromptFigures, paired
from juicer.reporting.numbers import EVEN
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
    stage: str | None = "evaluate"
    """The kind of stage that measures it; None where no stage does."""
    count: str = "prompts"
    """The figure that says on how many prompts, pairs or questions it was measured."""
    better: Literal["higher", "lower"] = "higher"
    """Which direction is better."""
    against: str | None = None
    """The model whose responses it is a win rate against: 0.5 is as good as that model."""


SHARE, PAIRS, AVERAGE = "share", "share of pairs", "average"
BENCHMARKS = tuple(f"leaderboard_{name}" for name in ("arc", "truthfulqa", "winogrande", "gsm8k", "hellaswag", "mmlu"))
LIMIT = "leaderboard_limit"
"""The most questions per task, among the figures of a model whose benchmarks were cut short."""


def _win_rate(name: str, against: str = "sft-matched") -> Metric:
    """A win rate against a model, by a pairwise judge or people, with its own error and number of prompts."""
    return Metric(f"{name}_sem", None, f"{name}_prompts", against=against)


METRICS = {
    "reward_mean": Metric("reward_sem"),
    "win_rate_vs_sft": Metric(SHARE, against="sft"),
    "judge_mean": Metric("judge_sem"),
    "judged_win_rate": _win_rate("judged_win_rate"),
    "judged_win_rate_vs_sft": _win_rate("judged_win_rate_vs_sft", "sft"),
    "voted_win_rate": _win_rate("voted_win_rate"),
    "voted_win_rate_vs_sft": _win_rate("voted_win_rate_vs_sft", "sft"),
    "demonstration_nll": Metric("demonstration_nll_sem", better="lower"),
    "demonstration_nll_per_token": Metric("demonstration_nll_per_token_sem", better="lower"),
    "perplexity": Metric("perplexity_sem", better="lower"),
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
"""The metrics that a gate may use."""
LIKELIHOOD = ("demonstration_nll", "demonstration_nll_per_token", "perplexity")
"""Metrics that judge no response."""
Reference = Literal["base", "sft", "sft-matched"]
"""A model that a version is held against."""


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
    better_than_base: list[Compared] = Field(default_factory=list)
    """Better than the base model's by more than noise."""
    better_where_measured: list[Compared] = Field(default_factory=list)
    """The same, for metrics that a recipe may leave out: applied only if the version or the base model has them. At
    least one gate of the kinds up to `better_otherwise` has to apply."""
    better_than: dict[Reference, list[Compared]] = Field(default_factory=dict)
    """Per model (base, sft, sft-matched), metrics that are better than that model's by more than noise. A win rate
    against that model is better where it is above 0.5 by more than noise."""
    better_than_where_measured: dict[Reference, list[Compared]] = Field(default_factory=dict)
    """The same, applied only if the version or that model has the metric, and a win rate is of enough prompts."""
    better_otherwise: list[Compared] = Field(default_factory=list)
    """Applied only if no gate above could be: better than the base model's, and not worse than the champion's."""
    not_worse_than_champion: list[Compared]
    """Not worse than the champion's by more than noise."""
    not_worse_where_measured: list[Compared] = Field(default_factory=list)
    """The same, for metrics that a recipe may leave out: applied only if the version or the champion has them."""
    within: dict[Known, Range] = Field(default_factory=dict)
    """Ranges of metrics."""
    relative_to_sft: dict[Known, Range] = Field(default_factory=dict)
    """Ranges of metrics divided by those of the SFT model of the same recipe."""

    @property
    def references(self) -> set[str]:
        """The models that gates hold a version against, besides the champion."""
        return {"base", "sft", *self.better_than, *self.better_than_where_measured}


@dataclass(frozen=True)
class Judged:
    """A model and its metrics."""

    name: str
    """Name in messages, for example quickstart 3 (irft-r2)."""
    model: str
    """Name in stages, for example irft-r2."""
    figures: Figures
    rows: PerPromptFigures | None = None
    """What was measured on each prompt; None where that was not kept."""

    def value(self, metric: str) -> float:
        """The metric's value.

        Raises:
            InputError: it was not measured; with the stage that does that.
        """
        if metric not in self.figures:
            if (kind := METRICS[metric].stage) is None:
                raise InputError(f"{self.name} has no metric {metric!r}", do="have its responses judged, and register")
            do = f"the stage {kind}@{self.model} measures it: dvc repro {kind}@{self.model} && dvc repro register"
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
        key = METRICS[metric].count
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
    evidence: str = ""
    """What was found to be better than what, and how, where the gate asks that."""


def judge(
    gates: PromotionSettings,
    candidate: Judged,
    base: Judged,
    sft: Judged,
    champion: Judged | None,
    others: Mapping[str, Judged] | None = None,
) -> list[Verdict]:
    """Apply every gate to a candidate.

    Args:
        champion: None if there is none yet; then the gates that ask for it are not asked.
        others: further models that gates name, by name: sft-matched, if the recipe makes it.

    Raises:
        InputError: a gated metric was not measured, or nothing that tells whether the candidate is better.
    """
    verdicts = [
        *_better(gates, candidate, {"base": base, "sft": sft, **(others or {})}, champion),
        *_against_champion(gates, candidate, champion),
        *(
            _in_range(f"{metric} {wanted}", candidate.value(metric), wanted, "")
            for metric, wanted in gates.within.items()
        ),
        *(_relative(metric, wanted, candidate, sft) for metric, wanted in gates.relative_to_sft.items()),
    ]
    return list(dict.fromkeys(verdicts))  # a gate that is declared twice is asked once


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


def _better(
    gates: PromotionSettings, candidate: Judged, references: Mapping[str, Judged], champion: Judged | None
) -> list[Verdict]:
    """The gates that ask whether the candidate is better than something, of which at least one has to be asked."""
    found = [_required(gates, metric, candidate, "base", references) for metric in gates.better_than_base]
    found += [_optional(gates, metric, candidate, "base", references) for metric in gates.better_where_measured]
    for name, metrics in gates.better_than.items():
        found += [_required(gates, metric, candidate, name, references) for metric in metrics]
    for name, metrics in gates.better_than_where_measured.items():
        found += [_optional(gates, metric, candidate, name, references) for metric in metrics]
    if any(each.result != "not asked" for each in found):
        why = "other gates say what is better"
        return found + [Verdict(f"{metric} better than base", "not asked", why) for metric in gates.better_otherwise]
    for metric in gates.better_otherwise:
        verdict = _optional(gates, metric, candidate, "base", references)
        found.append(verdict)
        if verdict.result != "not asked" and champion is not None:
            found.append(_against(gates, metric, candidate, champion, better=False))
    if found and all(each.result == "not asked" for each in found):
        raise _nothing_to_ask(gates, candidate, references["base"], found)
    return found


def _nothing_to_ask(gates: PromotionSettings, candidate: Judged, base: Judged, found: Sequence[Verdict]) -> InputError:
    names = [*gates.better_where_measured, *gates.better_otherwise]
    names += [metric for metrics in gates.better_than_where_measured.values() for metric in metrics]
    what = f"neither {candidate.name} nor {base.name} has any of {', '.join(dict.fromkeys(names))}"
    if not names:
        what = f"of {candidate.name} no gate can be asked ({found[0].gate}: {found[0].numbers})"
    do = "give the recipe a scorer or enable its leaderboard, or ask for a metric that it has"
    return InputError(f"{what}: nothing says what is better", do=do)


def _required(
    gates: PromotionSettings, metric: str, candidate: Judged, name: str, references: Mapping[str, Judged]
) -> Verdict:
    if candidate.model == name:
        return Verdict(f"{metric} better than {name}", "not asked", "it is that model")
    if METRICS[metric].against == name:
        return _above_half(gates, metric, candidate)
    if name not in references:
        do = "enable it in the recipe and run it, or take it out of the gates"
        raise InputError(f"{name} was not evaluated on the prompts of {candidate.name}", do=do)
    return _against(gates, metric, candidate, references[name], better=True)


def _optional(
    gates: PromotionSettings, metric: str, candidate: Judged, name: str, references: Mapping[str, Judged]
) -> Verdict:
    """As `_required`, but not asked where there is nothing to ask by."""
    gate, relative = f"{metric} better than {name}", METRICS[metric].against == name
    if candidate.model == name:
        return Verdict(gate, "not asked", "it is that model")
    if relative and metric not in candidate.figures:
        return Verdict(gate, "not asked", "it was not measured")
    if relative and (count := candidate.count(metric)) is not None and count < FEWEST:
        return Verdict(gate, "not asked", f"{count} prompts are too few to tell")
    if not relative and name not in references:
        return Verdict(gate, "not asked", f"there is no {name}")
    if not relative and not _measured(metric, candidate, references[name]):
        return Verdict(gate, "not asked", "neither was measured")
    return _required(gates, metric, candidate, name, references)


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
            yield _against(gates, metric, candidate, champion, better=False)


def _above_half(gates: PromotionSettings, metric: str, candidate: Judged) -> Verdict:
    """Whether a win rate against a model says that the candidate is better than it."""
    against = METRICS[metric].against
    gate, value, count = f"{metric} better than {against}", candidate.value(metric), candidate.count(metric)
    if count is not None and count < FEWEST:
        few = f"too few to tell: {count} prompts, and below {FEWEST} nothing is called a difference ({value:.4g})"
        return Verdict(gate, "failed", few)
    error = candidate.error(metric)
    if error == 0 and count is not None:  # all won or all lost, which does not show how far the next one may lie
        error = share_error(value, count)
    noise = (gates.noise if count is None else half_width(count, _probability(gates.noise))) * error
    numbers = f"{value:.4g} ± {error:.2g} against 0.5: difference {value - EVEN:+.4g}, noise {noise:.2g}"
    passed = value - EVEN > noise
    return Verdict(gate, "passed" if passed else "failed", numbers, f"{metric} against {against}" if passed else "")


def _against(gates: PromotionSettings, metric: str, candidate: Judged, other: Judged, *, better: bool) -> Verdict:
    """The candidate against another model: paired over the prompts where both have a figure for each, or else with the
    two as independent. On the same prompts the true error is smaller than that, so `noise` is then conservative.

    Too few prompts pass no gate: of them nothing is known, neither that the one is better nor that it is not worse.
    """
    gate = f"{metric} {f'better than {other.model}' if better else 'not worse than the champion'}"
    value, there = candidate.value(metric), other.value(metric)
    sign = 1 if METRICS[metric].better == "higher" else -1
    lower = "" if sign > 0 else " (lower is better)"
    values = paired(candidate.rows, other.rows, metric, (candidate.figures, other.figures))
    counts = [count for each in (candidate, other) if (count := each.count(metric)) is not None]
    counts += [len(values)] if values is not None else []
    if counts and min(counts) < FEWEST:
        kind = METRICS[metric].count
        few = f"too few to tell: {min(counts)} {kind}, and below {FEWEST} nothing is called a difference"
        return Verdict(gate, "failed", f"{few} ({value:.4g} against {there:.4g})")
    if values is not None:
        mean, error = mean_and_error(values)
        assert mean is not None and error is not None, "there are enough of them"
        low, high = interval(values, mean, error, _probability(gates.noise))
        least, most = sorted((sign * low, sign * high))
        # Differences that are all equal do not show how far the next one may lie.
        passed = (least > 0 and error > 0) if better else most >= 0
        numbers = (
            f"{value:.4g} against {there:.4g}, paired over {len(values)} {METRICS[metric].count}: "
            f"difference {mean:+.4g}, {low:+.4g} to {high:+.4g}{lower}"
        )
    else:
        width = half_width(min(counts), _probability(gates.noise)) if counts else gates.noise
        noise = width * math.hypot(candidate.error(metric), other.error(metric))
        difference = value - there
        passed = sign * difference > noise if better else sign * difference >= -noise
        numbers = (
            f"{value:.4g} ± {candidate.error(metric):.2g} against "
            f"{there:.4g} ± {other.error(metric):.2g}: difference {difference:+.4g}, noise {noise:.2g}{lower}"
        )
    evidence = f"{metric} against {other.model}{', paired' if values is not None else ''}" if better and passed else ""
    return Verdict(gate, "passed" if passed else "failed", numbers, evidence)


def evidence_of(verdicts: Sequence[Verdict]) -> str:
    """By what a candidate was found to be better, in words: for the record of the decision."""
    found = [each.evidence for each in verdicts if each.evidence]
    if found and all(each.split()[0] in LIKELIHOOD for each in found):
        found.append("the likelihood of demonstrations only: no response was judged")
    return "; ".join(found) or "none"


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
