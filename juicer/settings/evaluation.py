"""Settings of the evaluation of one model."""

from pydantic import Field

from juicer.settings.base import Settings
from juicer.settings.bounds import Rows, Shown
from juicer.settings.training import SamplingSettings


class EvaluationSettings(Settings):
    """The prompts that a model is evaluated on, and how its responses are sampled."""

    prompts: Rows | None = Field(None, ge=1)
    """Largest number of validation prompts, and of held-out prompts; null evaluates on all."""
    sampling: SamplingSettings = SamplingSettings()
    """How the evaluated responses are sampled."""
    shown: Shown = Field(8, ge=0)
    """Number of held-out prompts whose responses the report shows side by side."""
