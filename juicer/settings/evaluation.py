"""Settings of the evaluation of one model."""

from pydantic import Field

from juicer.settings.base import Settings
from juicer.settings.training import SamplingSettings


class EvaluationSettings(Settings):
    """What a model is judged on."""

    prompts: int | None = Field(None, ge=1)
    """At most this many validation and this many held-out prompts; null takes all."""
    sampling: SamplingSettings = SamplingSettings()
    """How responses are sampled."""
    shown: int = Field(8, ge=0)
    """Held-out prompts whose responses the report shows side by side."""
