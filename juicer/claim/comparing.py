"""From the evaluations of every seed to the figures of a claim."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import NamedTuple

from juicer.claim.intervals import Estimate, estimate, holm, over_units
from juicer.claim.measures import BY_KEY, MEASURES, SCORES, Measure, difference, values_of
from juicer.claim.results import Against, Chosen, Compared, Figure, Gain, Point
from juicer.evaluation.choice import best_on_validation
from juicer.evaluation.results import EvaluatedModel
from juicer.reporting.formatting import significant
from juicer.settings.choice import CRITERIA, Criterion

METHODS = ("irft", "rft")
CONTROL = "sft-matched"
ROUNDS: dict[Chosen, str] = {"best": "best round", "last": "last round"}


@dataclass(frozen=True)
class Entrants:
    """What is compared with what."""

    methods: tuple[str, ...]
    controls: tuple[str, ...]
    """All are compared with the first one."""
    declared: tuple[str, ...]
    """Those whose chosen round is compared with the control by the primary metrics; declared before any run."""


ENTRANTS = Entrants(METHODS, (CONTROL,), ("sft", *METHODS))
"""Those of `juicer claim`."""


@dataclass(frozen=True)
class Seed:
    """One finished run of a variant."""

    seed: int
    models: Mapping[str, EvaluatedModel]
    """By name, in the order of the recipe."""
    reference: str = CONTROL
    """Name of the model that all are compared with."""
    criteria: Sequence[Criterion] = CRITERIA
    """What rounds are chosen by, in this order."""

    @property
    def control(self) -> EvaluatedModel:
        """The model that all are compared with."""
        return self.models[self.reference]

    def rounds(self, method: str) -> list[EvaluatedModel]:
        """The models of a method, by round."""
        return sorted((each for each in self.models.values() if each.method == method), key=lambda each: each.round)

    def best(self, method: str) -> EvaluatedModel | None:
        """The method's best round on validation prompts; None where there is nothing to choose by."""
        rounds = self.rounds(method)
        merits = [each.validation.merits for each in rounds if each.validation is not None]
        choice = best_on_validation(merits, self.criteria) if len(merits) == len(rounds) else None
        return rounds[choice.place] if choice is not None else None


def primary(seeds: Sequence[Seed]) -> list[str]:
    """The metrics of the declared comparisons: the judge, or else the scorer, and preference accuracy."""
    scores = [key for key in SCORES if measured(BY_KEY[key], seeds)]
    return [*scores[:1], *(["accuracy"] if measured(BY_KEY["accuracy"], seeds) else [])]


def measured(measure: Measure, seeds: Sequence[Seed]) -> bool:
    """Whether every seed has the metric for its control."""
    return all(
        values_of(measure, each.control, each.control, each.seed) or measure.model(each.control) is not None
        for each in seeds
    )


def compare(
    variants: Mapping[str, Sequence[Seed]], primary: Sequence[str], entrants: Entrants = ENTRANTS
) -> list[Compared]:
    """Every model of every variant against the control of the same variant and seed, over the seeds that have it.

    Args:
        variants: the finished seeds of each, at least one.
        primary: the metrics of the declared comparisons.
        entrants: the methods and controls.
    """
    found = [each for name, seeds in variants.items() for each in _of_variant(name, seeds, primary, entrants)]
    declared = [figure for each in found for figure in each.figures if figure.declared]
    holding = dict(zip(map(id, declared), holm([1.0 if each.p is None else each.p for each in declared]), strict=True))

    def tested(figure: Figure) -> Figure:
        if id(figure) not in holding:
            return figure
        able = _detectable(figure, len(declared))
        return figure.model_copy(update={"holds": holding[id(figure)], "detectable": able})

    return [each.model_copy(update={"figures": list(map(tested, each.figures))}) for each in found]


def _detectable(figure: Figure, comparisons: int) -> float | None:
    """What a declared difference could have shown among so many that are tested together."""
    if figure.difference is None or figure.error is None or not figure.degrees:
        return None
    return _finite(Estimate(figure.difference, figure.error, figure.degrees, figure.over).detectable(comparisons))


def _of_variant(variant: str, seeds: Sequence[Seed], primary: Sequence[str], entrants: Entrants) -> list[Compared]:
    found = []
    for each in chosen_models(seeds, entrants):
        declared = each.method in entrants.declared and each.chosen != "last"
        figures = [
            figure
            for measure in MEASURES
            if (figure := _figure(measure, each.seeds, each.models, declared and measure.key in primary)) is not None
        ]
        rounds = [model.round for model in each.models]
        found.append(
            Compared(
                variant=variant, name=each.name, method=each.method, chosen=each.chosen, rounds=rounds, figures=figures
            )
        )
    return found


class Selected(NamedTuple):
    """The models of one row of the tables."""

    name: str
    method: str
    chosen: Chosen | None
    seeds: list[Seed]
    """Those that have the method."""
    models: list[EvaluatedModel]
    """One of each of these seeds."""


def chosen_models(seeds: Sequence[Seed], entrants: Entrants = ENTRANTS) -> list[Selected]:
    """The models that are compared, in the order of the tables."""
    found = []
    for name in ("base", "sft", *entrants.controls):
        having = [each for each in seeds if name in each.models]
        if having:
            found.append(Selected(name, name, None, having, [each.models[name] for each in having]))
    for method in entrants.methods:
        having = [each for each in seeds if each.rounds(method)]
        if not having:
            continue
        rounds = [each.rounds(method) for each in having]
        if max(map(len, rounds)) == 1:
            found.append(Selected(method, method, None, having, [each[0] for each in rounds]))
            continue
        best = [model for each in having if (model := each.best(method)) is not None]
        if len(best) == len(having):
            found.append(Selected(f"{method}, {ROUNDS['best']}", method, "best", having, best))
        # Without anything to choose by, the last round is what the comparison is about.
        last: Chosen | None = "last" if len(best) == len(having) else None
        found.append(Selected(f"{method}, {ROUNDS['last']}", method, last, having, [each[-1] for each in rounds]))
    return found


class Gap(NamedTuple):
    """Paired differences of two models of each seed."""

    estimate: Estimate
    by_seed: list[float]
    prompts: int | None
    """Prompts of a seed that have a value, at the fewest; None where a seed gives one number."""
    deviation: float | None
    """Standard deviation of the differences over prompts, averaged over the seeds; None without prompts."""


def gap_between(
    measure: Measure, seeds: Sequence[Seed], models: Sequence[EvaluatedModel], others: Sequence[EvaluatedModel]
) -> Gap | None:
    """A metric of one model of each seed less that of another; None where it was not measured in all of them."""
    own, other = (
        [values_of(measure, model, each.control, each.seed) for each, model in zip(seeds, side, strict=True)]
        for side in (models, others)
    )
    if None not in own and None not in other:
        paired = [difference(a or {}, b or {}) for a, b in zip(own, other, strict=True)]
        if not all(paired):
            return None
        spreads = [stdev(each.values()) for each in paired if len(each) > 1]
        deviation = math.sqrt(fmean(spread**2 for spread in spreads)) if spreads else None
        gaps = [fmean(each.values()) for each in paired]
        return Gap(estimate(paired), gaps, min(len(each or ()) for each in own), deviation)
    numbers, references = ([measure.model(model) for model in side] for side in (models, others))
    gaps = [a - b for a, b in zip(numbers, references, strict=True) if a is not None and b is not None]
    return Gap(over_units(gaps, "seeds"), gaps, None, None) if len(gaps) == len(seeds) else None


def _figure(measure: Measure, seeds: Sequence[Seed], models: Sequence[EvaluatedModel], declared: bool) -> Figure | None:
    """A metric of one model, over the seeds; None where it was not measured in all of them."""
    gap = gap_between(measure, seeds, models, [each.control for each in seeds])
    if gap is None:
        return None
    if gap.prompts is not None:
        own = [
            values_of(measure, model, each.control, each.seed) or {} for each, model in zip(seeds, models, strict=True)
        ]
        mean, by_seed = estimate(own), [fmean(each.values()) for each in own]
    else:
        by_seed = [value for model in models if (value := measure.model(model)) is not None]
        mean = over_units(by_seed, "seeds")
    itself = all(model is each.control for each, model in zip(seeds, models, strict=True))
    return Figure(
        metric=measure.key,
        over=gap.estimate.over,
        prompts=gap.prompts,
        mean=_rounded(mean.mean),
        half_width=_finite(mean.half_width),
        difference=None if itself else _rounded(gap.estimate.mean),
        difference_half_width=None if itself else _finite(gap.estimate.half_width),
        p=None if itself else float(f"{gap.estimate.p:.3g}"),
        error=None if itself else _finite(gap.estimate.error),
        degrees=None if itself else _rounded(gap.estimate.degrees),
        detectable=None if itself else _finite(gap.estimate.detectable()),
        deviation=None if itself else significant(gap.deviation),
        declared=declared,
        holds=None,
        by_seed=[_rounded(each) for each in by_seed],
        difference_by_seed=None if itself else [_rounded(each) for each in gap.by_seed],
    )


def gains(variants: Mapping[str, Sequence[Seed]], metrics: Sequence[str], entrants: Entrants) -> list[Gain]:
    """How the last round of each method with several rounds compares with its first round, and with its best one.

    Args:
        metrics: keys of `MEASURES`.
    """
    found = []
    for variant, seeds in variants.items():
        for method in entrants.methods:
            having = [each for each in seeds if len(each.rounds(method)) > 1]
            rounds = [each.rounds(method) for each in having]
            best = [model for each in having if (model := each.best(method)) is not None]
            compared: dict[Against, list[EvaluatedModel]] = {"first": [each[0] for each in rounds], "best": best}
            for against, others in compared.items():
                for metric in metrics if having and len(others) == len(having) else ():
                    gap = gap_between(BY_KEY[metric], having, [each[-1] for each in rounds], others)
                    if gap is not None:
                        found.append(
                            Gain(
                                variant=variant,
                                method=method,
                                against=against,
                                metric=metric,
                                difference=_rounded(gap.estimate.mean),
                                half_width=_finite(gap.estimate.half_width),
                                by_seed=[_rounded(each) for each in gap.by_seed],
                            )
                        )
    return found


def points(variants: Mapping[str, Sequence[Seed]], metrics: Sequence[str]) -> list[Point]:
    """Every round's mean over the seeds that have it, and the two reference lines."""
    found = []
    for variant, seeds in variants.items():
        for method in ("sft", CONTROL, *METHODS):
            numbers = sorted({model.round for each in seeds for model in each.rounds(method)})
            for number in numbers:
                at = [(each, model) for each in seeds for model in each.rounds(method) if model.round == number]
                for metric in metrics:
                    if (mean := _mean(BY_KEY[metric], at)) is not None:
                        found.append(
                            Point(
                                variant=variant,
                                method=method,
                                round=number,
                                metric=metric,
                                mean=_rounded(mean.mean),
                                half_width=_finite(mean.half_width),
                            )
                        )
    return found


def _mean(measure: Measure, at: Sequence[tuple[Seed, EvaluatedModel]]) -> Estimate | None:
    values = [values_of(measure, model, each.control, each.seed) for each, model in at]
    known = [each for each in values if each is not None]
    if len(known) == len(at):
        return estimate(known)
    numbers = [number for _, model in at if (number := measure.model(model)) is not None]
    return over_units(numbers, "seeds") if len(numbers) == len(at) else None


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _finite(value: float) -> float | None:
    return _rounded(value) if math.isfinite(value) else None
