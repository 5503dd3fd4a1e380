"""Settings of the device, the precision and the processes that compute."""

from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from juicer.settings.base import Settings
from juicer.settings.bounds import PassTokens, Processes, Threads

TokensPerPass = Annotated[
    Annotated[PassTokens, Tag("=number")] | Annotated[Literal["auto"], Tag("=auto")],
    Discriminator(lambda value: "=auto" if isinstance(value, str) else "=number"),
]
"""Tokens of a packed pass, or `auto`."""
OrAuto = Annotated[
    Annotated[bool, Tag("=asked")] | Annotated[Literal["auto"], Tag("=auto")],
    Discriminator(lambda value: "=auto" if isinstance(value, str) else "=asked"),
]
"""Whether to do what is faster on some devices, or `auto`."""


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
    packing: OrAuto = "auto"
    """Whether the dialogues of a training pass stand one after another in a single row, without padding; `auto` packs
    on a GPU. A pass then takes `tokens_per_pass` instead of a number of rows."""
    tokens_per_pass: TokensPerPass = "auto"  # noqa: S105
    """Tokens of a packed pass of one process; `auto` takes as many as fit into the GPU's free memory by the plan."""
    weights: Literal["auto", "fp32", "bf16"] = "auto"
    """Weights that passes in bf16 compute with in training: `bf16` takes copies that are renewed after each step, and
    keeps float32 masters for the optimiser; `fp32` casts the masters at every use. `auto` is bf16 where rows are packed
    on a GPU."""
    compile: OrAuto = "auto"
    """Whether torch compiles each transformer block for packed training; `auto` compiles on a GPU."""
    attention: Literal["auto", "flash_attention_2", "varlen", "sdpa", "eager"] = "auto"
    """Implementation of attention: `auto` is flash-attention 2 on a GPU where it is installed, else torch's own; packed
    rows take torch's variable-length kernel (`varlen`) on a GPU, and a recipe that names another one does not pack. One
    that is not there, or not exact for the model, is refused."""
    deterministic: bool = False
    """Only operations that give the same bytes again on the same card and versions; slower on a GPU. A CPU has no
    others."""

    @model_validator(mode="after")
    def _can_be(self) -> Self:
        if self.weights == "bf16" and self.precision == "fp32":
            raise ValueError("weights is bf16, but precision is fp32; set weights to auto, or precision to bf16")
        if self.weights == "bf16" and self.zero_stage:
            raise ValueError("weights is bf16, but under ZeRO DeepSpeed casts the weights; set weights to auto")
        if self.compile is True and self.packing is False:
            raise ValueError("compile is true, but only packed passes are compiled; set packing to auto or true")
        return self

    def packs(self, *, gpu: bool, lower: bool) -> bool:
        """Whether training packs rows, as far as settings decide: on a GPU in bf16, with attention for such rows."""
        if self.packing != "auto":
            return self.packing
        return gpu and lower and self.attention in ("auto", "varlen")
