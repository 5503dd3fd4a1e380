"""How often one model's response was preferred, and how far voters and judge agree."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

from juicer.evaluation.documents import Document
from juicer.evaluation.significance import interval, win_rate_error
from juicer.voting.ballot import Ballot
from juicer.voting.votes import Vote, counted, outdated

VALUES = {"first": 1.0, "tie": 0.5, "second": 0.0}
"""What a vote counts for the first model."""


class Agreement(Document):
    """How often two opinions about the same prompt are the same."""

    prompts: int
    """Number of comparisons: prompts that both have an opinion on, for each pair of voters."""
    share: float
    """Share of them in which both say the same."""


class Tally(Document):
    """The votes on two models."""

    first: str
    second: str
    votes: int
    """Votes that count."""
    prompts: int
    """Prompts with at least one."""
    voters: int
    outdated: int
    """Votes on responses that the models no longer give; they do not count."""
    same: int
    """Prompts to which both models gave the same response; nobody is asked about them."""
    win_rate: float | None
    """Share of the prompts on which the first model was preferred, ties half: of a prompt with several votes their
    mean. Without the prompts whose responses are the same. None without votes."""
    low: float | None
    """Ends of its 95% interval (`juicer.evaluation.significance`); None below two prompts."""
    high: float | None
    error: float | None
    """Its standard error, over prompts."""
    between_voters: Agreement | None
    """None where no prompt has votes of two people."""
    with_judge: Agreement | None
    """Between votes and the judge's scores, ties of either left out; None without a judge."""


@dataclass(frozen=True)
class Judged:
    """The scores of a judge for the responses of both models, by the prompt's id."""

    first: Mapping[str, float]
    second: Mapping[str, float]


def tally(ballot: Ballot, votes: Sequence[Vote], judged: Judged | None = None) -> Tally:
    """Count the votes on a ballot."""
    valid = counted(votes, ballot.asked)
    by_prompt = defaultdict[str, list[Vote]](list)
    for vote in valid:
        by_prompt[vote.id].append(vote)
    values = [fmean(VALUES[vote.choice] for vote in each) for each in by_prompt.values()]
    mean = fmean(values) if values else None
    error = low = high = None
    if mean is not None and len(values) > 1:
        error = win_rate_error(values)
        low, high = (min(1.0, max(0.0, end)) for end in interval(values, mean, error))
    return Tally(
        first=ballot.first,
        second=ballot.second,
        votes=len(valid),
        prompts=len(by_prompt),
        voters=len({vote.voter for vote in valid}),
        outdated=outdated(votes, ballot.questions),
        same=ballot.same,
        win_rate=mean,
        low=low,
        high=high,
        error=error,
        between_voters=_between(by_prompt.values()),
        with_judge=None if judged is None else _with(judged, valid),
    )


def _between(by_prompt: Iterable[list[Vote]]) -> Agreement | None:
    pairs = [one.choice == other.choice for votes in by_prompt for one, other in combinations(votes, 2)]
    return Agreement(prompts=len(pairs), share=sum(pairs) / len(pairs)) if pairs else None


def _with(judged: Judged, votes: Sequence[Vote]) -> Agreement | None:
    same = []
    for vote in votes:
        first, second = judged.first.get(vote.id), judged.second.get(vote.id)
        if vote.choice == "tie" or first is None or second is None or first == second:
            continue
        same.append((first > second) == (vote.choice == "first"))
    return Agreement(prompts=len(same), share=sum(same) / len(same)) if same else None
