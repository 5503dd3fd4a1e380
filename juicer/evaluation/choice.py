"""The best of several models on validation prompts, by one rule for all choices."""

from collections.abc import Sequence
from typing import NamedTuple

from juicer.evaluation.results import Merits, Tie
from juicer.settings.choice import CRITERIA, Criterion


class Choice(NamedTuple):
    """The chosen model and the criterion that decided."""

    place: int
    """Index into the models compared."""
    criterion: Criterion
    """Where nothing separated the models, the first that they were compared by."""
    value: float
    ties: tuple[Tie, ...] = ()
    """The criteria that were asked and left several models with the best value, in order."""
    settled: bool = True
    """Whether a criterion left one model; otherwise the earliest of those that share every best value was taken."""


def best_on_validation(merits: Sequence[Merits], criteria: Sequence[Criterion] = CRITERIA) -> Choice | None:
    """The best of several models by their figures on validation prompts; None if they share none of the criteria.

    The criteria are asked in the declared order. One that any of the models still compared lacks is passed over. Models
    that share its best value, as stored (6 significant digits), go on to the next criterion. If there is none, the
    earliest of them is taken, which is the simplest.

    Higher is better, but for the demonstration_gap, of which the nearest to 0 is taken (where the policy's own samples
    are as likely as the demonstrations, as they are for pi = pi_E), and for the demonstration_nll.
    """
    left, ties = list(range(len(merits))), list[Tie]()
    for criterion in criteria:
        values = {place: getattr(merits[place], criterion) for place in left}
        if not values or None in values.values():
            continue
        ranks = {place: _rank(criterion, value) for place, value in values.items()}
        leaders = [place for place in left if ranks[place] == max(ranks.values())]
        if len(leaders) == 1:
            return Choice(leaders[0], criterion, values[leaders[0]], tuple(ties))
        ties.append(Tie(criterion=criterion, value=values[leaders[0]], best=len(leaders), compared=len(left)))
        left = leaders
    if not ties:
        return None
    first = ties[0].criterion
    return Choice(left[0], first, getattr(merits[left[0]], first), tuple(ties), settled=False)


def _rank(criterion: Criterion, value: float) -> float:
    """A number that is higher for a better value."""
    if criterion == "demonstration_gap":
        return -abs(value)
    return -value if criterion == "demonstration_nll" else value
