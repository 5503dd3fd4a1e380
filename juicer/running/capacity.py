"""How many stages run at the same time on this machine, and whether its memory and GPUs have room for one more.

Two at a time on CPUs, if there are threads for two; as many as there are GPUs on a machine that has some, where a stage
of several processes takes several. Another stage is begun beside a running one only if enough GPUs are left, and if the
free memory, less what the running ones will still take, is enough for it. What a stage takes is what it took here
before; of a stage that never ran, it is BASE, and FACTOR times the bytes of its largest input if it trains: weights,
gradients and two moments are four times the weights, and the rest is for activations. Inputs that are only read take
READING times their bytes: weights that are stored in 16 bits may be computed with in 32. The same is added for what its
inputs have grown by since it ran, as by the models of another recipe. Each process of a stage takes as much.
"""

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from juicer.runtime.devices import GIB, MIB
from juicer.runtime.errors import InputError
from juicer.runtime.memory import main_memory
from juicer.settings.compute import ComputeSettings
from juicer.stages.costs import COSTS, StageCost
from juicer.stages.gpus import gpus_of_machine

AT_A_TIME = 2
BASE, FACTOR, READING = 1.0 * GIB, 8, 3
LIGHT = 0.25 * GIB
"""What a stage without models takes that never ran, in bytes."""


def gpus_here(compute: ComputeSettings) -> int:
    """Number of GPUs that stages may use."""
    return 0 if compute.device == "cpu" else len(gpus_of_machine())


def default_at_a_time(compute: ComputeSettings) -> int:
    """Stages at the same time unless the user says how many; `Room` says which of them fit beside each other."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if of_gpus := gpus_here(compute):
        return min(of_gpus, cores)  # a stage on a GPU keeps one core busy with starting kernels
    return max(1, min(AT_A_TIME, cores // (compute.threads * compute.processes)))


def free_memory() -> float:
    """Bytes that new processes can take, within what a container allows."""
    return main_memory()[1]


@dataclass(frozen=True)
class Needs:
    """What a stage takes."""

    memory: float
    """Bytes at its peak."""
    gpus: int

    @classmethod
    def of(
        cls,
        stage: str,
        inputs: Iterable[Path],
        gpus: int | None,
        costs: Path = COSTS,
        *,
        trains: bool = True,
        before: float = 0.0,
    ) -> "Needs":
        """What a stage will take, all of its processes together.

        Args:
            inputs: paths of its data and models.
            gpus: how many it uses where there are any, one for each process; None if it computes with no model.
            trains: whether it trains a model, and not only reads some.
            before: bytes of those of the inputs that it had when it ran last: another recipe's may be larger.
        """
        sizes = [0.0] if gpus is None else [0.0, *map(size_of, inputs)]
        size = READING * sum(sizes) + ((FACTOR - READING) * max(sizes) if trains else 0.0)
        grown = max(0.0, 1 - before / sum(sizes)) if any(sizes) else 0.0
        processes = max(1, gpus or 0)
        with suppress(InputError):
            if (taken := StageCost.read(costs / f"{stage}.json").peak_memory_mb) is not None:
                return cls(processes * (taken * MIB + grown * size), gpus or 0)
        return cls(LIGHT if gpus is None else processes * (BASE + size), gpus or 0)


@dataclass
class Room:
    """Whether the machine has room for another stage."""

    needs: Callable[[str], Needs]
    gpus: int
    """GPUs that stages may use."""
    processes: dict[str, int] = field(default_factory=dict)
    """The process of each running stage, by the stage's name."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fits(self, stage: str, running: Sequence[str]) -> bool:
        """Whether `stage` can be begun beside the running ones."""
        if self.gpus and sum(self.needs(each).gpus for each in [*running, stage]) > self.gpus:
            return False
        with self.lock:
            known = dict(self.processes)
        coming = sum(max(0.0, self.needs(each).memory - _resident(known.get(each))) for each in running)
        return free_memory() - coming >= self.needs(stage).memory


def _resident(process: int | None) -> float:
    """Bytes that a process and its children have in memory now."""
    found = 0.0
    with suppress(psutil.Error):
        if process is not None:
            first = psutil.Process(process)
            for each in [first, *first.children(recursive=True)]:
                with suppress(psutil.Error):
                    found += each.memory_info().rss
    return found


def size_of(path: Path) -> float:
    """Bytes of a file, or of all files in a folder; 0 if there is none."""
    if not path.is_dir():
        return float(path.stat().st_size) if path.exists() else 0.0
    return float(sum(file.stat().st_size for file in path.rglob("*") if file.is_file()))
