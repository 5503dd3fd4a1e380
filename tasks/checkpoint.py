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
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from tasks.cancellation import Cancellation

FOLDER = Path(".juicer/checkpoints")
SECONDS = 300.0
"""Between two checkpoints, unless JUICER_CHECKPOINT_SECONDS says another number."""
SHARE = 0.05
"""Saving may take this share of the time at most; a large model is saved less often."""
COMPLETE = "complete.json"
UNHASHED = {"out", "params", "stage", "dry_run", "debug"}
"""Arguments that do not decide what the work is. Of params.yaml only what the stage reads does."""


class Checkpoint:
    """Numbered states of one piece of work in a folder of its own; see `irl.checkpoint.Checkpoint`.

    A state is complete when the file with the hashes of all others is there, and it gets its name only then.
    """

    def __init__(self, folder: Path, cancellation: Cancellation) -> None:
        self._folder, self._cancellation = folder, cancellation
        self._interval = float(os.environ.get("JUICER_CHECKPOINT_SECONDS", SECONDS))
        self._last = time.monotonic()

    def latest(self) -> Path | None:
        """The last state that is whole. One that is not is discarded, with a line that says so."""
        for path in sorted(self._folder.glob("[0-9]*"), reverse=True):
            if _whole(path):
                print(f"continuing from the checkpoint {path}", flush=True)
                return path
            print(f"discarded a corrupt checkpoint: {path}", flush=True)
            shutil.rmtree(path)
        return None

    def due(self) -> bool:
        """Whether the interval is over or the run is to end."""
        return self._cancellation.requested is not None or time.monotonic() - self._last >= self._interval

    def save(self, write: Callable[[Path], None]) -> None:
        """Keep a state, and forget the one before. Raises Cancelled if the run is to end."""
        start = time.monotonic()
        before = sorted(self._folder.glob("[0-9]*"))
        number = int(before[-1].name) + 1 if before else 1
        temporary = self._folder / f".{number}.{os.getpid()}.tmp"
        temporary.mkdir(parents=True)
        write(temporary)
        hashes = {str(path.relative_to(temporary)): _hash_of(path) for path in _files(temporary)}
        (temporary / COMPLETE).write_text(json.dumps(hashes), encoding="utf-8")
        for path in _files(temporary):
            _to_disk(path)
        temporary.replace(self._folder / f"{number:08}")
        for path in before:
            shutil.rmtree(path)
        self._last = time.monotonic()
        self._interval = max(self._interval, (self._last - start) / SHARE)
        self._cancellation.check("; the same command goes on from the checkpoint")


def open_checkpoints(stage: str, key: str) -> Path:
    """The folder of a stage's states with this key; states with other keys are discarded, with a line."""
    folder = FOLDER / stage
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name != key:
            print(f"discarded a checkpoint of other parameters, inputs or code: {path}", flush=True)
            shutil.rmtree(path)
    for path in folder.glob("*/*/.*.tmp"):
        shutil.rmtree(path)  # of a run that was killed while it saved
    return folder / key


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
        "processes": os.environ.get("WORLD_SIZE", "1"),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _files(path: Path) -> Iterable[Path]:
    return [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())


def _modules() -> Iterable[Path]:
    """Our modules that have been imported. The validation can refuse a run but not change it."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in ("irl", "tasks") and name != "tasks.recipe" and getattr(module, "__file__", None):
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
