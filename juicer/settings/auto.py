"""Settings of `rounds: auto`: a round is added while the last one improves on the one before."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from juicer.settings.base import Settings
from juicer.settings.bounds import Rounds, shortened

RoundCriterion = Literal["score", "preferences", "likelihood"]


def _kind(value: Any) -> str:
    return "=auto" if value == "auto" else "=rounds"


def _check(value: Any) -> Any:
    if isinstance(value, str) and value != "auto":
        raise ValueError(f"it has to be a number of rounds, or auto, not {shortened(value)}")
    return value


AutoRounds = Annotated[
    Annotated[Rounds, Field(ge=0), Tag("=rounds")] | Annotated[Literal["auto"], Tag("=auto")],
    Discriminator(_kind),
    BeforeValidator(_check),
]
"""Number of rounds, or `auto`."""


class AutoSettings(Settings):
    """How `rounds: auto` finds the number of rounds, on validation prompts and with 95% intervals."""

    most: Rounds = Field(6, ge=1)
    """Largest number of rounds that are tried."""
    criterion: RoundCriterion | None = None
    """What a round has to raise, beyond noise, for another one to be tried: `score` is the mean score of its responses,
    `preferences` the preference accuracy, `likelihood` the mean log-likelihood of validation demonstrations; null takes
    the score where the recipe has a scorer, and the preferences where not. `likelihood` needs no label and says nothing
    of the quality of responses: it is what SFT itself raises."""
