"""The best of several models on validation prompts, by one rule for all choices."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

CRITERIA = ("reward_mean", "preference_accuracy", "demonstration_gap")


class Choice(NamedTuple):
    """The chosen model and the metric that decided."""

    place: int
    criterion: str
    value: float


def best_on_validation(figures: Sequence[Mapping[str, Any]]) -> Choice | None:
    """The best of several models by their metrics on validation prompts; on a tie the earlier, simpler one.

    The deciding metric is the first of these that every model has: the highest reward_mean; without a scorer, the
    highest preference_accuracy; without rejected responses, the demonstration_gap nearest to 0, where the policy's own
    samples are as likely as the demonstrations (as they are for pi = pi_E). None if the models share none of them.
    """
    for criterion in CRITERIA:
        values: list[Any] = [model.get(criterion) for model in figures]
        if not values or None in values:
            continue
        merits = [-abs(value) if criterion == "demonstration_gap" else value for value in values]
        best = merits.index(max(merits))
        return Choice(best, criterion, values[best])
    return None
