"""Descriptions of parameters come from the docstrings of the settings, so every setting needs one."""

from itertools import pairwise

import pytest

from juicer.recipe.describe import describe, keys, under
from juicer.recipe.schema import Recipe
from juicer.runtime.errors import InputError


def test_every_parameter_has_a_meaning() -> None:
    lines = list(describe(Recipe))
    undescribed = [key for key, meaning in pairwise(lines) if meaning.startswith("    ") and not meaning.strip()]
    assert undescribed == []


def test_a_section_shows_the_defaults_that_it_has_there() -> None:
    lines = list(describe(Recipe))
    assert 'irft.training.optimiser.name: adamw | rmsprop, default "rmsprop"' in lines
    assert 'sft.optimiser.name: adamw | rmsprop, default "adamw"' in lines
    assert "sft.optimiser.learning_rate: number > 0, required" in lines


def test_limits_and_choices_are_shown() -> None:
    lines = list(describe(Recipe))
    assert "world.good_share: number > 0 < 1, default 0.35" in lines
    assert "sft_matched.learning_rates: list of number > 0, required" in lines
    assert "register.model_name: text | null, default null" in lines


def test_a_section_or_one_parameter_can_be_asked_for() -> None:
    lines = list(under("irft.training", Recipe))
    assert lines[0].startswith("[irft.training] ")
    assert {line.split(".")[1] for line in lines if not line.startswith((" ", "["))} == {"training"}
    assert next(under("seed", Recipe)).startswith("seed: integer")
    with pytest.raises(InputError, match=r"no parameter .* 'irft.trainin' \(did you mean 'irft.training'\?\)"):
        list(under("irft.trainin", Recipe))


def test_every_line_of_a_parameter_has_its_key() -> None:
    described = {line.removeprefix("[").split(":")[0].split("]")[0] for line in describe(Recipe) if line[0] != " "}
    assert described == set(keys(Recipe))
