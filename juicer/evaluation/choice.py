"""Which of several models is best on validation prompts: one rule, for every choice that is made there."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

CRITERIA = ("reward_mean", "preference_accuracy", "demonstration_gap")


class Choice(NamedTuple):
    """What was chosen, and by which figure."""

    place: int
    criterion: str
    value: float


def best_on_validation(figures: Sequence[Mapping[str, Any]]) -> Choice | None:
    """The best of several models by their figures on validation prompts; the earlier (simpler) one on a tie.

    The figure is the first of these that every model has: the highest reward_mean; without a scorer, the highest
    preference_accuracy; without rejected responses either, the demonstration_gap nearest to 0, where the policy's own
    samples are as likely as the demonstrations (as they are for pi = pi_E). None if there is no such figure.
    """
    for criterion in CRITERIA:
        values: list[Any] = [model.get(criterion) for model in figures]
        if not values or None in values:
            continue
        merits = [-abs(value) if criterion == "demonstration_gap" else value for value in values]
        best = merits.index(max(merits))
        return Choice(best, criterion, values[best])
    return None
