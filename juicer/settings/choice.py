"""Settings of the choice between models: which figures of the validation prompts decide, and in which order."""

from typing import Literal

from pydantic import Field, field_validator

from juicer.settings.base import Settings

Criterion = Literal[
    "reward_mean",
    "preference_accuracy",
    "judged_win_rate",
    "preference_gap",
    "demonstration_gap",
    "demonstration_nll",
]
CRITERIA: tuple[Criterion, ...] = (
    "reward_mean",
    "preference_accuracy",
    "judged_win_rate",
    "preference_gap",
    "demonstration_gap",
)
"""The declared order, if a recipe declares no other."""
UNJUDGED: tuple[Criterion, ...] = ("demonstration_gap", "demonstration_nll")
"""Criteria that need no judgement of responses, and are none (docs/verdicts.md)."""


class ChoiceSettings(Settings):
    """How champion, best round and the control's learning rate are chosen, on validation prompts."""

    criteria: list[Criterion] = Field(list(CRITERIA), min_length=1)
    """In this order. One that a model lacks decides nothing; where several models share the best value, the next one
    decides between these; where all share it to the end, the earliest model, which is the simplest, is taken, and the
    report says so. The highest value is the best, but the `demonstration_gap` nearest to 0 and the lowest
    `demonstration_nll`. Of the last two neither measures the quality of responses, and SFT minimises the second."""

    @field_validator("criteria")
    @classmethod
    def _once(cls, criteria: list[Criterion]) -> list[Criterion]:
        twice = next((each for place, each in enumerate(criteria) if each in criteria[:place]), None)
        if twice is not None:
            raise ValueError(f"{twice} is listed twice")
        return criteria
