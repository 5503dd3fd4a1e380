"""What the votes on a model say in its row of the table, and so in the report, the registry and the gates."""

from pathlib import Path

from juicer.evaluation.results import Agreed, EvaluatedModel, Voted
from juicer.judging.results import PairwiseRecord
from juicer.reporting.formatting import significant
from juicer.voting.ballot import Ballot, ballot
from juicer.voting.tally import Agreement, Judged, tally
from juicer.voting.votes import file_of, read


def voted(
    model: EvaluatedModel, control: EvaluatedModel, held_out: Path, folder: Path, record: PairwiseRecord | None = None
) -> Voted | None:
    """The votes on a model's responses against the control's; None where nobody has voted on the two.

    Args:
        model: the evaluation of the model.
        control: that of the control.
        held_out: the held-out prompts that both were evaluated on.
        folder: the files of votes.
        record: what the pairwise judge said of the two.

    Raises:
        InputError: a line of the file is not a vote, or an evaluation has no responses.
    """
    first, second = sorted((model.name, control.name))
    votes = read(file_of(first, second, folder))
    if not votes:
        return None
    found = ballot(model, control, held_out)
    count = tally(found, votes, judged(found, model, control, record))
    rate = count.win_rate
    if rate is not None and found.first != model.name:
        rate = 1 - rate
    return Voted(
        against=control.name,
        votes=count.votes,
        prompts=count.prompts,
        voters=count.voters,
        outdated=count.outdated,
        win_rate=significant(rate),
        win_rate_sem=significant(count.error),
        agreement=_agreed(count.between_voters),
        with_judge=_agreed(count.with_judge),
    )


def judged(
    found: Ballot, one: EvaluatedModel, other: EvaluatedModel, record: PairwiseRecord | None = None
) -> Judged | None:
    """What a judge says of the prompts of a ballot; None where none was asked.

    The pairwise judge where it compared these responses of the two, because it was asked the same question; or else the
    scores of the recipe's judge.
    """
    if record is not None and {record.model, record.against} == {found.first, found.second}:
        turned = record.model != found.first
        about = {each.id: (each.first.digest, each.second.digest)[:: -1 if turned else 1] for each in found.questions}
        current = [pair for pair in record.pairs if (pair.response, pair.other) == about.get(pair.id)]
        mine = {pair.id: pair.value for pair in current if pair.value is not None}
        theirs = {each: 1 - value for each, value in mine.items()}
        return Judged(theirs, mine) if turned else Judged(mine, theirs)
    scores = {each.name: _scores(each) for each in (one, other)}
    first, second = scores[found.first], scores[found.second]
    return Judged(first, second) if first and second else None


def _scores(model: EvaluatedModel) -> dict[str, float]:
    if not model.held_out_judged or model.held_out_rows is None:
        return {}
    pairs = zip(model.held_out_rows.id, model.held_out_judged, strict=True)
    return {each: score for each, score in pairs if score is not None}


def _agreed(found: Agreement | None) -> Agreed | None:
    return None if found is None else Agreed(share=round(found.share, 6), of=found.prompts)
