"""Runs trials: templates once, every trial in a copy of its own, several at the same time."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from random import Random

from dev.faults import changes, injected, kills, outside, real
from dev.faults.outcome import Kind, Outcome, SkippedError
from dev.faults.table import Result
from dev.faults.workload import RUN, TRAINED, Project, copy_of, make_template, must

KINDS: list[Kind] = [*kills.KINDS, *changes.KINDS, *outside.KINDS, *real.KINDS]
INJECTED: list[Kind] = injected.KINDS
SHORT = {
    "kill: in a checkpoint": 1,
    "kill: in dvc.lock": 1,
    "kill: in DVC's rwlock": 1,
    "edit during a run": 1,
    "stray files among checkpoints": 1,
}
"""Trials of the short form."""


@dataclass(frozen=True)
class Trial:
    """One trial, as it is sent to a process of its own."""

    kind: str
    number: int
    seed: int


def trials(
    kinds: Sequence[Kind], seed: int, *, only: str = "", most: int | None = None, short: bool = False
) -> list[Trial]:
    """The trials of some kinds.

    Args:
        only: part of the names of the kinds that are wanted.
        most: trials of each kind, if it has more.
        short: whether only those of the short form.
    """
    found = []
    for kind in kinds:
        if only.lower() not in kind.name.lower():
            continue
        planted = kind in INJECTED
        count = SHORT.get(kind.name, planted) if short else kind.trials if most is None else min(most, kind.trials)
        found += [Trial(kind.name, number, seed) for number in range(count)]
    # Mixed, so that trials at the same time are not all at the same point.
    Random(seed).shuffle(found)
    return found


def make_templates(work: Path) -> None:
    """The projects that trials are copies of: `full`, all done; `base`, sft to be done; `both`, it and irft."""
    make_template(work / "full")
    for name, stages in {"base": ["sft"], "both": TRAINED}.items():
        subprocess.run(["cp", "-a", str(work / "full"), str(work / name)], check=True)
        Project(work / name).forget(*stages)
    with copy_of(work / "both", work / "undisturbed") as project:
        (work / "seconds").write_text(str(must(project.call(*RUN)).seconds))


def run_all(todo: Sequence[Trial], work: Path, jobs: int, *, keep: bool = False) -> Iterator[Result]:
    """Run the trials, `jobs` at a time; yields their results as they end. Those of real stages come last."""
    on_real = {kind.name for kind in KINDS if kind.template == "real"}
    parts = [(make_templates, [each for each in todo if each.kind not in on_real])]
    parts += [(lambda work: real.make_template(work / "real"), [each for each in todo if each.kind in on_real])]
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"))
    try:
        for make, part in parts:
            if part:
                make(work)
            for future in as_completed([pool.submit(run_one, trial, work, keep) for trial in part]):
                yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)  # of an interrupted call, the trials that have begun still end


def run_one(trial: Trial, work: Path, keep: bool = False) -> Result:
    """One trial in a fresh copy."""
    kind = next(kind for kind in (*KINDS, *INJECTED) if kind.name == trial.kind)
    random = Random(f"{trial.seed} {trial.kind} {trial.number}")
    name = "".join(each if each.isalnum() else "-" for each in f"{trial.kind}-{trial.number}")
    begun, folder = time.monotonic(), work / name
    with copy_of(work / kind.template, folder, keep=True) as project:
        try:
            outcome = kind.run(project, random, trial.number)
        except SkippedError as error:
            outcome = Outcome("skipped", [str(error)])
        except Exception as error:  # the harness goes on, and tells of it
            outcome = Outcome("wrong", [f"the trial itself failed: {type(error).__name__}: {error}"])
    if not keep or outcome.verdict in ("right", "skipped"):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(project.logs, ignore_errors=True)
    seconds = round(time.monotonic() - begun, 1)
    return Result(kind.name, trial.number, kind.kill, outcome.verdict, outcome.why, outcome.hit, seconds)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0))
