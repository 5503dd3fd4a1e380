"""A mixture keeps the proportions of its weights, and repeats no row."""

import pytest

from juicer.sources.mixture import shares, threshold


@pytest.mark.parametrize(
    ("available", "weights", "kept"),
    [
        ([100, 300], [1, 1], [100, 100]),
        ([100, 300], [1, 3], [100, 300]),
        ([100, 300], [1, 6], [50, 300]),
        ([100, 300, 50], [2, 2, 1], [100, 100, 50]),
        ([7], [0.25], [7]),
        ([0, 9], [1, 1], [0, 0]),
    ],
)
def test_the_scarcest_source_is_used_up_and_the_others_in_proportion(
    available: list[int], weights: list[float], kept: list[int]
) -> None:
    assert shares(available, weights) == kept


def test_the_threshold_keeps_the_smallest_places() -> None:
    places = [5, 3, 9, 1]
    assert [place for place in places if place <= threshold(places, 2)] == [3, 1]
    assert threshold(places, 0) < min(places)
    assert threshold(places, 4) == 9
