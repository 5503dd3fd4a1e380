"""Which GPUs a stage computes on: as many as it has processes here, none of which another stage here has locked.

A GPU is identified by its name in CUDA_VISIBLE_DEVICES, a number or a UUID. Stages in different containers, of
different users, or with different names for one GPU do not see each other's locks.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from juicer.runtime.command import print_line
from juicer.runtime.devices import visible_gpus

DEVICES = Path("/dev")
VISIBLE = "CUDA_VISIBLE_DEVICES"
SHARED = "JUICER_SHARE_GPUS"
"""Environment variable: where too few GPUs are free, a stage takes the first ones beside other stages if it is set."""
ASKED_EVERY = 1.0
"""Seconds between two looks for a GPU that has become free."""


def gpus_of_machine() -> list[str]:
    """CUDA's identifiers of the GPUs that stages may use, in CUDA's order: of cards that differ, the fastest first."""
    # One device file per GPU. Asking CUDA takes seconds and would fix what this process sees.
    return visible_gpus(os.environ.get(VISIBLE), len(list(DEVICES.glob("nvidia[0-9]*"))))


def take_gpus(count: int = 1, say: Callable[[str], object] | None = None) -> list[FileLock]:
    """Restrict this process and its children to so many GPUs; call it before torch is imported.

    transformers spreads a model over all visible GPUs (nn.DataParallel), which TRL refuses. If CUDA_VISIBLE_DEVICES is
    set, the GPUs are of those. Where too few are free it waits, and keeps those that it has; of several stages that
    wait for more than one GPU, one does so at a time, so that no two wait for each other.

    Args:
        count: GPUs that the stage's processes on this machine need. Where there are fewer, nothing is taken.
        say: called once with a line if it has to wait; prints on standard error by default.

    Returns:
        The locks on the GPUs, to be kept as long as they are used; [] if there are too few, no place for locks, or
        other stages that share theirs (`SHARED`).
    """
    gpus = gpus_of_machine()
    if not 0 < count <= len(gpus):
        return []
    taken = _taken(gpus, count, say or (lambda line: print_line(line, sys.stderr)))
    if len(gpus) > count:
        os.environ[VISIBLE] = ",".join([gpu for gpu in gpus if gpu in taken] or gpus[:count])
    return list(taken.values())


def _taken(gpus: list[str], count: int, say: Callable[[str], object]) -> dict[str, FileLock]:
    """The locks on `count` of the GPUs, by their names; {} where locks cannot be written, or GPUs are shared."""
    taken: dict[str, FileLock] = {}
    told = False
    # A single GPU is locked too, so that processes which see more of them leave it alone.
    try:
        turn = None if count == 1 else _lock("turn")
        while True:
            if turn is None or turn.is_locked or _acquired(turn):
                for gpu in gpus:
                    if len(taken) < count and gpu not in taken and _acquired(lock := _lock(f"gpu-{gpu}")):
                        taken[gpu] = lock
            if len(taken) == count:
                if turn is not None:
                    turn.release()
                return taken
            if os.environ.get(SHARED):
                return {}
            if not told:
                first = turn is None or turn.is_locked
                why = (
                    f"other stages use {len(gpus) - len(taken)} of {len(gpus)}" if first else "another waits before it"
                )
                say(f"waiting for {'a GPU' if count == 1 else f'{count} GPUs'}: {why}")
            told = True
            time.sleep(ASKED_EVERY)
    except OSError:  # another user's folder or a full disk is no reason to end the stage
        return {}


def _lock(name: str) -> FileLock:
    folder = Path(tempfile.gettempdir()) / f"juicer-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return FileLock(folder / f"{name.replace('/', '-')}.lock", mode=0o600)


def _acquired(lock: FileLock) -> bool:
    """Whether the lock could be had; the system frees it however this process ends."""
    with suppress(Timeout):
        lock.acquire(blocking=False)
    return lock.is_locked
