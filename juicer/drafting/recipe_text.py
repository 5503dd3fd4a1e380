"""The text of a recipe with comments, from choices with reasons."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from juicer.drafting.choices import Choices, Chosen
from juicer.recipe.describe import keys
from juicer.recipe.schema import Recipe

COLUMN = 38
"""Where comments start."""
_PLAIN = re.compile(r"[A-Za-z./_][\w./+-]*(?: [\w./+()-]+)*")
_SPECIAL = re.compile(r"(?i)null|true|false|yes|no|on|off|y|n|\.nan|[-+]?\.inf|~|[\d._+-]+(e[-+]?\d+)?")
Tree = dict[str, "Chosen | Tree"]


def recipe_text(choices: Choices, head: str) -> str:
    """The recipe as YAML.

    Args:
        head: lines for the top, without their marks.
    """
    tree: Tree = {}
    for key, chosen in ordered(choices):
        *sections, last = key.split(".")
        inner = tree
        for section in sections:
            inner = inner.setdefault(section, {})  # type: ignore[assignment]
        inner[last] = chosen
    lines = [f"# {line}".rstrip() for line in head.splitlines()]
    for name, value in tree.items():
        if not isinstance(value, Chosen):
            lines.append("")
        lines += _lines(name, value, 0)
    return "\n".join(lines) + "\n"


def ordered(choices: Choices) -> list[tuple[str, Chosen]]:
    """The choices in the order in which the schema of recipes has their keys."""
    places = {key: place for place, key in enumerate(keys(Recipe))}
    places["fetch.source"] = places["fetch"]
    return sorted(choices.values.items(), key=lambda item: places[item[0]])


def _lines(name: str, value: "Chosen | Tree", depth: int) -> Iterator[str]:
    indent = "  " * depth
    if isinstance(value, Chosen):
        line = f"{indent}{name}: {flow(value.value)}"
        yield f"{line.ljust(COLUMN)}{'' if len(line) < COLUMN else '  '}# {value.why}" if value.why else line
        return
    yield f"{indent}{name}:"
    for key, inner in value.items():
        yield from _lines(key, inner, depth + 1)


def flow(value: Any) -> str:
    """A value on one line of YAML."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{flow(key)}: {flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, str):
        return (
            value
            if _PLAIN.fullmatch(value) and not _SPECIAL.fullmatch(value)
            else json.dumps(value, ensure_ascii=False)
        )
    return json.dumps(value)


def _number(value: float) -> str:
    """As the recipes write it: 2e-4 and 0.05."""
    if value and abs(value) < 1e-2:
        digits, _, exponent = f"{value:.6e}".partition("e")
        return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"
    return repr(value)
