"""Accelerators: their data sheets, which GPUs a process sees, which one it uses, and how much of its memory.

Nothing here imports torch: which GPUs a process sees has to be decided before that.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import takewhile

GIB, MIB = 2**30, 2**20


@dataclass(frozen=True)
class Device:
    """One accelerator, by its data sheet."""

    memory: float
    """Bytes."""
    operations: float
    """Dense bf16 multiply-adds times two, per second, at the peak."""
    bandwidth: float
    """Bytes per second between memory and cores."""


DEVICES = {
    "A100-40GB": Device(40 * GIB, 312e12, 1.56e12),
    "A100-80GB": Device(80 * GIB, 312e12, 2.04e12),
    "H100-PCIe": Device(80 * GIB, 756e12, 2.0e12),
    "H100-NVL": Device(94 * GIB, 835e12, 3.9e12),
    "H100": Device(80 * GIB, 989e12, 3.35e12),
    "H200": Device(141 * GIB, 989e12, 4.8e12),
    "L40S": Device(48 * GIB, 362e12, 0.86e12),
    "RTX4090": Device(24 * GIB, 165e12, 1.01e12),
}


def device_by_name(name: str) -> Device | None:
    """The entry of DEVICES for CUDA's `name`, for example "NVIDIA A100-SXM4-80GB"; None for an unknown device."""
    words = name.replace(" ", "")
    if "MIG" in words:  # a part of a card
        return None
    for known, device in DEVICES.items():
        if all(part in words for part in known.split("-")):
            return device
    return None


def visible_gpus(setting: str | None, count: int) -> list[str]:
    """CUDA's identifiers of the GPUs that a process sees, in CUDA's order, without initialising CUDA.

    Args:
        setting: the value of CUDA_VISIBLE_DEVICES (numbers, or names such as "GPU-8a56..."), None where it is not set.
        count: number of GPUs in the machine.
    """
    if setting is None:
        return [str(number) for number in range(count)]
    # CUDA ignores everything from the first invalid entry on: "0,-1,2" is GPU 0.
    return list(takewhile(lambda name: name and not name.startswith("-"), map(str.strip, setting.split(","))))


def peak_memory() -> dict[str, float]:
    """Peak GPU memory of this process in MiB: allocated to tensors, and reserved by torch.

    A plan estimates the first and adds `juicer.planning.costs.OVERHEAD`. Memory of other processes, such as vLLM's
    engine, is not included. {} where this process has not used CUDA: a query would open a context on the GPU.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    return {
        "peak_device_memory_mb": round(torch.cuda.max_memory_allocated() / MIB, 1),
        "peak_device_reserved_mb": round(torch.cuda.max_memory_reserved() / MIB, 1),
    }


@dataclass(frozen=True)
class Card:
    """The GPU of a process, and the versions that its results depend on beside those of torch and transformers."""

    name: str
    memory: int
    """Bytes."""
    versions: str
    """Of CUDA and cuDNN, by torch."""

    def __str__(self) -> str:
        return f"{self.name} with {self.memory / GIB:.0f} GiB"


def card_in_use() -> Card | None:
    """This process's GPU; None where it has not used CUDA, as in `peak_memory`."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    versions = f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    return Card(properties.name, properties.total_memory, versions)


def in_words(cards: Iterable[Card]) -> str:
    """For example "2 x NVIDIA A100-SXM4-80GB with 80 GiB, NVIDIA H100 with 80 GiB"."""
    counts = Counter(map(str, cards))
    return ", ".join(name if count == 1 else f"{count} x {name}" for name, count in counts.items())


def highest(peaks: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The maximum of each named value."""
    found: dict[str, float] = {}
    for peak in peaks:
        found |= {name: max(value, found.get(name, value)) for name, value in peak.items()}
    return found
