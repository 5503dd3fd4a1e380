"""Explicit seeds: every random choice has a name, and its seed follows from the recipe's seed and that name."""

import hashlib


def derive(seed: int, *names: str) -> int:
    """A 31-bit seed for the purpose called `names`, for example `derive(0, "irft", "r1", "sampling")`."""
    text = "/".join([str(seed), *names])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
