"""Values of rows: what is empty, what is true, and keys for messages."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from juicer.settings.bounds import shortened
from juicer.sources.formats.reasons import LeftOutError

Values = Mapping[str, Any]
Slots = Mapping[str, str]
"""The keys of a row under which each part of a format stands, for example {"prompt": "instruction"}."""
_MESSAGES = re.compile(r"""\[\s*\{\s*["'](role|from|content)["']\s*:""")
WORDS = {
    **dict.fromkeys(("true", "t", "yes", "y"), True),
    **dict.fromkeys(("false", "f", "no", "n"), False),
}


def has_value(value: Any) -> bool:
    """Whether a value is none of null, NaN, "", [] and {}, also written as JSON, and not made of nulls alone."""
    if isinstance(value, dict):
        # An image that is missing is {"bytes": null, "path": null} in parquet.
        return not all(map(_is_null, value.values()))
    if isinstance(value, list):
        return any(has_value(each) if isinstance(each, dict) else not _is_null(each) for each in value)
    return not _is_null(value) and value not in ("", "[]", "{}", "null")


def _is_null(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def number(value: Any) -> float | None:
    """A number, which may be a text as in CSV; None of other values."""
    if isinstance(value, int | float):
        return value
    try:
        return float(value) if isinstance(value, str) else None
    except ValueError:
        return None


def truth(value: Any) -> bool | None:
    """What true, false, yes, no, 1, 0 and their texts say; None of other values."""
    if isinstance(value, str) and (said := WORDS.get(value.strip().lower())) is not None:
        return said
    given = number(value)
    return bool(given) if given in (0, 1) else None


def trained(value: Any) -> bool | None:
    """What a weight or a mark says about training; a negative weight is one of 0. None of other values."""
    given = number(value)
    return False if given is not None and given < 0 else truth(value)


def is_blank(text: str) -> bool:
    """Whether a text has nothing but white space."""
    return not text or text.isspace()


def required(values: Values, slots: Slots, slot: str) -> Any:
    """The value of a slot that a format cannot do without.

    Raises:
        LeftOutError: the row does not have it.
    """
    key = slots.get(slot)
    if key is None or key not in values:
        raise LeftOutError("missing", f"the row has no {(key or slot)!r}", part=slot)
    return values[key]


def text_of(values: Values, slots: Slots, slot: str) -> str:
    """The text of an optional slot, "" if the row does not have it.

    Raises:
        LeftOutError: the value is not text.
    """
    key = slots.get(slot)
    if key is None or key not in values:
        return ""
    value = values[key]
    if not isinstance(value, str):
        raise wrong_type(key, "text", value)
    return value


def wrong_type(key: str, expected: str, value: Any) -> LeftOutError:
    """The error for a value of the wrong type."""
    given = type(value).__name__ if isinstance(value, list | dict) else shortened(value)
    return LeftOutError("wrong_type", f"{shortened(key)} must be {expected}, not {given}")


def parsed(key: str, value: Any) -> list[Any]:
    """A list, which may be written as JSON, be one mapping, or a mapping of lists as `datasets` makes of a `Sequence`.

    Raises:
        LeftOutError: it is none of these, or the lists of a mapping have different lengths.
    """
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise LeftOutError("wrong_type", f"{shortened(key)} is text, but no valid JSON") from error
    if isinstance(value, dict):
        return _of_columns(key, value)
    if not isinstance(value, list):
        raise wrong_type(key, "a list of messages", value)
    return value


def _of_columns(key: str, value: dict[str, Any]) -> list[Any]:
    columns = {name: column for name, column in value.items() if column is not None}
    if not columns or not all(isinstance(column, list) for column in columns.values()):
        return [value]
    if len({len(column) for column in columns.values()}) > 1:
        raise LeftOutError("wrong_type", f"the lists of {shortened(key)} have different lengths")
    return [dict(zip(columns, items, strict=True)) for items in zip(*columns.values(), strict=True)]


def is_column(value: Any) -> bool:
    """Whether a value is a column of a table, as pandas writes JSON: a list of scalars, or {"0": ..., "1": ...}."""
    if isinstance(value, dict):
        return bool(value) and all(isinstance(name, str) and name.isdecimal() for name in value)
    return isinstance(value, list) and bool(value) and not any(isinstance(each, dict | list) for each in value)


def is_list_of_messages(text: str) -> bool:
    """Whether a text is a list of messages that was written into a cell of CSV, as JSON or as Python shows it."""
    return text[:1] == "[" and _MESSAGES.match(text) is not None


def joined(*texts: str) -> str:
    """Texts with a blank line between them, without those that are blank."""
    return "\n\n".join(text for text in texts if not is_blank(text))


def names_of(keys: Iterable[str]) -> str:
    """The keys of a row, for a message."""
    names = [name if len(name) <= 40 else f"{name[:37]}..." for name in sorted(map(str, keys))]
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "") or "nothing"
