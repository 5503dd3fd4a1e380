"""Accelerators: their data sheets, which GPUs a process sees, which one it uses, and how much of its memory.

Nothing here imports torch: which GPUs a process sees has to be decided before that.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import takewhile

GIB, MIB = 2**30, 2**20


@dataclass(frozen=True)
class Device:
    """One accelerator, by its data sheet."""

    memory: float
    """Bytes, as the driver has them: error correction takes a sixteenth of some cards' memory."""
    operations: float
    """Dense bf16 multiply-adds times two, per second, at the peak and added in float32; float32's without bf16."""
    bandwidth: float
    """Bytes per second between memory and cores."""
    has_bf16: bool = True
    operations32: float | None = None
    """As `operations`, of float32 outside tensor cores; None where `operations` are float32's."""

    def in_float32(self) -> "Device":
        """The same device with the speed of float32."""
        return self if self.operations32 is None else replace(self, operations=self.operations32)


DEVICES = {
    "T4": Device(15 * GIB, 8.1e12, 0.32e12, has_bf16=False),
    "V100-16GB": Device(16 * GIB, 15.7e12, 0.9e12, has_bf16=False),
    "V100-32GB": Device(32 * GIB, 15.7e12, 0.9e12, has_bf16=False),
    "RTX3090": Device(24 * GIB, 71e12, 0.94e12, operations32=35.6e12),
    "RTX4090": Device(24 * GIB, 165e12, 1.01e12, operations32=82.6e12),
    "RTX5090": Device(32 * GIB, 210e12, 1.79e12, operations32=104.8e12),
    "L4": Device(22.5 * GIB, 121e12, 0.3e12, operations32=30.3e12),
    "A10": Device(22.5 * GIB, 125e12, 0.6e12, operations32=31.2e12),
    "A10G": Device(22.5 * GIB, 70e12, 0.6e12, operations32=31.2e12),
    "A30": Device(24 * GIB, 165e12, 0.93e12, operations32=10.3e12),
    "A40": Device(45 * GIB, 150e12, 0.7e12, operations32=37.4e12),
    "A6000": Device(48 * GIB, 155e12, 0.77e12, operations32=38.7e12),
    "L40": Device(45 * GIB, 181e12, 0.86e12, operations32=90.5e12),
    "L40S": Device(45 * GIB, 362e12, 0.86e12, operations32=91.6e12),
    "RTX6000-Ada": Device(48 * GIB, 364e12, 0.96e12, operations32=91.1e12),
    "A100-40GB": Device(40 * GIB, 312e12, 1.56e12, operations32=19.5e12),
    "A100-80GB": Device(80 * GIB, 312e12, 2.04e12, operations32=19.5e12),
    "H20": Device(96 * GIB, 148e12, 4.0e12, operations32=44e12),
    "H100-PCIe": Device(80 * GIB, 756e12, 2.0e12, operations32=51e12),
    "H100-NVL": Device(94 * GIB, 835e12, 3.9e12, operations32=60e12),
    "H100": Device(80 * GIB, 989e12, 3.35e12, operations32=67e12),
    "H200-NVL": Device(141 * GIB, 835e12, 4.8e12, operations32=60e12),
    "H200": Device(141 * GIB, 989e12, 4.8e12, operations32=67e12),
    "B200": Device(180 * GIB, 2250e12, 7.7e12, operations32=80e12),
    "MI300X": Device(192 * GIB, 1307e12, 5.3e12, operations32=163e12),
}
CHOICES = {"A100": "A100-80GB", "V100": "V100-16GB"}
"""What a name stands for that several cards share."""
MAKERS = {"nvidia", "amd", "tesla", "geforce", "instinct", "rtx"}
MEMORY = re.compile(r"(\d+)gb")
SHORT = 1.1
"""A card's size as it is sold over what its driver has of it, at most."""
PLAIN = re.compile(r"\d+gb|hbm\d\w*|sxm\d?|pcie|generation")
"""Words of a driver's name for a card that make it no other one. "D", "Ti" and "Laptop" do, for example."""


def device_by_name(name: str) -> Device | None:
    """The entry of DEVICES for CUDA's `name`, for example "NVIDIA A100-SXM4-80GB"; None for an unknown device."""
    known = _known_by(name)
    return None if known is None else DEVICES[known]


def _known_by(name: str) -> str | None:
    words = {*_words(name)}
    for known in sorted(DEVICES, key=lambda each: -len(_words(each))):
        others = words - {*_words(known)}
        if {*_words(known)} <= words and all(PLAIN.fullmatch(word) for word in others):
            sizes = [float(found[1]) * GIB for word in others if (found := MEMORY.fullmatch(word))]
            memory = DEVICES[known].memory
            return known if all(memory <= size <= SHORT * memory for size in sizes) else None
    return None


def _words(name: str) -> list[str]:
    """The words of a card's name that tell it from others, in lower case."""
    separate = re.sub(r"\brtx(?=\d)", "rtx ", name.casefold())
    separate = re.sub(r"(?<![a-z0-9])(\d{2,3})\s*gi?b?\b", r"\1gb", separate)
    return [word for word in re.split(r"[\s_-]+", separate) if word and word not in MAKERS]


def gpu_called(name: str) -> str | None:
    """The name in DEVICES of a GPU as people write it ("a100 80gb", "RTX 4090", "4090"); None where it is unknown."""

    def plain(text: str) -> str:
        return "".join(_words(text)).removesuffix("gb")

    family = family_called(name)
    if family is not None:
        return CHOICES[family]
    return {plain(each): each for each in DEVICES}.get(plain(name)) or _known_by(name)


def family_called(name: str) -> str | None:
    """The key of CHOICES that a name stands for ("nvidia a100", "A100 SXM"); None where it says which card it is."""
    words = {*_words(name)}
    for family in CHOICES:
        others = words - {family.casefold()}
        if len(others) < len(words) and all(PLAIN.fullmatch(each) and not MEMORY.fullmatch(each) for each in others):
            return family
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
