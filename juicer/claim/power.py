"""How large a difference a claim could show, before it is run and after."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import stdev

from juicer.claim.comparing import CONTROL
from juicer.claim.measures import BY_KEY, SCORES, difference, values_of
from juicer.claim.results import Figure, Found
from juicer.evaluation.results import EvaluatedModel
from juicer.evaluation.significance import Difference
from juicer.reporting.formatting import shown
from juicer.runtime.errors import InputError

PROBABILITY = "with a probability of 80%"


def smallest(prompts: int, deviation: float) -> float:
    """The smallest true difference that one seed would show over its prompts, with a probability of 80%.

    Args:
        prompts: number of held-out prompts.
        deviation: standard deviation of the paired differences.
    """
    return Difference(0.0, deviation / math.sqrt(prompts), 0.0, 0.0, prompts).detectable if prompts else math.inf


def known_deviation(evaluations: Path) -> tuple[str, int, float] | None:
    """Judge or score, the number of prompts and the standard deviation of sft's paired differences, from another run.

    Args:
        evaluations: a folder of evaluations; None is returned where it has none of both.
    """
    try:
        control, sft = (EvaluatedModel.read(evaluations / f"{name}.json") for name in (CONTROL, "sft"))
    except InputError:
        return None
    for key in SCORES:
        own, other = (values_of(BY_KEY[key], model, control, 0) for model in (sft, control))
        if own and other and len(paired := difference(own, other)) > 1:
            return BY_KEY[key].title, len(paired), stdev(paired.values())
    return None


def before(prompts: int | None, known: tuple[str, int, float] | None) -> str:
    """What one seed could show, said before anything is run.

    Args:
        prompts: held-out prompts, at most; None if the recipe sets no limit.
        known: `known_deviation` of an earlier run.
    """
    if known is not None:
        title, count, deviation = known
        return (
            f"Power: with {count} held-out prompts, whose paired differences in {title} had a standard deviation of "
            f"{shown(deviation, 3)} in an earlier run, one seed shows {shown(smallest(count, deviation), 3)} or more "
            f"{PROBABILITY}, before a correction for several comparisons; further seeds also average the training runs."
        )
    count = prompts or 300
    given = f"{count} held-out prompts" if prompts else f"{count} held-out prompts, say,"
    return (
        f"Power: with {given}, one seed shows a difference of {shown(smallest(count, 1.0), 2)} standard deviations of "
        f"the prompts' paired differences or more, {PROBABILITY}; an earlier run would tell the standard deviation."
    )


def after(claim: Found) -> list[str]:
    """What the finished seeds could have shown, a sentence per variant and primary metric."""
    sentences = []
    for variant, seeds in claim.seeds.items():
        for key in claim.primary:
            figures = [
                found
                for each in claim.compared
                if each.variant == variant and (found := each.figure(key)) is not None and found.declared
            ]
            able = [each.detectable for each in figures if each.detectable is not None]
            if not able:
                units = _units(figures, len(seeds))
                sentences.append(
                    f"{variant}: {units} cannot tell how far {BY_KEY[key].title} varies, nor what they show."
                )
                continue
            low, high = shown(min(able), 3), shown(max(able), 3)
            between = f"{low}" if low == high else f"{low} to {high}"
            sentences.append(
                f"{variant}: {_units(figures, len(seeds))} could have shown a difference of {between} in "
                f"{BY_KEY[key].title} after the correction, {PROBABILITY}{_spread(figures)}."
            )
    return sentences


def _units(figures: Sequence[Figure], seeds: int) -> str:
    prompts = [each.prompts for each in figures if each.prompts is not None]
    counted = f"{seeds} seed{'s' if seeds != 1 else ''}"
    return f"{counted} with {min(prompts)} held-out prompts" if prompts else counted


def _spread(figures: Sequence[Figure]) -> str:
    known = [each.deviation for each in figures if each.deviation is not None]
    if not known:
        return ""
    low, high = shown(min(known), 3), shown(max(known), 3)
    return (
        f"; the prompts' paired differences have a standard deviation of {low if low == high else f'{low} to {high}'}"
    )
