"""Where and how precisely the numbers are computed."""

from typing import Literal

from pydantic import Field

from juicer.settings.base import Settings


class ComputeSettings(Settings):
    """One machine's way of computing; part of a recipe, because it decides the last bits of every result."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a CUDA device where there is one."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto` is bf16 on CUDA and fp32 on a CPU, where bf16 sampling drifts from teacher forcing."""
    threads: int = Field(2, ge=1)
    """OpenMP threads per process. Sums are taken in another order with another number of threads."""
    processes: int = Field(1, ge=1)
    """Processes of a stage that samples, trains or evaluates, over all machines: one per GPU."""
    zero_stage: Literal[0, 2, 3] = 0
    """What DeepSpeed shards over processes in training: 0 nothing, 2 gradients and optimiser state, 3 also weights."""
