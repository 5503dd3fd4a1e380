"""A dotted key finds a value in nested mappings; a missing one is an error that names it, or the default."""

import pytest

from juicer.runtime.mappings import value_at

VALUES = {"irft": {"training": {"beta": 0.1}, "rounds": 0}, "seed": None}


@pytest.mark.parametrize(("key", "expected"), [("irft.training.beta", 0.1), ("irft.rounds", 0), ("seed", None)])
def test_a_dotted_key_finds_the_value_that_it_names(key: str, expected: object) -> None:
    assert value_at(VALUES, key) == expected
    assert value_at(VALUES, key, "other") == expected


@pytest.mark.parametrize("key", ["sft", "irft.training.alpha", "irft.rounds.r1", "seed.x"])
def test_a_missing_value_is_the_default_or_an_error_with_the_whole_key(key: str) -> None:
    assert value_at(VALUES, key, {}) == {}
    with pytest.raises(KeyError, match=key):
        value_at(VALUES, key)
