"""The examples in docs/data.md are read as they say, and its tables name every format and every reason."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from juicer.data.demonstrations import Demonstration
from juicer.settings.sources import Format
from juicer.sources.formats import MEANT, UNUSABLE
from tests.converting import placed, reader

TEXT = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(
    r"^\| `(\{.*\})`[^|]*\| (?:`(.*?)`)? ?\| (?:`(.*?)`)? ?\| `(.*?)` → `(.*?)`(?:, worse `(.*?)`)? \|$", TEXT, re.M
)


def reasons(heading: str) -> set[str]:
    """The first column of the table below a heading."""
    lines = TEXT.split(f"**{heading}**")[1].strip().splitlines()
    table = [line for line in "\n".join(lines).split("\n\n")[1].splitlines()[2:] if line.startswith("|")]
    return {re.findall(r"`(\w+)`", line)[0] for line in table}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"{example[1] or example[2]}")
def test_an_example_is_read_as_the_documentation_says(example: tuple[str, ...]) -> None:
    row, name, write, prompt, response, worse = example
    settings: dict[str, Any] = yaml.safe_load(write) if write else {}
    source = reader(**settings)
    (made,) = source.convert(placed(json.loads(row)))
    assert isinstance(made, Demonstration)
    assert not name or source.format == name
    assert (made.prompt[-1]["content"], made.response) == (prompt.replace("\\n", "\n"), response)
    assert made.rejected == (worse or None)
    assert not source.unread


def test_every_format_has_an_example() -> None:
    assert {example[1] for example in EXAMPLES} - {""} == set(get_args(Format)) - {"auto"}


def test_every_reason_is_explained() -> None:
    assert reasons("Meant") == MEANT
    assert reasons("Unusable") == UNUSABLE
