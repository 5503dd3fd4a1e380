"""The best of several models on validation prompts, by one rule for all choices."""

from collections.abc import Sequence
from typing import NamedTuple, get_args

from juicer.evaluation.results import Criterion, Merits

CRITERIA: tuple[Criterion, ...] = get_args(Criterion)


class Choice(NamedTuple):
    """The chosen model and the metric that decided."""

    place: int
    """Index into the models compared."""
    criterion: Criterion
    value: float


def best_on_validation(merits: Sequence[Merits]) -> Choice | None:
    """The best of several models by their metrics on validation prompts; on a tie the earlier, simpler one.

    The deciding metric is the first of these that every model has: the highest reward_mean; without a scorer, the
    highest preference_accuracy; without rejected responses, the demonstration_gap nearest to 0, where the policy's own
    samples are as likely as the demonstrations (as they are for pi = pi_E). None if the models share none of them.
    """
    for criterion in CRITERIA:
        values: list[float | None] = [getattr(model, criterion) for model in merits]
        known = [value for value in values if value is not None]
        if not known or len(known) < len(values):
            continue
        ranked = [-abs(value) if criterion == "demonstration_gap" else value for value in known]
        best = ranked.index(max(ranked))
        return Choice(best, criterion, known[best])
    return None
