"""Formats of rows: what other projects' rows look like, and how each becomes a `Demonstration`. One file per family.

A row with a missing key or a value of the wrong type is an error with the row's place. A row of the right types that
cannot be used (no assistant turn, two different prompts, ...) becomes a `Malformed`, which the caller counts and shows.

A new format is a module here with `read(row) -> Answered`, a name in `Format` and in `fetch.format`
(juicer/settings/data.py), and a line each in `recognise` and `_read`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Literal

from juicer.data.demonstrations import Demonstration
from juicer.runtime.errors import InputError
from juicer.settings.sources import ReadingSettings
from juicer.sources.files import Row, Unreadable
from juicer.sources.formats import comparison, messages, prompt_response
from juicer.sources.formats.rows import EXPLANATIONS, Answered, Malformed, MalformedError, Reason, keys_of

__all__ = ["EXPLANATIONS", "WORSE", "Format", "Malformed", "Reader", "Reason", "convert", "recognise"]

Format = Literal["hh", "messages", "prompt-response", "spin"]
KNOWN = "chosen (and rejected), real (and generated), messages, or prompt with response or completion"
WORSE: dict[Format, str] = {"hh": "rejected", "spin": "generated"}
"""The key under which a row of each format may have a worse response."""


def recognise(row: Row) -> Format:
    """The format of a row, by its keys.

    Raises:
        InputError: no known format has these keys.
    """
    keys = row.values.keys()
    if "chosen" in keys:
        return "hh"
    if "real" in keys:
        return "spin"
    if "messages" in keys:
        return "messages"
    if "prompt" in keys and ("response" in keys or "completion" in keys):
        return "prompt-response"
    what = f"unrecognised format: the row has the keys {keys_of(row)}"
    raise InputError(what, where=row.where, do=f"rename them to {KNOWN}")


def convert(
    row: Row, format_: Format, *, held_out: bool = False, first_exchange: bool = False
) -> Demonstration | Malformed:
    """Convert one row into the project's schema.

    Args:
        row: the raw row.
        format_: the result of `recognise`, or the recipe's `fetch.format`.
        held_out: whether the source keeps the row out of training.
        first_exchange: for `messages`, take the assistant's first turn and drop what follows.

    Raises:
        InputError: a key is missing or a value has the wrong type; names the row's place.
    """
    try:
        return _checked(_read(row, format_, first_exchange), held_out)
    except MalformedError as malformed:
        return Malformed(malformed.reason, row.where)


def _read(row: Row, format_: Format, first_exchange: bool) -> Answered:
    if format_ == "hh":
        return comparison.read(row, "chosen", WORSE[format_])
    if format_ == "spin":
        return comparison.read(row, "real", WORSE[format_])
    if format_ == "messages":
        return messages.read(row, first_exchange=first_exchange)
    return prompt_response.read(row)


def _checked(read: Answered, held_out: bool) -> Demonstration:
    prompt, response, rejected = read
    if not prompt or (prompt[-1]["role"] == "user" and not prompt[-1]["content"]):
        raise MalformedError("empty_prompt")
    if prompt[-1]["role"] != "user":
        raise MalformedError("prompt_not_from_user")
    if not response:
        raise MalformedError("empty_response")
    try:
        (rejected or "").encode()
        return Demonstration.make(prompt, response, rejected=rejected, held_out=held_out)
    except UnicodeEncodeError as error:
        raise MalformedError("invalid_text") from error


class Reader:
    """Converts the rows of one source, and counts what it did not read.

    Args:
        settings: how they are read.
    """

    def __init__(self, settings: ReadingSettings) -> None:
        self.settings = settings
        self.format: str | None = None
        """Format of the rows; None before the first."""
        self.rows = 0
        """Rows that were consumed."""
        self.unread: Counter[str] = Counter()
        """Keys with a value that no row's demonstration was made from, with the number of rows."""

    def convert(self, rows: Iterable[Row | Unreadable]) -> Iterator[Demonstration | Malformed]:
        """Demonstrations of one file's rows, in their order; several of a row with `exchange: all`.

        Raises:
            InputError: the format of the first row is not known, a column that is named does not exist, or a row has
                another format than the first; names the places.
        """
        first = self.settings.exchange == "first"
        for row in rows:
            self.rows += 1
            if isinstance(row, Unreadable):
                raise InputError(row.what, where=row.where)
            if self.format is None:
                self.format = recognise(row) if self.settings.format == "auto" else self.settings.format
            yield convert(row, self.format, held_out=row.held_out, first_exchange=first)  # type: ignore[arg-type]
