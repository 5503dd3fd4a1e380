"""Settings that every training stage shares."""

from typing import Literal

from pydantic import Field

from juicer.settings.base import Settings


class SamplingSettings(Settings):
    """How responses are sampled from a policy."""

    temperature: float = Field(1.0, gt=0)
    """1 samples from the policy itself, which is what the mathematics asks for."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus; 1 switches it off."""
    samples_per_prompt: int = Field(1, ge=1)
    """Responses per prompt."""
    batch_size: int = Field(128, ge=1)
    """Prompts decoded at once."""


class GenerationSettings(SamplingSettings):
    """How the pairs of a round get their responses."""

    engine: Literal["torch", "vllm"] = "torch"
    """`vllm` is for GPUs, and an extra of its own; other random numbers, so other samples, of the same policy."""


class LoraSettings(Settings):
    """Low-rank adapters instead of full fine-tuning; the reference is the model with the adapter off."""

    r: int = Field(64, ge=1)
    """Rank."""
    alpha: int = Field(16, gt=0)
    """Scale."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapter's input."""


class OptimiserSettings(Settings):
    """An optimiser and its schedule: linear decay to zero after a linear warm-up."""

    name: Literal["adamw", "rmsprop"] = "adamw"
    """`rmsprop` is the paper's choice for IRFT (alpha 0.99, epsilon 1e-8, torch's defaults)."""
    learning_rate: float = Field(gt=0)
    """Peak learning rate."""
    warmup_ratio: float = Field(0.1, ge=0, lt=1)
    """Share of the steps that warm up."""
    max_gradient_norm: float | None = Field(1.0, gt=0)
    """Clip the gradient to this norm; null does not."""
