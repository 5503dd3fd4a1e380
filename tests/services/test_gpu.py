"""Stages that wait for a GPU, on a real Prefect server whose only one somebody else holds."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services.conftest import PATIENCE, Services, until
from tests.tiny_graph import environment, make


@pytest.fixture
def taken(services: Services) -> Iterator[Services]:
    """The services, with the limit on GPUs used up."""
    limit = {"names": ["gpu"], "slots": 1}
    services.post("/v2/concurrency_limits/increment", **limit)
    yield services
    services.post("/v2/concurrency_limits/decrement", **limit, occupancy_seconds=1)


@pytest.fixture
def modelling(tmp_path: Path) -> Path:
    """A project whose stage `first` loads a model, as far as the flows can tell."""
    folder = make(tmp_path)
    graph = folder / "dvc.yaml"
    graph.write_text(graph.read_text().replace("[source.txt, work.py]", "[source.txt, work.py, irl/models.py]"))
    return folder


def started(folder: Path, services: Services, log: Path, driver: str) -> "subprocess.Popen[bytes]":
    """`python -m flows.align --until first` on a machine that has a GPU if the file `driver` is there."""
    code = f"import pathlib, flows.run, flows.align; flows.run.DRIVER = pathlib.Path({driver!r}); flows.align.main()"
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-c", code, "--until", "first"], cwd=folder, stdout=output, stderr=output,
            env=environment(folder, PREFECT_API_URL=services.api), start_new_session=True,
        )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stage_that_waits_for_a_gpu_says_so_once_and_ends_when_told_to(taken, modelling, tmp_path, number):
    log = tmp_path / "log"
    process = started(modelling, taken, log, driver=os.devnull)
    try:
        until(lambda: b"waits for a GPU" in log.read_bytes(), "the stage to wait")
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=8)
        os.kill(process.pid, number)
        assert process.wait(timeout=30) != 0
    finally:
        process.kill()
        process.wait()
    text = log.read_text()
    assert text.count("waits for a GPU") == 1 and "prefect gcl inspect gpu" in text.replace("\n", " ")
    assert not (modelling / "out").exists()


def test_a_stage_waits_for_nobody_on_a_machine_without_a_gpu(taken, modelling, tmp_path):
    process = started(modelling, taken, tmp_path / "log", driver="/dev/null/none")
    try:
        assert process.wait(timeout=PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
    assert "waits for a GPU" not in (tmp_path / "log").read_text()
