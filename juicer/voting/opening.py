"""What `juicer compare` puts together: two evaluated models of the project, the voter, the file of votes."""

import getpass
from pathlib import Path

from juicer.evaluation.results import EvaluatedModel
from juicer.judging.results import PairwiseRecord
from juicer.reporting.contract import Summary
from juicer.runtime.errors import InputError, did_you_mean
from juicer.stages.git import git
from juicer.voting.ballot import ballot
from juicer.voting.evidence import judged
from juicer.voting.session import Session
from juicer.voting.tally import Tally, tally
from juicer.voting.votes import check_voter, file_of, read

EVALUATIONS, PAIRWISE = Path("evaluation/models"), Path("evaluation/pairwise")
HELD_OUT, SUMMARY = Path("data/curated/held_out.jsonl"), Path("metrics/summary.json")
PAGE = Path(__file__).with_name("templates") / "compare.html"


def models(one: str | None, other: str | None) -> tuple[EvaluatedModel, EvaluatedModel]:
    """The evaluations of two models.

    Args:
        one: a model's name, for example irft-r2; None takes the champion.
        other: that of another one; None takes the control that the report compares with.

    Raises:
        InputError: nothing has been evaluated, or no model has this name.
    """
    if one is None or other is None:
        summary = Summary.read(SUMMARY)
        one = one or summary.champion.name
        if other is None:
            other = summary.control if summary.control != one else "sft"
    return _evaluation(one), _evaluation(other)


def _evaluation(name: str) -> EvaluatedModel:
    known = sorted(path.stem for path in EVALUATIONS.glob("*.json"))
    if not known:
        raise InputError("no model has been evaluated yet", where=str(EVALUATIONS), do="run the recipe: juicer run")
    if name not in known:
        raise InputError(f"no model {name!r} has been evaluated", do=did_you_mean(name, known))
    return EvaluatedModel.read(EVALUATIONS / f"{name}.json")


def _record(one: EvaluatedModel, other: EvaluatedModel) -> PairwiseRecord | None:
    """What the pairwise judge said of the two; None where it was not asked."""
    files = (PAIRWISE / f"{each.name}.json" for each in (one, other))
    found = (PairwiseRecord.read(file) for file in files if file.is_file())
    return next((each for each in found if {each.model, each.against} == {one.name, other.name}), None)


def open_session(one: str | None, other: str | None, voter: str | None) -> Session:
    """A session on two models.

    Args:
        one: as in `models`.
        other: as in `models`.
        voter: the voter's name; None takes that of git, or else of the machine's user.

    Raises:
        InputError: see `models`, `juicer.voting.ballot.ballot` and `juicer.voting.votes.check_voter`; or all responses
            of the two are the same.
    """
    pair = models(one, other)
    found = ballot(*pair, HELD_OUT)
    if not found.asked:
        raise InputError(f"{found.first} and {found.second} give the same response to every prompt")
    judge = judged(found, *pair, _record(*pair))
    return Session(found, check_voter(voter or _name()), file_of(found.first, found.second), judge)


def counted(one: str | None, other: str | None) -> Tally:
    """The votes on two models so far."""
    pair = models(one, other)
    found = ballot(*pair, HELD_OUT)
    return tally(found, read(file_of(found.first, found.second)), judged(found, *pair, _record(*pair)))


def _name() -> str:
    try:
        if name := git("config", "user.name"):
            return name
    except InputError:
        pass
    return getpass.getuser()


def described(found: Tally) -> str:
    """The tally in a few lines, for a terminal."""
    if found.win_rate is None:
        lines = [f"{found.first} and {found.second}: no votes yet"]
    else:
        around = (
            "" if found.low is None or found.high is None else f" (95% interval {found.low:.0%} to {found.high:.0%})"
        )
        people = f"{found.voters} {'person' if found.voters == 1 else 'people'}"
        lines = [
            f"{found.first} wins {found.win_rate:.0%}{around} against {found.second}, ties half: "
            f"{found.votes} votes on {found.prompts} prompts by {people}"
        ]
    if found.between_voters is not None:
        share, count = found.between_voters.share, found.between_voters.prompts
        lines.append(f"voters agree in {share:.0%} of {count} comparisons")
    if found.with_judge is not None:
        lines.append(f"the judge agrees with {found.with_judge.share:.0%} of {found.with_judge.prompts} votes")
    if found.same:
        lines.append(f"{found.same} prompts have the same response of both and are not asked")
    if found.outdated:
        lines.append(f"{found.outdated} votes are on responses that have changed since; they are kept and not counted")
    return "\n".join(lines)
