"""What a file of rows yields, and how large it may be."""

from dataclasses import dataclass
from typing import Any

LONGEST_ROW = 16 * 2**20
"""Longest row, in bytes. Parsed, a row takes up to twenty times its size."""
UNPACKED, RATIO = 32 * 2**20, 100
"""A compressed file may unpack to so many bytes, or to so many times what was read of it. Text packs 3 to 10 times."""
TOO_LONG = f"longer than {LONGEST_ROW // 2**20} MiB, the longest row that is read"


@dataclass(frozen=True, slots=True)
class Row:
    """One raw row: its values, and its place (`file:line`, or `file: row N` in formats without lines)."""

    values: dict[str, Any]
    where: str
    held_out: bool = False
    """Whether the source holds this row out: by the file's name, or by the name of the split that it stands in."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A place where a row should be and none can be read: invalid JSON, no object, a cell too many, ..."""

    what: str
    """What is wrong, as a clause."""
    where: str


def row_of(value: object, where: str, *, held_out: bool = False) -> Row | Unreadable:
    """The row that a value of a JSON file is."""
    if isinstance(value, dict):
        return Row(value, where, held_out)
    if isinstance(value, list) and value and all(_is_message(each) for each in value):
        return Row({"messages": value}, where, held_out)  # a dialogue without a key
    return Unreadable(f"a row must be a JSON object, not {type(value).__name__}", where)


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and ("role" in value or "from" in value)
