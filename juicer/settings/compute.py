"""Settings of the device, the precision and the processes that compute."""

from typing import Literal

from pydantic import Field

from juicer.settings.base import Settings
from juicer.settings.bounds import Processes, Threads


class ComputeSettings(Settings):
    """Device, precision and processes. They are part of a recipe because they decide the last bits of every result."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to compute on; `auto` uses CUDA if it is available, else the CPU."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of forward and backward passes. `auto` is bf16 on CUDA and fp32 on a CPU, except that a model of 10M
    parameters or more trains in bf16 on a CPU with avx512_bf16 or amx. Sampling and evaluation on a CPU stay in fp32,
    because in bf16 they drift from teacher forcing. Write fp32 or bf16 for the same results on every CPU."""
    threads: Threads = Field(2, ge=1)
    """OpenMP threads per process. The number decides the order of summation, so it changes the last bits."""
    processes: Processes = Field(1, ge=1)
    """World size: processes of a stage that samples, trains or evaluates, over all machines, one per GPU."""
    zero_stage: Literal[0, 2, 3] = 0
    """DeepSpeed's ZeRO stage in training, which says what is sharded over processes: 0 nothing, 2 optimiser state and
    gradients, 3 weights too."""
