"""A model's responses against the control's, by the judge, in both orders."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from pydantic import Field

from juicer.evaluation.documents import Document
from juicer.evaluation.significance import win_rate_error
from juicer.judging.judges import Answer, Judge
from juicer.judging.question import Question, Verdict, response_digest, verdict_of
from juicer.judging.results import JudgedPair, Outcome, PairwiseRecord
from juicer.runtime.errors import InputError
from juicer.runtime.files import read_json, replace_text
from juicer.settings.pairwise import PairwiseSettings

FEWEST_FAILURES = 3
"""So many questions may fail whatever their share, so that one failure of few does not stop a stage."""


class Cached(Document):
    """An answer with a verdict, as a file of the cache."""

    answer: str
    tokens_in: int = Field(ge=0)
    tokens_out: int = Field(ge=0)


@dataclass(frozen=True)
class Pair:
    """One prompt with the responses of the model and of the control."""

    id: str
    """Of the prompt and its demonstration."""
    question: Question
    """The model's response stands first."""


def judge_pairs(
    judge: Judge,
    asked: Sequence[Pair],
    settings: PairwiseSettings,
    rubric: str,
    cache: Path,
    *,
    names: tuple[str, str],
    progress: Callable[[int], None] = lambda units: None,
    sleep: Callable[[float], None] = time.sleep,
) -> PairwiseRecord:
    """Ask the judge about all pairs, each in both orders.

    Answers with a verdict are kept in `cache` by what was asked, so that an interrupted run goes on where it stopped,
    and a question is paid for once. What remains without a verdict is counted, not guessed.

    Args:
        judge: whom to ask.
        asked: the prompts.
        settings: how often to ask again, and how many failures are too many.
        rubric: what makes a response better.
        cache: folder of answers.
        names: the model and the control.
        progress: called with the number of questions that have just been answered.
        sleep: waits so many seconds before questions are asked again.

    Raises:
        InputError: too many questions have no verdict; says how many, and the last reason.
    """
    different = [each for each in asked if each.question.first != each.question.second]
    questions = [turned for each in different for turned in (each.question, each.question.swapped())]
    verdicts, spent = _Spent.of(judge, questions, settings, rubric, cache, progress, sleep)
    failed = sum(verdict is None for verdict in verdicts)
    if failed > max(settings.failures * len(questions), FEWEST_FAILURES if len(questions) > FEWEST_FAILURES else 0):
        what = f"{failed} of {len(questions)} questions have no verdict: {spent.problem}"
        do = "mend the judge and run again, its other answers are kept; or raise pairwise.failures"
        raise InputError(what, where=judge.name, do=do)
    by_id = {
        each.id: _judged(each, _outcome(verdicts[2 * place], FIRST), _outcome(verdicts[2 * place + 1], SECOND))
        for place, each in enumerate(different)
    }
    pairs = [by_id.get(each.id, _judged(each, "tie", "tie")) for each in asked]
    values = [pair.value for pair in pairs if pair.value is not None]
    error = win_rate_error(values) if values else None
    both = [pair for pair in by_id.values() if pair.value is not None]
    decided = [verdict for verdict in verdicts if verdict in ("1", "2")]
    return PairwiseRecord(
        model=names[0],
        against=names[1],
        judge=judge.name,
        rubric=hashlib.sha256(rubric.encode()).hexdigest(),
        prompts=len(values),
        same=len(asked) - len(different),
        win_rate=_rounded(fmean(values) if values else None),
        win_rate_sem=_rounded(error),
        consistent=_rounded(fmean(pair.first == pair.second for pair in both) if both else None),
        first_place=_rounded(fmean(verdict == "1" for verdict in decided) if decided else None),
        questions=len(questions),
        failed=failed,
        asked_again=spent.again,
        tokens_in=spent.tokens_in,
        tokens_out=spent.tokens_out,
        price=round((spent.tokens_in * settings.price_in + spent.tokens_out * settings.price_out) / 1e6, 6),
        pairs=pairs,
    )


class _Spent:
    """What the questions took."""

    def __init__(self) -> None:
        self.again = self.tokens_in = self.tokens_out = 0
        self.problem = ""

    @staticmethod
    def of(
        judge: Judge,
        questions: Sequence[Question],
        settings: PairwiseSettings,
        rubric: str,
        cache: Path,
        progress: Callable[[int], None],
        sleep: Callable[[float], None],
    ) -> tuple[list[Verdict | None], "_Spent"]:
        """The verdict of each question; None where there is none after all retries."""
        spent, verdicts = _Spent(), list[Verdict | None]([None] * len(questions))
        identity = judge.identity
        files = [_file(cache, each, identity, rubric) for each in questions]
        for place, file in enumerate(files):
            if (kept := _kept(file)) is not None:
                verdicts[place] = verdict_of(kept.text)
                spent.add(kept)
        progress(sum(verdict is not None for verdict in verdicts))
        wait = 0.0
        for attempt in range(settings.retries + 1):
            left = [place for place, verdict in enumerate(verdicts) if verdict is None]
            if not left:
                break
            if attempt:
                spent.again += len(left)
                sleep(max(wait, judge.pause * 2 ** (attempt - 1)))
            wait = 0.0
            for number, answer in judge.ask([questions[place] for place in left], rubric):
                place, verdict = left[number], verdict_of(answer.text)
                spent.add(answer)
                wait = max(wait, answer.wait)
                if verdict is None:
                    spent.problem = answer.problem or f"no verdict in the answer {answer.text[-100:]!r}"
                    continue
                verdicts[place] = verdict
                _keep(files[place], answer)
                progress(1)
        return verdicts, spent

    def add(self, answer: Answer) -> None:
        """Count the tokens of an answer."""
        self.tokens_in += answer.tokens_in
        self.tokens_out += answer.tokens_out


def _file(cache: Path, question: Question, judge: str, rubric: str) -> Path:
    digest = question.digest(judge, rubric)
    return cache / digest[:2] / f"{digest}.json"


def _kept(file: Path) -> Answer | None:
    """An answer of the cache; None if it is not there or damaged, and will be asked for again."""
    if not file.is_file():
        return None
    try:
        found = Cached.parse(read_json(file), str(file))
    except InputError:
        return None
    return None if verdict_of(found.answer) is None else Answer(found.answer, "", found.tokens_in, found.tokens_out)


def _keep(file: Path, answer: Answer) -> None:
    values = Cached(answer=answer.text, tokens_in=answer.tokens_in, tokens_out=answer.tokens_out)
    replace_text(file, json.dumps(values.as_json(), ensure_ascii=False) + "\n")


FIRST: dict[Verdict, Outcome] = {"1": "win", "2": "loss", "tie": "tie"}
SECOND: dict[Verdict, Outcome] = {"1": "loss", "2": "win", "tie": "tie"}
"""What a verdict is for the model, when its response stood first, and second."""


def _judged(pair: Pair, first: Outcome | None, second: Outcome | None) -> JudgedPair:
    digests = (response_digest(each) for each in (pair.question.first, pair.question.second))
    return JudgedPair(id=pair.id, first=first, second=second, response=next(digests), other=next(digests))


def _outcome(verdict: Verdict | None, places: dict[Verdict, Outcome]) -> Outcome | None:
    return None if verdict is None else places[verdict]


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")
