"""The content of `juicer status`: each stage's forecast or state, and where and why the last run stopped."""

import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.forecast import looking, plan
from juicer.stages import attempts
from juicer.stages.attempts import Attempt
from juicer.stages.checkpoint import FOLDER as CHECKPOINTS
from juicer.stages.costs import COSTS, StageCost

STATES = ("running", "unchanged", "restored", "will run")
KILLED = "killed without a message: out of memory, or from outside"


@dataclass(frozen=True)
class Row:
    """One stage."""

    stage: str
    state: str
    """One of STATES."""
    note: str = ""
    failed: bool = False
    """Whether its last attempt stopped before its end and it still has to run."""


@dataclass(frozen=True)
class Status:
    """All stages, in the order in which `dvc repro` takes them, and the summary below them."""

    rows: tuple[Row, ...]
    lines: tuple[str, ...]


def read(params: str | None = None) -> Status:
    """The status of the project in the working directory; runs and changes nothing.

    Args:
        params: the content of params.yaml to tell the status with, in place of what is there.
    """
    planned = plan(params=params)
    known, busy = attempts.read(), _written()
    rows = tuple(_row(stage.name, stage.forecast, known.get(stage.name), busy) for stage in planned)
    counts = Counter(row.state for row in rows)
    lines = [f"{len(rows)} stages: " + ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])]
    stopped = [known[row.stage] for row in rows if row.failed]
    if stopped and not counts["running"]:
        last = max(stopped, key=lambda attempt: attempt.ended or attempt.started)
        lines.append(f"The last run stopped at {last.stage}, {_when(last)}: {last.line or KILLED}")
    if counts["running"]:
        lines.append("A run is in progress in this folder.")
    elif counts["will run"] or counts["restored"]:
        lines.append("Next: juicer run")
    return Status(rows, tuple(lines))


def _row(stage: str, forecast: str, attempt: Attempt | None, busy: set[str]) -> Row:
    if stage in busy or (attempt is not None and attempt.is_running()):
        since = f"since {time.strftime('%H:%M:%S', time.localtime(attempt.started))}" if attempt else ""
        return Row(stage, "running", since)
    if forecast != "will run":
        return Row(stage, forecast, _took(stage) if forecast == "unchanged" else "")
    saved = "; resumes from its checkpoint" if (CHECKPOINTS / stage).is_dir() else ""
    if attempt is None:
        return Row(stage, forecast, saved.removeprefix("; "))
    return Row(stage, forecast, f"stopped {_when(attempt)}{saved}", failed=True)


def _took(stage: str) -> str:
    path = COSTS / f"{stage}.json"
    seconds = StageCost.read(path).seconds if path.is_file() else None
    return "" if seconds is None else f"took {seconds:.1f} s"


def _when(attempt: Attempt) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(attempt.ended or attempt.started))


def _written() -> set[str]:
    """The stages whose outputs a living DVC command is writing; `plan` has removed what dead ones left."""
    with looking() as repo:
        from dvc.rwlock import RWLOCK_FILE

        try:
            locked: dict[str, Any] = json.loads(Path(str(repo.tmp_dir), RWLOCK_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return set()
        paths = set(locked.get("write", {}))
        return {stage.addressing for stage in repo.index.stages if paths & {out.fs_path for out in stage.outs}}
