"""Checkpoints of a stage's long work, from which an interrupted run resumes.

They are in .juicer/checkpoints/<stage>/<key>/, which is not an output of DVC, because a rerun deletes outputs. The key
is a hash of everything that the work depends on, so a run never resumes with other parameters, inputs or code.
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
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from juicer.runtime import determinism
from juicer.runtime.devices import Card, card_in_use, in_words
from juicer.runtime.files import remove
from juicer.runtime.processes import SINGLE_PROCESS, Processes
from juicer.stages.cancellation import Cancellation

FOLDER = Path(".juicer/checkpoints")
SECONDS = 300.0
"""Seconds between two checkpoints; the environment variable JUICER_CHECKPOINT_SECONDS overrides it."""
SHARE = 0.05
"""Largest share of the time that saving may take; a large model is saved less often."""
COMPLETE = "complete.json"
CARDS = "cards.json"
"""The GPUs that a checkpoint was made on."""
RESUMES = "; the same command resumes from the checkpoint"
UNHASHED = {"out", "params", "stage", "dry_run", "debug"}
"""Arguments that the work does not depend on. Of params.yaml it depends on the parameters that the stage reads."""


class Checkpoint:
    """Numbered checkpoints of one piece of work, in a folder of its own.

    A checkpoint is a folder that contains a file with the hashes of all its other files, and that gets its name by an
    atomic rename once it is complete. The processes of one machine share the folder. Every machine has its own, and a
    checkpoint counts only if all machines have it.
    """

    def __init__(self, folder: Path, cancellation: Cancellation, processes: Processes = SINGLE_PROCESS) -> None:
        self._told: Path | None = None
        self._folder, self._cancellation, self._processes = folder, cancellation, processes
        self._interval = float(os.environ.get("JUICER_CHECKPOINT_SECONDS", SECONDS))
        self._last = time.monotonic()
        self._number = 0
        """Number of the last checkpoint."""

    def latest(self) -> Path | None:
        """The last complete checkpoint, or None. All others are deleted, damaged ones with a message."""
        found = self._processes.gather(self._complete() if self._processes.is_local_main else None)
        everywhere = set.intersection(*(states for states in found if states is not None))
        self._number = max(everywhere, default=0)
        latest = self._path(self._number) if everywhere else None
        if self._processes.is_local_main:
            self._delete_all_but(latest)
        if latest and self._processes.rank == 0 and latest != self._told:
            self._told = latest
            print(f"resuming from the checkpoint {latest}", flush=True)
            for line in continued(_cards_of(latest), card_in_use(), deterministic=determinism.is_on()):
                print(line, flush=True)
        return latest

    def due(self) -> bool:
        """Whether to save now: in one of the processes, the interval is over or the run has been cancelled."""
        to_end = self._cancellation.requested is not None
        over = time.monotonic() - self._last >= self._interval
        asked = self._processes.gather((to_end, over))
        if not to_end and any(others for others, _ in asked):
            self._cancellation.requested = signal.SIGTERM
        return any(map(any, asked))

    def save(self, write: Callable[[Path], None]) -> None:
        """Save a checkpoint, then delete the previous one.

        Args:
            write: writes the checkpoint's files into the given folder.

        Raises:
            Cancelled: the run has been cancelled.
        """
        start, here = time.monotonic(), self._processes.is_local_main
        self._number += 1
        temporary = self._folder / f".{self._number}.tmp"
        if here:
            temporary.mkdir(parents=True)
        cards = self._processes.gather(card_in_use())
        write(temporary)
        self._processes.gather(None)
        if here:
            if known := [asdict(card) for card in cards if card is not None]:
                (temporary / CARDS).write_text(json.dumps(known), encoding="utf-8")
            hashes = {str(path.relative_to(temporary)): _hash_of(path) for path in _files(temporary)}
            (temporary / COMPLETE).write_text(json.dumps(hashes), encoding="utf-8")
            for path in _files(temporary):
                _to_disk(path)
            temporary.replace(self._path(self._number))
        self._processes.gather(None)  # a barrier: delete the previous checkpoint only when every machine has this one
        if here:
            self._delete_all_but(self._path(self._number))
        self._last = time.monotonic()
        self._interval = max(self._interval, (self._last - start) / SHARE)
        self._cancellation.check(RESUMES)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08}"

    def _complete(self) -> set[int]:
        complete = set()
        for path in sorted(self._folder.glob("[0-9]*")):
            if path.name.isdecimal() and _is_complete(path):
                complete.add(int(path.name))
            else:
                print(f"discarded a corrupt checkpoint: {path}", flush=True)
        return complete

    def _delete_all_but(self, kept: Path | None) -> None:
        # Names with a leading dot are from a run that was killed while it was saving.
        for path in self._folder.iterdir() if self._folder.is_dir() else []:
            if path != kept:
                remove(path)


def continued(made_on: Sequence[Card], here: Card | None, *, deterministic: bool) -> list[str]:
    """What is to be said of a resumed run beside that it is one; nothing on a CPU, which gives the same bytes.

    Args:
        made_on: the GPUs that the checkpoint was made on.
        here: this process's GPU.
        deterministic: whether this run takes deterministic operations only.
    """
    others = [card for card in made_on if here is None or (card.name, card.versions) != (here.name, here.versions)]
    if others or (here is not None and not made_on):
        before = f"{in_words(made_on)}, {made_on[0].versions}" if made_on else "a CPU"
        now = f"{here}, {here.versions}" if here is not None else "a CPU"
        return [f"the checkpoint was made on {before}; on {now} the continuation differs in its last digits"]
    if here is not None and not deterministic:
        why = "compute.deterministic is false"
        return [f"on a GPU the continuation may differ from an uninterrupted run in its last digits: {why}"]
    return []


def _cards_of(checkpoint: Path) -> list[Card]:
    path = checkpoint / CARDS
    return [Card(**each) for each in json.loads(path.read_text(encoding="utf-8"))] if path.is_file() else []


def checkpoints_of(stage: str, key: str) -> Path:
    """The folder of a stage's checkpoints with this key."""
    return FOLDER / stage / key


def discard_checkpoints(stage: str, key: str) -> None:
    """Remove a stage's checkpoints with other keys, with a message."""
    folder = FOLDER / stage
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name != key:
            print(f"discarded a checkpoint of other parameters, inputs or code: {path}", flush=True)
            with suppress(FileNotFoundError):  # machines that share a disk may do it at the same time
                remove(path)


def kept(stage: str) -> str:
    """What the user is told about a cancelled stage: that it resumes, or "" if there is no checkpoint."""
    return RESUMES if any((FOLDER / stage).glob("*/*/[0-9]*")) else ""


def remove_checkpoints(stage: str) -> None:
    """Remove all checkpoints of a stage, which has finished."""
    shutil.rmtree(FOLDER / stage, ignore_errors=True)


def key_of(arguments: argparse.Namespace, values: Mapping[str, Any]) -> str:
    """The hash of everything that a stage's work depends on.

    Args:
        arguments: arguments of the command line; files and folders that they name are hashed by content.
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
        "processes": [os.environ.get(name, "1") for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _files(path: Path) -> Iterable[Path]:
    return [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())


def _modules() -> Iterable[Path]:
    """The project's imported modules, without those that validate settings: they can refuse a run but not change it."""
    for name, module in list(sys.modules.items()):
        if (
            name.split(".")[0] in ("juicer", "tasks")
            and not name.startswith(("juicer.recipe.", "juicer.settings."))
            and getattr(module, "__file__", None)
        ):
            yield Path(str(module.__file__))


def _is_complete(folder: Path) -> bool:
    try:
        hashes = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
        return bool(hashes) and all(_hash_of(folder / name) == value for name, value in hashes.items())
    except (OSError, ValueError, AttributeError):  # missing, or not what was written
        return False


def _to_disk(path: Path) -> None:
    """Flush a file to disk: a checkpoint must survive a power cut before the previous one is deleted."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
