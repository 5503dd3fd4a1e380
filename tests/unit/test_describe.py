"""What --describe says comes from the settings, so the settings have to say something."""

from itertools import pairwise

from juicer.recipe.describe import describe
from juicer.recipe.schema import Recipe


def test_every_parameter_has_a_meaning() -> None:
    lines = list(describe(Recipe))
    silent = [key for key, meaning in pairwise(lines) if meaning.startswith("    ") and not meaning.strip()]
    assert silent == []


def test_a_section_shows_the_defaults_that_it_has_there() -> None:
    lines = list(describe(Recipe))
    assert 'irft.training.optimiser.name: adamw | rmsprop, default "rmsprop"' in lines
    assert 'sft.optimiser.name: adamw | rmsprop, default "adamw"' in lines
    assert "sft.optimiser.learning_rate: number > 0, needed" in lines


def test_limits_and_choices_are_shown() -> None:
    lines = list(describe(Recipe))
    assert "world.good_share: number > 0 < 1, default 0.35" in lines
    assert "sft_matched.learning_rates: list of number > 0, needed" in lines
    assert "register.model_name: text | null, default null" in lines
