"""The schema of a demonstration, and how it is read and written as JSON lines.

Every stage after `fetch` reads only this schema; `juicer.sources.formats` converts the rows of a source into it.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import to_json
from typing_extensions import TypedDict  # pydantic does not accept typing.TypedDict before Python 3.12

from juicer.runtime.errors import InputError


class Message(TypedDict):
    """One turn of a dialogue."""

    role: Literal["system", "user", "assistant"]
    content: str


class Demonstration(BaseModel):
    """A prompt x and the human ("expert") response y to it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    """First 16 hex digits of the SHA-256 of prompt and response."""
    prompt: list[Message]
    """The dialogue up to the response; its last turn is the user's."""
    response: str
    """The response, without template or end-of-text."""
    rejected: str | None = None
    """A worse response to the same prompt. It is never trained on; the preference metrics read it."""
    held_out: bool = False
    """Whether the source itself holds this row out from training."""
    score: float | None = None
    """The scorer's value of the response; None before curation and if nothing is scored."""
    dialogue: str | None = None
    """SHA-256 of the dialogue's opening, its turns up to and including the first user turn, which decides the split
    where several rows come from one dialogue; None: the prompt's."""

    @staticmethod
    def make(
        prompt: list[Message],
        response: str,
        *,
        rejected: str | None = None,
        held_out: bool = False,
        dialogue: str | None = None,
    ) -> "Demonstration":
        """A demonstration, with the id computed from prompt and response.

        Raises:
            ValueError: a text has an unpaired surrogate.
        """
        text = b"[" + _json_of(prompt) + b", " + to_json(response) + b"]"
        return Demonstration(
            id=hashlib.sha256(text).hexdigest()[:16],
            prompt=prompt,
            response=response,
            rejected=rejected,
            held_out=held_out,
            dialogue=dialogue,
        )

    def prompt_hash(self) -> str:
        """SHA-256 (hexadecimal) of the prompt alone, as `hash_of`."""
        return hash_of(self.prompt)

    def split_hash(self) -> str:
        """The hash that decides the split that a row belongs to: its dialogue's, or else its prompt's."""
        return self.dialogue or self.prompt_hash()

    def line(self) -> bytes:
        """The row as a line of a JSON-lines file, with keys in the order of the schema; without `dialogue` if None."""
        # What `model_dump_json` writes, in half the time.
        values = dict(self.__dict__)
        if self.dialogue is None:
            del values["dialogue"]
        return to_json(values) + b"\n"


def hash_of(turns: Sequence[Message]) -> str:
    """SHA-256 (hexadecimal) of some turns; those that differ only in the white space around a content have the same."""
    stripped: list[Message] = [{"role": turn["role"], "content": turn["content"].strip()} for turn in turns]
    return hashlib.sha256(_json_of(stripped)).hexdigest()


def _json_of(turns: Sequence[Message]) -> bytes:
    """What `json.dumps(turns, ensure_ascii=False, sort_keys=True)` writes, which ids are made from, in a third of the
    time."""
    each = [b'{"content": %b, "role": "%b"}' % (to_json(turn["content"]), turn["role"].encode()) for turn in turns]
    return b"[" + b", ".join(each) + b"]"


def opening_hash(turns: Sequence[Message]) -> str:
    """`hash_of` a dialogue's opening: its turns up to and including the first user turn."""
    first = next((place for place, turn in enumerate(turns) if turn["role"] == "user"), len(turns) - 1)
    return hash_of(turns[: first + 1])


def read(path: Path) -> Iterator[Demonstration]:
    """Stream the demonstrations of a JSON-lines file.

    Raises:
        InputError: the file does not exist, or a line violates the schema; gives its number.
    """
    if not path.is_file():
        raise InputError("no such file", where=str(path), do="run the stage that makes it: dvc repro")
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield Demonstration.model_validate_json(line)
            except ValidationError as error:
                problem = error.errors(include_url=False)[0]
                key = ".".join(str(part) for part in problem["loc"])
                raise InputError(f"{key}: {problem['msg']}", where=f"{path}:{number}") from error


def write(path: Path, rows: Iterable[Demonstration]) -> int:
    """Write rows as JSON lines; returns the number of rows."""
    count = 0
    with path.open("wb") as file:
        for row in rows:
            file.write(row.line())
            count += 1
    return count
