"""A mixture of sources in given proportions, with as many rows as these allow and none of them twice."""

import hashlib
from collections.abc import Sequence


def shares(available: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Training rows to keep of each source: in proportion to its weight, all rows of the scarcest one.

    Args:
        available: training rows of each source.
        weights: positive numbers, of which only the proportions count.
    """
    scarcest = min(rows / weight for rows, weight in zip(available, weights, strict=True))
    return [min(rows, round(scarcest * weight)) for rows, weight in zip(available, weights, strict=True)]


def place_of(split_hash: str) -> int:
    """Where a row stands in the order in which rows are taken: rows of one dialogue together, all others by chance.

    Independent of the hash itself, by whose order `curate` cuts the splits: the first rows by that order are held out.
    """
    return int(hashlib.sha256(f"mixture {split_hash}".encode()).hexdigest()[:16], 16)


def threshold(places: Sequence[int], keep: int) -> int:
    """The place up to which rows are taken, so that at least `keep` are.

    Args:
        places: of the rows, as `place_of`. Adding other rows changes little.
    """
    return sorted(places)[keep - 1] if keep else -1
