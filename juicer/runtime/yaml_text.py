"""YAML from people and forms: read within bounds, with errors of one line that name the place and never quote the text.

A few hundred bytes of aliases stand for gigabytes once something walks them, and a few thousand open brackets crash the
parser itself. So the events of the text are counted, aliases with all that they stand for, before a value is built.
"""

import re
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from juicer.runtime.errors import InputError

CHARACTERS = 8 * 2**20
"""Largest text. The dvc.lock of a run with a hundred rounds has 2 MB; recipes have a few kB."""
NODES = 500_000
"""Largest number of keys, values, lists and mappings, aliases counted with all that they stand for."""
DEPTH = 50
"""Deepest nesting. Recipes have 5 levels."""


def parse_yaml(text: str, where: str, *, lines: bool = True) -> Any:
    """The value of a YAML 1.2 text, as DVC reads it, so that 1e-4 is a number.

    Args:
        where: the file, or another place that the text comes from, for errors.
        lines: whether the errors add the line to `where`.

    Raises:
        InputError: the text is not YAML, is larger or deeper than the bounds of this module, or holds an integer that
            Python does not read; names the place.
    """

    def at(line: int) -> str:
        return f"{where}:{line}" if lines else where

    if len(text) > CHARACTERS:
        raise InputError(f"{len(text):,} characters, more than the {CHARACTERS:,} that are read", where=where)
    try:
        _check_size(text, at)
        return YAML(typ="safe").load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        # What follows is a quotation of the text.
        problem = re.split(r" with value| for the tag", str(error.problem))[0]
        raise InputError(f"invalid YAML: {problem}", where=at(line)) from error
    except (YAMLError, ValueError, TypeError, OverflowError, RecursionError) as error:
        position = getattr(error, "position", None)
        if isinstance(position, int):
            what = "invalid YAML: a control character, which YAML does not allow"
            raise InputError(what, where=at(text.count("\n", 0, position) + 1)) from error
        reason = " ".join(str(error).split(";")[0].split())[:120]
        raise InputError(f"invalid YAML: {reason or type(error).__name__}", where=where) from error


def _check_size(text: str, at: Any) -> None:
    """Raise InputError for a text whose values are too many or too deep, and for an alias to what contains it."""
    sizes: dict[str, int] = {}
    open_: list[tuple[str | None, int]] = []
    total = 0
    for event in YAML(typ="safe").parse(text):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, SequenceStartEvent | MappingStartEvent):
            open_.append((event.anchor, total))
            total += 1
            if len(open_) > DEPTH:
                raise InputError(f"nested more than {DEPTH} levels deep", where=at(line))
        elif isinstance(event, SequenceEndEvent | MappingEndEvent):
            anchor, before = open_.pop()
            if anchor is not None:
                sizes[anchor] = total - before
        elif isinstance(event, AliasEvent):
            total += _size_of(event, sizes, at(line))
        elif isinstance(event, ScalarEvent):
            total += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        if total > NODES:
            what = f"more than {NODES:,} values, aliases counted with all that they stand for"
            raise InputError(what, where=at(line), do="write the values out, without anchors and aliases")


def _size_of(alias: Event, sizes: dict[str, int], where: str) -> int:
    if alias.anchor not in sizes:  # type: ignore[attr-defined]
        what = "an alias without its anchor, or inside of what it stands for"
        raise InputError(what, where=where, do="write the value out")
    return sizes[alias.anchor]  # type: ignore[attr-defined]
