"""What is voted on: the held-out prompts, each with the responses of two models."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from juicer.data import demonstrations
from juicer.data.demonstrations import Demonstration, Message
from juicer.evaluation.results import EvaluatedModel
from juicer.judging.question import response_digest
from juicer.runtime.errors import InputError

Place = Literal["first", "second"]


@dataclass(frozen=True)
class Response:
    """A model's response to a prompt."""

    text: str
    ended: bool
    """Whether it ended before the length limit."""

    @property
    def digest(self) -> str:
        """What a vote was about."""
        return response_digest(self.text)


@dataclass(frozen=True)
class Question:
    """One prompt with the responses of both models."""

    id: str
    """Of the prompt and its demonstration."""
    prompt: list[Message]
    demonstration: str
    first: Response
    second: Response

    @property
    def is_same(self) -> bool:
        """Whether both models gave the same response, which nobody has to be asked about."""
        return self.first.text == self.second.text


@dataclass(frozen=True)
class Ballot:
    """Two models and the prompts that both have answered, in the order of the evaluation."""

    first: str
    """Name of the one model, for example irft-r3; the names are in alphabetical order."""
    second: str
    questions: tuple[Question, ...]

    @property
    def asked(self) -> list[Question]:
        """The questions whose responses differ."""
        return [each for each in self.questions if not each.is_same]

    @property
    def same(self) -> int:
        """Number of prompts with the same response of both."""
        return len(self.questions) - len(self.asked)


def ballot(one: EvaluatedModel, other: EvaluatedModel, held_out: Path) -> Ballot:
    """The ballot of two models.

    Args:
        one: a model's evaluation.
        other: that of another one.
        held_out: the file of held-out prompts that both were evaluated on.

    Raises:
        InputError: an evaluation has no responses, or the two have no prompt in common.
    """
    first, second = sorted((one, other), key=lambda each: each.name)
    if first.name == second.name:
        raise InputError(f"{first.name} is compared with itself", do="name two models")
    answers = [_responses(each) for each in (first, second)]
    rows = {row.id: row for row in demonstrations.read(held_out)}
    shared = [each for each in answers[0] if each in answers[1] and each in rows]
    if not shared:
        what = f"{first.name} and {second.name} have no held-out prompt in common"
        raise InputError(what, where=str(held_out), do="evaluate both with the same recipe: dvc repro")
    questions = (_question(rows[each], answers[0][each], answers[1][each]) for each in shared)
    return Ballot(first.name, second.name, tuple(questions))


def _responses(model: EvaluatedModel) -> dict[str, Response]:
    rows = model.held_out_rows
    if rows is None or not rows.response:
        what = f"the evaluation of {model.name} has no responses"
        raise InputError(what, do=f"evaluate it again: dvc repro evaluate@{model.name}")
    texts = zip(rows.id, rows.response, rows.ended, strict=True)
    return {each: Response(text, ended) for each, text, ended in texts}


def _question(row: Demonstration, first: Response, second: Response) -> Question:
    return Question(row.id, row.prompt, row.response, first, second)


def order(questions: Sequence[Question], voter: str, seed: int = 0) -> list[Question]:
    """The questions in the order in which a voter gets them: another one for each, and the same again after a break."""
    mixed = sorted(questions, key=lambda each: each.id)
    random.Random(f"{seed}/{voter}").shuffle(mixed)
    return mixed


def on_the_left(question: Question, voter: str, seed: int = 0) -> Place:
    """Which model's response a voter sees on the left."""
    drawn = hashlib.sha256(f"{seed}/{voter}/{question.id}".encode()).digest()[0]
    return "first" if drawn % 2 else "second"
