"""results.json of a comparison of methods, as typed documents. The page and the figure are made from these alone."""

from typing import Literal

from juicer.claim.results import Compared, Found, Gain
from juicer.evaluation.documents import Document

EQUAL = 0.9
"""A method with less than this share of the control's response tokens is said to have had less."""
Outcome = Literal["better", "worse", "not shown to differ", "open"]
"""`open`: seeds are missing. Those that failed may be the worst ones, so the others alone do not decide."""


class Effort(Document):
    """What a method or control was trained for in a variant, over the seeds that have it."""

    variant: str
    method: str
    steps: list[int]
    """Optimiser steps since SFT of all its rounds, per seed."""
    response_tokens: list[int]
    """Response tokens trained on since SFT, per seed."""
    seconds: list[float | None]
    """Per seed, the wall-clock times of its own stages together; None where none is known."""
    steps_share: float | None
    """Its steps as a share of the first control's on the same seeds; None for a method that was not trained."""
    tokens_share: float | None
    """The same of its response tokens."""

    @property
    def is_less(self) -> bool:
        """Whether it was trained on clearly fewer response tokens than the control.

        Steps do not count here: one of IRFT has two responses for each demonstration, one of RLOO has a whole batch.
        """
        return self.tokens_share is not None and self.tokens_share < EQUAL


class Verdict(Document):
    """What a variant says about one method, or about a control that is not the first."""

    variant: str
    method: str
    name: str
    """Of the model that was compared: "irft, best round"."""
    metric: str
    """The first primary metric."""
    outcome: Outcome
    text: str


class MethodComparison(Found):
    """The whole of results.json."""

    shared: list[str]
    """Overrides of all methods and controls."""
    methods: dict[str, list[str]]
    """Overrides by the method's name."""
    controls: dict[str, list[str]]
    """Overrides by the control's name; all are compared with the first one."""
    missing: dict[str, dict[str, list[int]]]
    """Per variant and method or control, the seeds that were asked for and have not finished."""
    alone: dict[str, list[int]]
    """Per variant, the seeds that are left out because the first control has not finished."""
    starts: dict[str, bool]
    """Per variant, whether all methods and controls of a seed started from the same SFT weights, byte by byte."""
    efforts: list[Effort]
    gains: list[Gain]
    """Whether later rounds help: the last round of each method against its first and its best one."""
    verdicts: list[Verdict]
    headlines: list[str]
    """A sentence per variant."""

    @property
    def reference(self) -> str:
        """The control that all are compared with."""
        return next(iter(self.controls))

    def seeds_of(self, compared: Compared) -> list[int]:
        """The seeds that a model's values are of."""
        missing = self.missing.get(compared.variant, {}).get(compared.method, [])
        return [seed for seed in self.seeds[compared.variant] if seed not in missing]

    def effort(self, variant: str, method: str) -> Effort | None:
        """What a method was trained for; None where it has not finished."""
        return next((each for each in self.efforts if (each.variant, each.method) == (variant, method)), None)

    def verdict(self, compared: Compared) -> Verdict | None:
        """What is said about a model; None for one that no verdict is about."""
        found = (each for each in self.verdicts if (each.variant, each.name) == (compared.variant, compared.name))
        return next(found, None)
