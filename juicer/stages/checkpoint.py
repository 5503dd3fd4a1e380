"""Where a stage keeps the state of long work, so that a run that was ended goes on where it was.

The state lies in .juicer/checkpoints/<stage>/<key>/, which DVC does not know: a rerun deletes declared outputs. The key
is a hash of all that the work follows from, so a state is never continued with other parameters, inputs or code.
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from juicer.runtime.processes import SINGLE_PROCESS, Processes
from juicer.stages.cancellation import Cancellation

FOLDER = Path(".juicer/checkpoints")
SECONDS = 300.0
"""Between two checkpoints, unless JUICER_CHECKPOINT_SECONDS says another number."""
SHARE = 0.05
"""Saving may take this share of the time at most; a large model is saved less often."""
COMPLETE = "complete.json"
GOES_ON = "; the same command goes on from the checkpoint"
UNHASHED = {"out", "params", "stage", "dry_run", "debug"}
"""Arguments that do not decide what the work is. Of params.yaml only what the stage reads does."""


class Checkpoint:
    """Numbered states of one piece of work in a folder of its own; see `juicer.training.state.Checkpoint`.

    A state is complete when the file with the hashes of all others is there, and it gets its name only then. The
    processes of one machine share a folder; every machine has its own, and a state counts if all machines have it.
    """

    def __init__(self, folder: Path, cancellation: Cancellation, processes: Processes = SINGLE_PROCESS) -> None:
        self._folder, self._cancellation, self._processes = folder, cancellation, processes
        self._interval = float(os.environ.get("JUICER_CHECKPOINT_SECONDS", SECONDS))
        self._last = time.monotonic()
        self._number = 0
        """Of the last state."""

    def latest(self) -> Path | None:
        """The last state that is whole. Others are discarded; one that is damaged, with a line that says so."""
        found = self._processes.gather(self._whole_states() if self._processes.is_local_main else None)
        everywhere = set.intersection(*(states for states in found if states is not None))
        self._number = max(everywhere, default=0)
        latest = self._state(self._number) if everywhere else None
        if self._processes.is_local_main:
            self._forget_all_but(latest)
        if latest and self._processes.rank == 0:
            print(f"continuing from the checkpoint {latest}", flush=True)
        return latest

    def due(self) -> bool:
        """Whether the interval is over or the run is to end, for one of the processes."""
        to_end = self._cancellation.requested is not None
        over = time.monotonic() - self._last >= self._interval
        asked = self._processes.gather((to_end, over))
        if not to_end and any(others for others, _ in asked):
            self._cancellation.requested = signal.SIGTERM
        return any(map(any, asked))

    def save(self, write: Callable[[Path], None]) -> None:
        """Keep a state, and forget the one before. Raises Cancelled if the run is to end."""
        start, here = time.monotonic(), self._processes.is_local_main
        self._number += 1
        temporary = self._folder / f".{self._number}.tmp"
        if here:
            temporary.mkdir(parents=True)
        self._processes.gather(None)
        write(temporary)
        self._processes.gather(None)
        if here:
            hashes = {str(path.relative_to(temporary)): _hash_of(path) for path in _files(temporary)}
            (temporary / COMPLETE).write_text(json.dumps(hashes), encoding="utf-8")
            for path in _files(temporary):
                _to_disk(path)
            temporary.replace(self._state(self._number))
        self._processes.gather(None)  # the state is whole on every machine before one forgets the one before
        if here:
            self._forget_all_but(self._state(self._number))
        self._last = time.monotonic()
        self._interval = max(self._interval, (self._last - start) / SHARE)
        self._cancellation.check(GOES_ON)

    def _state(self, number: int) -> Path:
        return self._folder / f"{number:08}"

    def _whole_states(self) -> set[int]:
        whole = set()
        for path in sorted(self._folder.glob("[0-9]*")):
            if _whole(path):
                whole.add(int(path.name))
            else:
                print(f"discarded a corrupt checkpoint: {path}", flush=True)
        return whole

    def _forget_all_but(self, kept: Path | None) -> None:
        # Names that begin with a dot are of a run that was killed while it saved.
        for path in self._folder.iterdir() if self._folder.is_dir() else []:
            if path != kept:
                shutil.rmtree(path)


def checkpoints_of(stage: str, key: str) -> Path:
    """The folder of a stage's states with this key."""
    return FOLDER / stage / key


def discard_checkpoints(stage: str, key: str) -> None:
    """Remove a stage's states with other keys, with a line."""
    folder = FOLDER / stage
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name != key:
            print(f"discarded a checkpoint of other parameters, inputs or code: {path}", flush=True)
            shutil.rmtree(path, ignore_errors=True)  # machines that share a disk may do it at the same time


def kept(stage: str) -> str:
    """What the user is told about a stage that has been ended: whether a state of it is kept."""
    return GOES_ON if any((FOLDER / stage).glob("*/*/[0-9]*")) else ""


def remove_checkpoints(stage: str) -> None:
    """Forget a stage's states: it is done."""
    shutil.rmtree(FOLDER / stage, ignore_errors=True)


def key_of(arguments: argparse.Namespace, values: Mapping[str, Any]) -> str:
    """The hash of all that a stage's work follows from.

    Args:
        arguments: of the command line; the content of the files and folders that they name counts.
        values: the parameters that the stage has read.
    """
    given = {name: value for name, value in sorted(vars(arguments).items()) if name not in UNHASHED}
    files = {str(path): _hash_of(path) for value in given.values() if isinstance(value, Path) for path in _files(value)}
    parts = {
        "arguments": {name: str(value) for name, value in given.items()},
        "values": values,
        "files": files,
        "code": {str(path): _hash_of(path) for path in sorted(_modules())},
        "libraries": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "trl")},
        "vllm": getattr(sys.modules.get("vllm"), "__version__", None),
        "processes": [os.environ.get(name, "1") for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _files(path: Path) -> Iterable[Path]:
    return [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())


def _modules() -> Iterable[Path]:
    """Our modules that have been imported. What reads and validates settings can refuse a run but not change it."""
    for name, module in list(sys.modules.items()):
        if (
            name.split(".")[0] in ("juicer", "tasks")
            and not name.startswith(("juicer.recipe.", "juicer.settings."))
            and getattr(module, "__file__", None)
        ):
            yield Path(str(module.__file__))


def _whole(folder: Path) -> bool:
    try:
        hashes = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
        return bool(hashes) and all(_hash_of(folder / name) == value for name, value in hashes.items())
    except (OSError, ValueError):
        return False


def _to_disk(path: Path) -> None:
    """Before the state before is deleted this one must survive a power cut."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
