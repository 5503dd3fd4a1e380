"""The precision of training: where it is bf16 on a CPU."""

import sys
from typing import Any

import torch

from juicer.models.loading import device_of, has_bf16
from juicer.settings.compute import ComputeSettings

BF16_FROM = 10_000_000
"""Parameters from which training on a CPU with bf16 instructions is faster in bf16. Measured on two cores with
avx512_bf16: as fast at 0.5M parameters, in 0.60 of the time at 10M and in 0.54 at 135M."""


def cpu_has_bf16() -> bool:
    """Whether this machine's CPU multiplies matrices in bf16 (avx512_bf16 or amx_bf16).

    Without these instructions torch emulates bf16, several times slower than float32.
    """
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def training_compute(compute: ComputeSettings, parameters: int) -> ComputeSettings:
    """The settings with which a model of so many parameters trains: on a CPU `auto` is resolved here.

    Only training: it keeps float32 weights and computes under autocast. What samples, scores and evaluates on a CPU
    stays in float32, because in bf16 the log-probabilities recorded while sampling are not those of a forward pass.
    bf16 that a recipe asks for is slow where the CPU does not have it; a line on standard error says so.
    """
    for line in [*slow_bf16(compute), *no_bf16(compute)]:
        print(line, file=sys.stderr, flush=True)
    if compute.precision != "auto" or device_of(compute).type != "cpu":
        return compute
    lower = parameters >= BF16_FROM and cpu_has_bf16()
    return compute.model_copy(update={"precision": "bf16" if lower else "fp32"})


def slow_bf16(compute: ComputeSettings) -> list[str]:
    """A warning about bf16 on a CPU that does not have it; [] otherwise."""
    if compute.precision != "bf16" or device_of(compute).type != "cpu" or cpu_has_bf16():
        return []
    return [
        "warning: compute.precision is bf16, but this CPU has neither avx512_bf16 nor amx: passes take several "
        "times as long as in fp32"
    ]


def no_bf16(compute: ComputeSettings) -> list[str]:
    """A line about `auto` on a GPU without bf16; [] otherwise."""
    if compute.precision != "auto" or device_of(compute).type == "cpu" or has_bf16():
        return []
    return [f"{torch.cuda.get_device_name()} does not compute in bf16: compute.precision auto is fp32 there"]
