"""What a stage that has not finished leaves behind: which process runs it, or how it ended. `juicer status` reads it.

A stage that finishes removes its record, so a record whose process is gone tells of a stage that stopped.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from juicer.runtime.errors import InputError
from juicer.runtime.files import replace_text

FOLDER = Path(".juicer/attempts")
LOCKS = Path(".juicer/locks")
SECONDS_TO_END = 30.0
"""How long to wait for a process that is ending: more than it takes at most (stages/cancellation.py: LIMIT)."""
STARTED_WITHIN = 1.0
"""Seconds by which a clock may differ between a process's start, as the system has it, and its record."""


class Attempt(BaseModel):
    """One attempt at a stage."""

    model_config = ConfigDict(frozen=True)

    stage: str
    process: int
    """The number of the process that runs it."""
    started: float
    """Seconds since the epoch, as is `ended`."""
    ended: float | None = None
    """None while the stage runs, and for ever if it was killed."""
    line: str = ""
    """Why it ended, in the words that the stage printed."""

    def is_running(self) -> bool:
        """Whether its process is alive, and is not another one that was given its number since."""
        if self.ended is not None:
            return False
        try:
            return psutil.Process(self.process).create_time() <= self.started + STARTED_WITHIN
        except psutil.NoSuchProcess:
            return False


@contextmanager
def alone(stage: str) -> Iterator[None]:
    """Let only one process at a time run a stage in this folder: it publishes one output and uses one checkpoint.

    A stage that outlived the DVC which started it ends by itself; this waits for that.

    Raises:
        InputError: another process goes on running the stage.
    """
    # Processes that a stage starts may outlive it too; machines that share a disk run the same stage.
    parts = [os.environ.get(name, "") for name in ("JUICER_MACHINE_RANK", "LOCAL_RANK")]
    lock = FileLock(LOCKS / f"{'.'.join([stage, *filter(None, parts)])}.lock")
    LOCKS.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(f"{stage}: waiting for another process that runs this stage here", flush=True)
        try:
            lock.acquire(timeout=SECONDS_TO_END)
        except Timeout as error:
            what = f"another process has been running this stage here for {SECONDS_TO_END:.0f} s"
            raise InputError(what, where=stage, do="wait for it, or end it, and run again") from error
    try:
        yield
    finally:
        lock.release()


def begin(stage: str) -> Attempt:
    """Record that this process runs a stage."""
    attempt = Attempt(stage=stage, process=os.getpid(), started=time.time())
    _write(attempt)
    return attempt


def finish(attempt: Attempt, code: int, line: str) -> None:
    """Record how a stage ended; after exit code 0 there is nothing to record."""
    if code == 0:
        with suppress(OSError):
            _path(attempt.stage).unlink(missing_ok=True)
    else:
        _write(attempt.model_copy(update={"ended": time.time(), "line": line}))


def read() -> dict[str, Attempt]:
    """The last attempt at each stage that has not finished; what cannot be read is left out."""
    found = dict[str, Attempt]()
    for path in sorted(FOLDER.glob("*.json")):
        with suppress(OSError, ValidationError):
            attempt = Attempt.model_validate_json(path.read_text(encoding="utf-8"))
            found[attempt.stage] = attempt
    return found


def _path(stage: str) -> Path:
    return FOLDER / f"{stage}.json"


def _write(attempt: Attempt) -> None:
    # A full disk is an error of the stage, not of its record.
    with suppress(OSError):
        FOLDER.mkdir(parents=True, exist_ok=True)
        replace_text(_path(attempt.stage), attempt.model_dump_json() + "\n")
