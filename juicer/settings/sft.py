"""Settings of supervised fine-tuning and of its matched control."""

from typing import Annotated

from pydantic import Field

from juicer.settings.base import Settings
from juicer.settings.bounds import Batch, Epochs, Rows, Steps, TrainedTokens
from juicer.settings.training import LoraSettings, MicroBatch, OptimiserSettings


class SftSettings(Settings):
    """Supervised fine-tuning on the response tokens."""

    epochs: Epochs = Field(2.0, ge=0)
    """Passes over the curated demonstrations; 0 uses a base model that is an SFT policy already, unchanged."""
    batch_size: Batch = Field(32, ge=1)
    """Demonstrations per optimiser step."""
    micro_batch_size: MicroBatch = "auto"
    """Demonstrations per forward pass of one process, to save memory. `auto` takes the largest part of the process's
    share of the batch that fits by the plan (docs/scale.md), null takes the whole share."""
    optimiser: OptimiserSettings
    """Optimiser and schedule."""
    gradient_checkpointing: bool = False
    """Whether activations are recomputed in the backward pass: slower, but with much less memory."""
    lora: LoraSettings | None = None
    """Low-rank adapters instead of full fine-tuning; null trains all weights."""


class SftMatchedSettings(Settings):
    """The control, SFT-matched: SFT continued for as many steps and response tokens as the longer method used."""

    enabled: bool = True
    """Whether the control is trained. Without it, a gain over SFT may come from the longer training alone."""
    learning_rates: list[Annotated[float, Field(gt=0)]] = Field(min_length=1, max_length=100)
    """Peak learning rates to try; the model that is best on validation is kept."""
    prompts: Rows | None = Field(None, ge=1)
    """Largest number of validation prompts that several learning rates are compared on; null compares on all."""
    steps: Steps | None = Field(None, ge=1)
    """At least so many optimiser steps, besides those that the methods used. With it the control needs no method;
    `juicer compare-methods` sets it."""
    response_tokens: TrainedTokens | None = Field(None, ge=1)
    """At least so many response tokens, besides those that the methods used."""
