"""A mistyped name is answered with the most similar one, or with all of them."""

from juicer.runtime.errors import did_you_mean


def test_the_most_similar_name_is_suggested() -> None:
    assert did_you_mean("epoch", ["epochs", "batch_size"]) == "did you mean 'epochs'?"


def test_without_a_similar_name_all_names_are_listed_in_the_given_order() -> None:
    assert did_you_mean("xyz", ["epochs", "batch_size"]) == "choose from: epochs, batch_size"


def test_without_names_there_is_no_hint() -> None:
    assert did_you_mean("xyz", []) == ""
