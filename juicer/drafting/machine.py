"""The machine: its GPUs, free memory and cores. torch is not imported: a look is cheap and fixes nothing."""

import importlib.metadata
import os
import shutil
import subprocess
from dataclasses import dataclass, replace

from juicer.runtime.devices import GIB, MIB, Device, device_by_name, visible_gpus
from juicer.runtime.memory import main_memory

VISIBLE = "CUDA_VISIBLE_DEVICES"
QUERY = ("--query-gpu=index,uuid,name,memory.total,compute_cap", "--format=csv,noheader,nounits")
BF16_FROM = 8
"""Compute capability."""
UNKNOWN_SPEED = float("inf")
"""Of a device without a data sheet: its hours are not planned."""


@dataclass(frozen=True)
class Gpu:
    """One GPU."""

    name: str
    memory: float
    """Bytes."""
    has_bf16: bool = True


@dataclass(frozen=True)
class Machine:
    """What a run here can use."""

    gpus: tuple[Gpu, ...]
    memory: float
    """Free main memory, in bytes."""
    cores: int
    unused: str = ""
    """Why there are GPUs that a run here cannot use, as a clause; "" if there are none."""

    @property
    def device(self) -> Device:
        """What to plan for: the data sheet of the GPU if it is known, else only its memory or this machine's."""
        if not self.gpus:
            return Device(self.memory, UNKNOWN_SPEED, UNKNOWN_SPEED)
        known = device_by_name(self.gpus[0].name)
        memory = min(gpu.memory for gpu in self.gpus)
        if known is None:
            return Device(memory, UNKNOWN_SPEED, UNKNOWN_SPEED)
        return replace(known, memory=min(memory, known.memory))

    @property
    def has_bf16(self) -> bool:
        """Whether every GPU computes in bf16."""
        return all(gpu.has_bf16 for gpu in self.gpus)

    @property
    def precision(self) -> str:
        """What `compute.precision` is to be: a CPU and older GPUs compute in fp32."""
        return "bf16" if self.gpus and self.has_bf16 else "fp32"

    @property
    def has_speed(self) -> bool:
        """Whether hours can be planned."""
        return self.device.operations != UNKNOWN_SPEED

    @property
    def device_name(self) -> str:
        """The device in words."""
        return self.gpus[0].name if self.gpus else "CPU"

    def __str__(self) -> str:
        gpus = "no GPU"
        if self.gpus:
            gpus = f"{len(self.gpus)} x {self.gpus[0].name} with {self.device.memory / GIB:.0f} GiB"
        cores = f"{self.cores} core{'' if self.cores == 1 else 's'}"
        unused = f" ({self.unused})" if self.unused else ""
        return f"{gpus}, {self.memory / GIB:.1f} GiB of free memory, {cores}; computes in {self.precision}{unused}"


def look_at_machine() -> Machine:
    """The machine that this process runs on, within what its container allows."""
    gpus, unused = _gpus()
    return Machine(tuple(gpus), main_memory()[1], len(os.sched_getaffinity(0)), unused)


def _gpus() -> tuple[list[Gpu], str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return [], ""
    try:
        told = subprocess.run([program, *QUERY], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return [], "nvidia-smi does not answer"
    gpus = parse_gpus(told, os.environ.get(VISIBLE))
    if gpus and importlib.metadata.version("torch").endswith("+cpu"):
        return [], f"the installed torch is the CPU build and uses none of {len(gpus)} GPUs"
    return gpus, ""


def parse_gpus(told: str, visible: str | None) -> list[Gpu]:
    """The GPUs that a process sees, of nvidia-smi's lines `index, uuid, name, MiB, compute capability`.

    Args:
        visible: the value of CUDA_VISIBLE_DEVICES; None where it is not set.
    """
    lines = [[part.strip() for part in line.split(",")] for line in told.splitlines()]
    whole = [line for line in lines if len(line) == 5 and line[3].isdigit()]
    named = visible_gpus(visible, len(whole))
    shown = [
        line for name in named for line in whole if name == line[0] or (len(name) > 4 and line[1].startswith(name))
    ]
    return [Gpu(line[2], float(line[3]) * MIB, _has_bf16(line[4])) for line in shown]


def _has_bf16(capability: str) -> bool:
    """Whether a compute capability such as 7.5 has bf16; it came with 8.0."""
    major = capability.partition(".")[0]
    return not major.isdigit() or int(major) >= BF16_FROM
