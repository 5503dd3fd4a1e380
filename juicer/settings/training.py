"""Settings that the training stages share: sampling, adapters and the optimiser."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from juicer.settings.base import Settings
from juicer.settings.bounds import Batch, Rank, Samples, Scale, Temperature


def _kind(value: Any) -> str:
    return "=whole" if value is None else "=auto" if isinstance(value, str) else "=rows"


MicroBatch = Annotated[
    Annotated[Batch, Field(ge=1), Tag("=rows")]
    | Annotated[Literal["auto"], Tag("=auto")]
    | Annotated[None, Tag("=whole")],
    Discriminator(_kind),
]
"""Rows per forward pass of one process: `auto`, a number, or null for the process's whole share of a batch."""


ROWS = 128
"""Responses that are decoded at the same time on a CPU where `batch_size` is `auto`."""
SamplingRows = Annotated[
    Annotated[Batch, Field(ge=1), Tag("=rows")] | Annotated[Literal["auto"], Tag("=auto")],
    Discriminator(lambda value: "=auto" if isinstance(value, str) else "=rows"),
]
"""Rows of a decoding step: `auto`, or a number."""
Engine = Literal["auto", "torch", "vllm"]
"""What samples: our own decoding, or vLLM."""


class SamplingSettings(Settings):
    """How responses are sampled from a policy."""

    temperature: Temperature = Field(1.0, gt=0)
    """Temperature; 1 samples from the policy itself, as the algorithms require."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus sampling: smallest probability mass that tokens are drawn from; 1 switches it off."""
    samples_per_prompt: Samples = Field(1, ge=1)
    """Responses per prompt."""
    batch_size: SamplingRows = "auto"
    """Prompts that are decoded at the same time. `auto` takes 128 on a CPU, and on a GPU what fits into its free
    memory, at most 1024 (docs/scale.md). vLLM does not read it."""


class GenerationSettings(SamplingSettings):
    """How the responses of a round's pairs are sampled."""

    engine: Engine = "auto"
    """What samples: `vllm` takes vLLM from an environment of its own (`make vllm`), with its own scheduling and other
    random numbers, so that its samples differ from `torch`'s. `auto` is `vllm` on a GPU where that environment is, else
    `torch`."""


class LoraSettings(Settings):
    """Low-rank adapters (LoRA), which train while the weights of the model stay as they are."""

    r: Rank = Field(64, ge=1)
    """Rank of the adapters."""
    alpha: Scale = Field(16, gt=0)
    """Scale of the adapters: their output is multiplied by alpha / r."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout probability on the adapters' input; only SFT trains with dropout."""
    base: Literal["auto", "bf16", "fp32", "nf4"] = "auto"
    """Type of the model's frozen weights in training: `auto` is bf16 on a GPU that computes in it, else fp32; `nf4`
    quantises them to 4 bits (QLoRA) and needs the optional extra `qlora`. Adapters train in float32 and are added to
    the original weights in every case."""
    save: Literal["adapters", "merged"] = "adapters"
    """What the stage keeps: `adapters` beside their base model, which are merged when the model is loaded in float32,
    exported or promoted; or `merged`, a whole model in float32."""


class OptimiserSettings(Settings):
    """An optimiser and its schedule: a linear warm-up to the peak, then linear decay to zero, or none."""

    name: Literal["adamw", "rmsprop"] = "adamw"
    """Optimiser; `rmsprop` (alpha 0.99, epsilon 1e-8, torch's defaults) is the paper's choice for IRFT."""
    learning_rate: float = Field(gt=0)
    """Peak learning rate."""
    warmup_ratio: float = Field(0.1, ge=0, lt=1)
    """Share of the steps over which the learning rate rises to its peak."""
    schedule: Literal["linear", "constant"] = "linear"
    """What follows the warm-up: linear decay to zero after the last step, or the peak to the end."""
    max_gradient_norm: float | None = Field(1.0, gt=0)
    """Norm to which the gradient is clipped; null does not clip."""
