"""Rows as files have them, converted by a reader."""

from typing import Any

from juicer.data.demonstrations import Demonstration
from juicer.settings.sources import ReadingSettings
from juicer.sources.files import Row
from juicer.sources.formats import LeftOut, Reader

Values = dict[str, Any]


def reader(**settings: Any) -> Reader:
    """A reader with settings as a recipe has them."""
    return Reader(ReadingSettings.parse(settings, "recipe: fetch"))


def converted(*rows: Values, **settings: Any) -> list[Demonstration | LeftOut]:
    """What becomes of the rows of one file, rows.jsonl."""
    return [*reader(**settings).convert(placed(*rows))]


def placed(*rows: Values, held_out: bool = False) -> list[Row]:
    """Rows with their places."""
    return [Row(values, f"rows.jsonl:{number}", held_out) for number, values in enumerate(rows, 1)]


def demonstration(values: Values, **settings: Any) -> Demonstration:
    """The one demonstration of a row."""
    (made,) = converted(values, **settings)
    assert isinstance(made, Demonstration), made
    return made


def left_out(values: Values, **settings: Any) -> LeftOut:
    """Why a row is left out."""
    (made,) = converted(values, **settings)
    assert isinstance(made, LeftOut), made
    return made


def said(turns: Any) -> list[tuple[str, str]]:
    """Role and content of each turn."""
    return [(turn["role"], turn["content"]) for turn in turns]


def user(content: Any, **more: Any) -> Values:
    """A turn of the user."""
    return {"role": "user", "content": content, **more}


def assistant(content: Any, **more: Any) -> Values:
    """A turn of the assistant."""
    return {"role": "assistant", "content": content, **more}
