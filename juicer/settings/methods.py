"""Settings of the comparison of several methods from one SFT checkpoint (`juicer compare-methods`)."""

import re
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from juicer.settings.base import Settings
from juicer.settings.bounds import Seed, shortened
from juicer.settings.claim import NAME, check_seeds, check_variants, fixed

Overrides = list[str]
OWN = {"method": ("irft", "rft"), "control": ("sft_matched",)}
"""Sections that a method or a control may change: the stages of all others are what they have in common."""
TAKEN = ("base", "sft")
"""Names of models that every comparison has."""


class MethodsSettings(Settings):
    """What `juicer compare-methods` compares, at equal steps and tokens, from the same SFT. No stage depends on it."""

    seeds: list[Annotated[Seed, Field(ge=0)]] = Field([0, 1, 2, 3, 4], min_length=1, max_length=1000)
    """Seeds to repeat the comparison with."""
    variants: dict[str, Overrides] = Field({"default": []}, min_length=1, max_length=100)
    """Worlds in which the methods are compared: `key=value` overrides by the variant's name, a folder's name."""
    shared: Overrides = Field(default_factory=list, max_length=1000)
    """Overrides of all methods and controls, before those of a variant."""
    compared: dict[str, Overrides] = Field(min_length=1, max_length=100)
    """The methods: overrides of `irft` and `rft` by the method's name, a folder's name. After all overrides exactly one
    of `irft.rounds` and `rft.rounds` is above 0."""
    controls: dict[str, Overrides] = Field({"sft-matched": []}, min_length=1, max_length=100)
    """What the methods are compared with: overrides of `sft_matched` by name. All are compared with the first one. Each
    gets at least the steps and response tokens of the method that used most."""

    _seeds = field_validator("seeds")(check_seeds)
    _variants = field_validator("variants")(check_variants)

    @field_validator("shared")
    @classmethod
    def _shared(cls, words: Overrides) -> Overrides:
        if own := fixed(words):
            raise ValueError(f"it sets {shortened(own)}, which nothing in a comparison can change")
        return words

    @model_validator(mode="after")
    def _named(self) -> "MethodsSettings":
        for kind, named in (("method", self.compared), ("control", self.controls)):
            for name, words in named.items():
                if not NAME.fullmatch(name) or name in TAKEN:
                    what = "is not a name of lower-case letters, digits and hyphens, or is cache, base or sft"
                    raise ValueError(f"{kind} {shortened(name)} {what}")
                if re.search(r"-r\d+$", name):
                    raise ValueError(f"{kind} {name!r} has the name of a round: -rN at the end; choose another one")
                other = [word for word in words if "=" in word and re.split(r"[.=]", word)[0] not in OWN[kind]]
                if other:
                    why = f"but a {kind} changes only {' and '.join(OWN[kind])}"
                    do = "what all have in common belongs into a variant or into methods.shared"
                    raise ValueError(f"{kind} {name!r} sets {shortened(other[0])}, {why}; {do}")
        both = next((name for name in self.compared if name in self.controls), None)
        if both is not None:
            raise ValueError(f"{both!r} is both a method and a control")
        return self
