"""Settings of the comparison over seeds (`juicer claim`)."""

import re
from typing import Annotated

from pydantic import Field, field_validator

from juicer.settings.base import Settings
from juicer.settings.bounds import Seed, shortened

NAME = re.compile(r"(?!cache$)[a-z0-9][a-z0-9-]{0,59}")
"""A folder beside that of the cache."""
OWN = ("seed", "name", "claim", "methods", "extends", "graph")
"""Keys that a variant cannot change: `juicer claim` sets the seed, and the others name the recipe itself."""


def check_seeds(seeds: list[int]) -> list[int]:
    """Refuse a seed that is given twice."""
    twice = next((seed for place, seed in enumerate(seeds) if seed in seeds[:place]), None)
    if twice is not None:
        raise ValueError(f"seed {twice} is given twice")
    return seeds


def fixed(overrides: list[str]) -> str | None:
    """The first override of what only the command decides; None if there is none."""
    return next((word for word in overrides if re.split(r"[.=]", word)[0] in OWN), None)


def check_variants(variants: dict[str, list[str]]) -> dict[str, list[str]]:
    """Refuse a name that is no folder's, and a variant of what only the command decides."""
    for name, overrides in variants.items():
        if not NAME.fullmatch(name):
            what = f"variant {shortened(name)} is not a name of lower-case letters, digits and hyphens, or is cache"
            raise ValueError(what)
        if own := fixed(overrides):
            raise ValueError(f"variant {name!r} sets {shortened(own)}, which no variant can change")
    return variants


class ClaimSettings(Settings):
    """What `juicer claim` repeats, to compare each method with SFT of the same effort. No stage depends on it."""

    seeds: list[Annotated[Seed, Field(ge=0)]] = Field([0, 1, 2, 3, 4], min_length=1, max_length=1000)
    """Seeds to repeat the recipe with."""
    variants: dict[str, list[str]] = Field({"default": []}, min_length=1, max_length=100)
    """Changes of the recipe that are compared too: `key=value` overrides by the variant's name, a folder's name."""

    _seeds = field_validator("seeds")(check_seeds)
    _variants = field_validator("variants")(check_variants)
