"""From the evaluations of every seed to the figures of a claim."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from juicer.claim.intervals import Estimate, estimate, holm, over_units
from juicer.claim.measures import BY_KEY, MEASURES, SCORES, Measure, difference, values_of
from juicer.claim.results import Chosen, Compared, Figure, Point
from juicer.evaluation.choice import best_on_validation
from juicer.evaluation.results import EvaluatedModel
from juicer.reporting.formatting import significant

METHODS = ("irft", "rft")
CONTROL = "sft-matched"
ROUNDS: dict[Chosen, str] = {"best": "best round", "last": "last round"}
DECLARED = ("sft", *METHODS)
"""Methods whose chosen round is compared with the control by the primary metrics; declared before any run."""


@dataclass(frozen=True)
class Seed:
    """One finished run of a variant."""

    seed: int
    models: Mapping[str, EvaluatedModel]
    """By name, in the order of the recipe."""

    @property
    def control(self) -> EvaluatedModel:
        """The model that all are compared with."""
        return self.models[CONTROL]

    def rounds(self, method: str) -> list[EvaluatedModel]:
        """The models of a method, by round."""
        return sorted((each for each in self.models.values() if each.method == method), key=lambda each: each.round)

    def best(self, method: str) -> EvaluatedModel | None:
        """The method's best round on validation prompts; None where there is nothing to choose by."""
        rounds = self.rounds(method)
        merits = [each.validation.merits for each in rounds if each.validation is not None]
        choice = best_on_validation(merits) if len(merits) == len(rounds) else None
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


def compare(variants: Mapping[str, Sequence[Seed]], primary: Sequence[str]) -> list[Compared]:
    """Every model of every variant against the control of the same variant and seed.

    Args:
        variants: the finished seeds of each, at least one.
        primary: the metrics of the declared comparisons.
    """
    found = [each for name, seeds in variants.items() for each in _of_variant(name, seeds, primary)]
    declared = [figure for each in found for figure in each.figures if figure.declared]
    holding = dict(zip(map(id, declared), holm([1.0 if each.p is None else each.p for each in declared]), strict=True))
    return [
        each.model_copy(
            update={
                "figures": [
                    figure.model_copy(update={"holds": holding[id(figure)]}) if id(figure) in holding else figure
                    for figure in each.figures
                ]
            }
        )
        for each in found
    ]


def _of_variant(variant: str, seeds: Sequence[Seed], primary: Sequence[str]) -> list[Compared]:
    found = []
    for name, method, chosen, models in chosen_models(seeds):
        declared = method in DECLARED and chosen != "last"
        figures = [
            figure
            for measure in MEASURES
            if (figure := _figure(measure, seeds, models, declared and measure.key in primary)) is not None
        ]
        rounds = [each.round for each in models]
        found.append(Compared(variant=variant, name=name, method=method, chosen=chosen, rounds=rounds, figures=figures))
    return found


def chosen_models(seeds: Sequence[Seed]) -> list[tuple[str, str, Chosen | None, list[EvaluatedModel]]]:
    """Name, method, choice and the models of the seeds that are compared, in the order of the tables."""
    found: list[tuple[str, str, Chosen | None, list[EvaluatedModel]]] = []
    for name in ("base", "sft", CONTROL):
        if all(name in each.models for each in seeds):
            found.append((name, name, None, [each.models[name] for each in seeds]))
    for method in METHODS:
        rounds = [each.rounds(method) for each in seeds]
        if not all(rounds):
            continue
        if max(map(len, rounds)) == 1:
            found.append((method, method, None, [each[0] for each in rounds]))
            continue
        best = [model for each in seeds if (model := each.best(method)) is not None]
        if len(best) == len(seeds):
            found.append((f"{method}, {ROUNDS['best']}", method, "best", best))
        # Without anything to choose by, the last round is what the comparison is about.
        last: Chosen | None = "last" if len(best) == len(seeds) else None
        found.append((f"{method}, {ROUNDS['last']}", method, last, [each[-1] for each in rounds]))
    return found


def _figure(measure: Measure, seeds: Sequence[Seed], models: Sequence[EvaluatedModel], declared: bool) -> Figure | None:
    """A metric of one model, over the seeds; None where it was not measured in all of them."""
    pairs = list(zip(seeds, models, strict=True))
    own = [values_of(measure, model, each.control, each.seed) for each, model in pairs]
    control = [values_of(measure, each.control, each.control, each.seed) for each in seeds]
    known = [each for each in own if each is not None]
    others = [each for each in control if each is not None]
    deviation: float | None = None
    if len(known) == len(others) == len(seeds):
        mean, prompts = estimate(known), min(map(len, known))
        by_seed = [fmean(each.values()) for each in known]
        paired = [difference(a, b) for a, b in zip(known, others, strict=True)]
        if not all(paired):
            return None
        gap, gaps = estimate(paired), [fmean(each.values()) for each in paired]
        spreads = [stdev(each.values()) for each in paired if len(each) > 1]
        deviation = math.sqrt(fmean(spread**2 for spread in spreads)) if spreads else None
    else:
        numbers = [measure.model(model) for model in models]
        references = [measure.model(each.control) for each in seeds]
        by_seed = [each for each in numbers if each is not None]
        compared = [each for each in references if each is not None]
        if len(by_seed) < len(seeds) or len(compared) < len(seeds):
            return None
        gaps = [a - b for a, b in zip(by_seed, compared, strict=True)]
        mean, gap, prompts = over_units(by_seed, "seeds"), over_units(gaps, "seeds"), None
    itself = all(model is each.control for each, model in pairs)
    return Figure(
        metric=measure.key,
        over=gap.over,
        prompts=prompts,
        mean=_rounded(mean.mean),
        half_width=_finite(mean.half_width),
        difference=None if itself else _rounded(gap.mean),
        difference_half_width=None if itself else _finite(gap.half_width),
        p=None if itself else float(f"{gap.p:.3g}"),
        detectable=None if itself else _finite(gap.detectable),
        deviation=None if itself else significant(deviation),
        declared=declared,
        holds=None,
        by_seed=[_rounded(each) for each in by_seed],
        difference_by_seed=None if itself else [_rounded(each) for each in gaps],
    )


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
