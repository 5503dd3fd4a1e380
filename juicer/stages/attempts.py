"""What a stage that has not finished leaves behind: which process runs it, or how it ended. `juicer status` reads it.

A stage that finishes removes its record, so a record whose process is gone tells of a stage that stopped.
"""

import os
import time
from contextlib import suppress
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from juicer.runtime.files import replace_text

FOLDER = Path(".juicer/attempts")
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
