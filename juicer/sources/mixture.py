"""A mixture of sources in given proportions, with as many rows as these allow and none of them twice."""

from collections.abc import Sequence


def shares(available: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Training rows to keep of each source: in proportion to its weight, all rows of the scarcest one.

    Args:
        available: training rows of each source.
        weights: positive numbers, of which only the proportions count.
    """
    scarcest = min(rows / weight for rows, weight in zip(available, weights, strict=True))
    return [min(rows, round(scarcest * weight)) for rows, weight in zip(available, weights, strict=True)]


def threshold(places: Sequence[int], keep: int) -> int:
    """The place up to which rows are kept, so that at least `keep` are.

    Args:
        places: a hash of each row's dialogue, by which rows are chosen: rows of one dialogue are kept or left together,
            and adding other rows changes little.
    """
    return sorted(places)[keep - 1] if keep else -1
