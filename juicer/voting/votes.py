"""The votes: a file of JSON lines per pair of models, which only grows."""

import datetime
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from juicer.evaluation.documents import Document
from juicer.runtime.errors import InputError
from juicer.runtime.files import parse_json_line
from juicer.voting.ballot import Question

FOLDER = Path("votes")
"""Where the files are; small text, which git keeps and DVC records."""
Choice = Literal["first", "second", "tie", "skip"]
_VOTER = re.compile(r"[\w.@ +-]{1,60}")


class Vote(Document):
    """What one person said about one prompt."""

    id: str
    """Of the prompt and its demonstration."""
    choice: Choice
    """The better response: that of the first model, of the second, neither; or no answer."""
    voter: str
    time: str
    """When, in UTC."""
    left: Literal["first", "second"]
    """Whose response was shown on the left."""
    first: str
    """Digest of the first model's response (`Response.digest`), like the next."""
    second: str
    seconds: float | None = Field(None, ge=0)
    """How long the question was shown."""

    def is_about(self, question: Question) -> bool:
        """Whether the responses are still those that were voted on."""
        return (self.first, self.second) == (question.first.digest, question.second.digest)


def file_of(first: str, second: str, folder: Path = FOLDER) -> Path:
    """The file of a pair of models, whose names are in alphabetical order."""
    return folder / f"{first}--{second}.jsonl"


def check_voter(name: str) -> str:
    """The name of a voter, as it stands in the file.

    Raises:
        InputError: it is empty, longer than 60 characters, or has others than letters, digits, space and ``.@+-_``.
    """
    name = " ".join(name.split())
    if not _VOTER.fullmatch(name):
        what = f"{name!r} cannot be the name of a voter"
        raise InputError(what, where="--voter", do="use letters, digits, spaces and .@+-_, at most 60 of them")
    return name


def read(path: Path) -> list[Vote]:
    """All votes of a file, in the order in which they were given; none if there is no file.

    Raises:
        InputError: a line is not a vote; gives its number.
    """
    return list(_lines(path)) if path.is_file() else []


def _lines(path: Path) -> Iterator[Vote]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield Vote.parse(parse_json_line(line, f"{path}:{number}"), f"{path}:{number}")


def append(path: Path, vote: Vote) -> None:
    """Add a vote to the file and wait until the disk has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = vote.model_dump_json(exclude_unset=True).encode() + b"\n"
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        written = os.write(handle, line)
        if written != len(line):  # a full disk: what was written is no vote
            os.ftruncate(handle, os.fstat(handle).st_size - written)
            raise OSError(28, os.strerror(28), str(path))
        os.fsync(handle)
    finally:
        os.close(handle)


def now() -> str:
    """The time of a vote given now."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def counted(votes: Sequence[Vote], questions: Sequence[Question]) -> list[Vote]:
    """The votes that count: of each voter the last one on each prompt, without skipped prompts, and only those whose
    responses are still the same."""
    asked = {each.id: each for each in questions}
    last = {(vote.voter, vote.id): vote for vote in votes if vote.id in asked and vote.is_about(asked[vote.id])}
    return [vote for vote in last.values() if vote.choice != "skip"]


def outdated(votes: Sequence[Vote], questions: Sequence[Question]) -> int:
    """Number of votes that counted once, on responses that the models no longer give."""
    asked = {each.id: each for each in questions}
    last = {(vote.voter, vote.id, vote.first, vote.second): vote for vote in votes}
    given = [vote for vote in last.values() if vote.choice != "skip"]
    return sum(vote.id not in asked or not vote.is_about(asked[vote.id]) for vote in given)
