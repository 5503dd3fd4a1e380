"""A run that is ended in the middle of a stage, however it is, leaves nobody behind and goes on to the same bytes."""

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from juicer.runtime.process_groups import GROUP, members, run_in_group
from tests.finished_pipeline import activate, call
from tests.python import environment
from tests.shared import copied

LONGER = ["sft.epochs=15", "irft.training.epochs=40", "rft.policy.steps=10"]
"""Such that a stage is at work for seconds after its first checkpoint."""
STAGES = ["sft", "irft_train@r1", "rft_policy@r1"]
PATIENCE = 3600.0
"""Seconds after which a test gives up waiting for what will never happen; no measure of how long it may take."""


def dvc(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "dvc", *arguments]


@pytest.fixture(scope="module")
def project(finished_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in which the three stages have run without an interruption."""
    folder = copied(finished_pipeline, tmp_path_factory.mktemp("project"))
    activate(folder, *LONGER)
    call(folder, "dvc", "repro", "--force", "--single-item", *STAGES)
    return folder


@pytest.fixture
def group() -> Iterator[str]:
    """The mark of a test's tree of processes; survivors of a test that failed are killed."""
    mark = f"{os.getpid()}.{uuid.uuid4().hex}"
    yield mark
    for process in members(mark):
        process.kill()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def output_of(project: Path, stage: str) -> Path:
    return (
        project
        / {"sft": "models/sft", "irft_train@r1": "models/irft/r1", "rft_policy@r1": "models/rft/r1/policy"}[stage]
    )


def wait_for(happens: Callable[[], object], what: str, running: subprocess.Popen[str] | None = None) -> None:
    end = time.monotonic() + PATIENCE
    while not happens():
        assert time.monotonic() < end, f"waited in vain for {what}"
        assert running is None or running.poll() is None, running.communicate()[0][-3000:]
        time.sleep(0.02)


def checkpoints(project: Path, stage: str) -> list[Path]:
    return sorted((project / ".juicer/checkpoints" / stage).glob("*/work/[0-9]*"))


def start(project: Path, stage: str, group: str) -> "subprocess.Popen[str]":
    """`dvc repro` of one stage, as in a terminal of its own, up to the stage's first checkpoint."""
    running = subprocess.Popen(
        dvc("repro", "--force", "--single-item", stage),
        cwd=project,
        env=environment(project, JUICER_CHECKPOINT_SECONDS="0.1", **{GROUP: group}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    wait_for(lambda: checkpoints(project, stage), f"a checkpoint of {stage}", running)
    return running


def stage_in(group: str) -> psutil.Process:
    return next(process for process in members(group) if any(".rft_policy" in part for part in process.cmdline()))


ENDS: dict[str, Callable[["subprocess.Popen[str]", str], None]] = {
    "Ctrl-C": lambda running, group: os.killpg(running.pid, signal.SIGINT),
    "SIGTERM to dvc": lambda running, group: running.terminate(),
    "kill -9 of the stage": lambda running, group: stage_in(group).kill(),
}


@pytest.mark.parametrize(("stage", "end"), list(zip(STAGES, ENDS, strict=True)))
def test_a_stage_that_was_ended_leaves_nobody_and_goes_on_to_the_same_bytes(project, group, stage, end):
    out = output_of(project, stage)
    uninterrupted = contents(out)
    running = start(project, stage, group)
    ENDS[end](running, group)
    wait_for(lambda: not members(group), "the end of all processes")
    printed = running.communicate()[0]
    assert running.returncode != 0
    assert not out.exists()
    assert checkpoints(project, stage)
    if end != "kill -9 of the stage":
        assert "resumes from the checkpoint" in printed
        assert list((project / ".juicer/scratch").iterdir()) == []

    again = call(project, "dvc", "repro", "--force", "--single-item", stage).stdout
    assert "resuming from the checkpoint" in again
    assert contents(out) == uninterrupted
    assert not (project / ".juicer/checkpoints" / stage).exists()
    assert list((project / ".juicer/scratch").iterdir()) == []


def test_a_group_that_is_cancelled_checkpoints_and_frees_the_locks(project):
    cancel = threading.Event()
    lines: list[str] = []

    def cancel_at_a_checkpoint() -> None:
        wait_for(lambda: checkpoints(project, "irft_train@r1"), "a checkpoint of irft_train")
        cancel.set()

    waiting = threading.Thread(target=cancel_at_a_checkpoint)
    waiting.start()
    command = dvc("repro", "--force", "--single-item", "irft_train@r1")
    code = run_in_group(
        command,
        lines.append,
        cancel=cancel,
        folder=project,
        environment=environment(project, JUICER_CHECKPOINT_SECONDS="0.1"),
    )
    waiting.join()
    assert code != 0
    assert any("resumes from the checkpoint" in line for line in lines)
    lines.clear()
    assert run_in_group(command, lines.append, folder=project, environment=environment(project)) == 0
    assert any("resuming from the checkpoint" in line for line in lines)
