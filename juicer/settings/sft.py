"""Settings of supervised fine-tuning and of its matched control."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from juicer.settings.base import Settings
from juicer.settings.bounds import Batch, Epochs, ResponseTokens, Rows, Samples, Steps, Temperature
from juicer.settings.training import LoraSettings, MicroBatch, OptimiserSettings

SftObjective = Literal["nll", "gem", "dft"]


class GemSettings(Settings):
    """Entropic distribution matching (arXiv 2408.16673)."""

    temperature: Temperature = Field(0.7, ge=0.01)
    """The distribution softmax(logits / temperature) is fitted to the demonstrations, token by token. Below 1 the
    policy itself stays flatter than the data; at 1 its optimum is that of `nll`."""


class DftSettings(Settings):
    """Discriminative fine-tuning (arXiv 2502.18679) against responses of the policy that the training starts from."""

    samples: Samples = Field(2, ge=1)
    """Responses of the starting policy per demonstration (m), sampled once before the training."""
    temperature: Temperature = Field(1.0, ge=0.01)
    """Temperature tau of the contrast; at 1 the exact objective is that of `nll`. Below 1 the contrast is weak until
    each demonstration has been visited several times, because the moving average of its normaliser starts at 1."""
    moving_average: float = Field(0.85, gt=0, le=1)
    """Weight gamma of the newest estimate in the moving average of each demonstration's normaliser."""
    sampling_batch_size: Batch = Field(128, ge=1)
    """Prompts that are decoded at the same time."""


class SftSettings(Settings):
    """Supervised fine-tuning on the response tokens."""

    objective: SftObjective = "nll"
    """Objective: `nll` is the negative log-likelihood, `gem` keeps the policy flatter than the data, `dft` contrasts
    demonstrations with the starting policy's own responses."""
    gem: GemSettings = GemSettings()
    """Only for `objective: gem`."""
    dft: DftSettings = DftSettings()
    """Only for `objective: dft`."""
    epochs: Epochs = Field(2.0, ge=0)
    """Passes over the curated demonstrations; 0 uses a base model that is an SFT policy already, unchanged."""
    batch_size: Batch = Field(32, ge=1)
    """Demonstrations per optimiser step."""
    watched: Rows = Field(64, ge=0)
    """Validation demonstrations, at most, whose negative log-likelihood is measured during the training; 0 measures
    nothing. It changes nothing of the training."""
    watched_times: Steps = Field(4, ge=1)
    """How often it is measured, at equal distances up to the last step; also before the first one."""
    micro_batch_size: MicroBatch = "auto"
    """Demonstrations per forward pass of one process, to save memory. `auto` takes the largest part of the process's
    share of the batch that fits by the plan (docs/scale.md), null takes the whole share."""
    optimiser: OptimiserSettings
    """Optimiser and schedule."""
    gradient_checkpointing: bool = False
    """Whether activations are recomputed in the backward pass: slower, but with much less memory."""
    lora: LoraSettings | None = None
    """Low-rank adapters instead of full fine-tuning; null trains all weights. Dropout only with `objective: nll`."""

    @model_validator(mode="after")
    def _no_dropout(self) -> "SftSettings":
        if self.objective != "nll" and self.lora is not None and self.lora.dropout:
            raise ValueError(dropout_refused("lora.dropout", self.objective))
        return self


def dropout_refused(key: str, objective: SftObjective) -> str:
    """Why adapters have no dropout with an objective other than `nll`."""
    if objective == "gem":
        return f"{key} must be 0: only the objective nll trains with dropout"
    return f"{key} must be 0: the objective dft compares pi with itself, and dropout would add noise to it"


class SftMatchedSettings(Settings):
    """The control, SFT-matched: SFT continued for as many steps and response tokens as the longer method used."""

    objective: SftObjective | None = None
    """Objective of the control; null is `sft.objective`. `sft.gem` and `sft.dft` hold for it too."""
    enabled: bool = True
    """Whether the control is trained. Without it, a gain over SFT may come from the longer training alone."""
    steps: Steps | None = Field(None, ge=1)
    """The control takes at least so many optimiser steps, besides what the methods used: a budget to compare recipes
    at. With it, or with `response_tokens`, a recipe without rounds has the control too."""
    response_tokens: ResponseTokens | None = Field(None, ge=1)
    """The control takes at least so many response tokens, by the mean of a step, besides what the methods used."""
    learning_rates: list[Annotated[float, Field(gt=0)]] = Field(min_length=1, max_length=100)
    """Peak learning rates to try; the model that is best on validation is kept."""
    prompts: Rows | None = Field(None, ge=1)
    """Largest number of validation prompts that several learning rates are compared on; null compares on all."""
