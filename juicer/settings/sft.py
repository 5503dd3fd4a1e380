"""Settings of supervised fine-tuning and of its matched control."""

from typing import Annotated

from pydantic import Field

from juicer.settings.base import Settings
from juicer.settings.training import LoraSettings, OptimiserSettings


class SftSettings(Settings):
    """Supervised fine-tuning on the response tokens."""

    epochs: float = Field(2.0, ge=0)
    """Passes over the curated demonstrations; 0 takes the base model as it is, because it is an SFT policy already."""
    batch_size: int = Field(32, ge=1)
    """Demonstrations per optimiser step."""
    micro_batch_size: int | None = Field(None, ge=1)
    """Demonstrations per forward pass of a process; null is its whole share of the batch."""
    optimiser: OptimiserSettings
    """Optimiser and schedule."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: slower, much less memory."""
    lora: LoraSettings | None = None
    """Adapters instead of full fine-tuning."""


class SftMatchedSettings(Settings):
    """The control: SFT continued for as many steps and response tokens as the longer method used."""

    enabled: bool = True
    """Make the control. Without it "better than SFT" says nothing."""
    learning_rates: list[Annotated[float, Field(gt=0)]] = Field(min_length=1)
    """Peak learning rates to try; the best on validation is kept."""
