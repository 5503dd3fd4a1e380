"""Descriptions of parameters come from the docstrings of the settings, so every setting needs one."""

from itertools import pairwise

from juicer.recipe.describe import describe
from juicer.recipe.schema import Recipe


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
