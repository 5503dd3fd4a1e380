"""Random texts of shell characters in every setting that is a text are refused in one line, or are harmless."""

import random
import shlex

import pytest

from dev.hostile.recipes import QUICKSTART
from juicer.recipe.activation import load
from juicer.recipe.describe import describe
from juicer.recipe.schema import Recipe
from juicer.runtime.errors import InputError

PIECES = [
    *(
        ";",
        "&&",
        "|",
        "`",
        "$(",
        ")",
        "${graph.base}",
        ">",
        "<",
        "\n",
        "\0",
        "\r",
        "\x1b[2J",
        "'",
        '"',
        "\\",
        "#",
        " ",
        "*",
        "?",
    ),
    *("~", "-", "--out", "../", "/", ":", "a", "models/sft", "touch pwned", "main", "\u2028", "é", "!", "%s", "{", "}"),
]
TEXTS = [line.partition(":")[0] for line in describe(Recipe) if line[0] not in " [" and ": text" in line]


@pytest.mark.parametrize("key", TEXTS)
def test_a_random_text_is_refused_in_one_line_or_harmless(key, tmp_path, monkeypatch):
    chance = random.Random(key)
    monkeypatch.chdir(tmp_path)
    for _ in range(20):
        text = "".join(chance.choices(PIECES, k=chance.randint(1, 6)))
        quoted = '"' + "".join(f"\\U{ord(character):08x}" for character in text) + '"'
        try:
            _, graph = load(QUICKSTART, [f"{key}={quoted}"])
        except InputError as error:
            assert str(error).isprintable()
        else:
            for value in strings(graph.model_dump(by_alias=True)):
                assert value.isprintable() and not value.startswith("-") and shlex.split(shlex.quote(value)) == [value]
    assert list(tmp_path.iterdir()) == []


def strings(values):
    if isinstance(values, dict):
        for key, value in values.items():
            yield key
            yield from strings(value)
    elif isinstance(values, str):
        yield values
