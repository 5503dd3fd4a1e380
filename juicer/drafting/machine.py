"""The machine: its GPUs, free memory and cores. torch is not imported: a look is cheap and fixes nothing."""

import importlib.metadata
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from juicer.runtime.devices import GIB, MIB, Device, device_by_name, visible_gpus

VISIBLE = "CUDA_VISIBLE_DEVICES"
CGROUP = Path("/sys/fs/cgroup")
QUERY = ("--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits")
UNKNOWN_SPEED = float("inf")
"""Of a device without a data sheet: its hours are not planned."""


@dataclass(frozen=True)
class Gpu:
    """One GPU."""

    name: str
    memory: float
    """Bytes."""


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
        return Device(min(memory, known.memory), known.operations, known.bandwidth)

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
        return (
            f"{gpus}, {self.memory / GIB:.1f} GiB of free memory, {cores}{f' ({self.unused})' if self.unused else ''}"
        )


def look_at_machine() -> Machine:
    """The machine that this process runs on, within what its container allows."""
    import psutil

    gpus, unused = _gpus()
    memory = min([float(psutil.virtual_memory().available), *_free_in_container()])
    return Machine(tuple(gpus), memory, len(os.sched_getaffinity(0)), unused)


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
    """The GPUs that a process sees, of nvidia-smi's lines `index, uuid, name, MiB`.

    Args:
        visible: the value of CUDA_VISIBLE_DEVICES; None where it is not set.
    """
    lines = [[part.strip() for part in line.split(",")] for line in told.splitlines()]
    whole = [line for line in lines if len(line) == 4 and line[3].isdigit()]
    named = visible_gpus(visible, len(whole))
    shown = [
        line for name in named for line in whole if name == line[0] or (len(name) > 4 and line[1].startswith(name))
    ]
    return [Gpu(line[2], float(line[3]) * MIB) for line in shown]


def _free_in_container() -> list[float]:
    """What a container's limit leaves; nothing where there is no limit."""
    try:
        limit, used = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return [max(0.0, float(limit) - float(used))]
    except (OSError, ValueError):
        return []
