"""Stages that wait for a GPU, on a real Prefect server whose only one somebody else holds."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from flows.evaluate import evaluate
from flows.execute import gpus_held
from flows.remote import stage
from juicer.runtime.errors import InputError
from tests.services.conftest import PATIENCE, Services, until
from tests.tiny_graph import commit, environment, make


@pytest.fixture
def taken(services: Services) -> Iterator[Services]:
    """The services, with the limit on GPUs used up."""
    limit = {"names": ["gpu"], "slots": 1}
    services.post("/v2/concurrency_limits/increment", **limit)
    yield services
    services.post("/v2/concurrency_limits/decrement", **limit, occupancy_seconds=1)


@pytest.fixture
def modelling(tmp_path: Path) -> Path:
    """A project whose stage `first` declares that it uses a GPU."""
    folder = make(tmp_path)
    graph = folder / "dvc.yaml"
    deps = "deps: [source.txt, work.py]\n"
    text = graph.read_text()
    assert deps in text
    graph.write_text(text.replace(deps, f"{deps}    meta: {{gpus: 1}}\n"))
    return folder


@pytest.fixture
def with_gpu(services: Services, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    """The services for flows in this process, on a machine that has a GPU."""
    monkeypatch.setattr("flows.execute.DRIVER", Path(os.devnull))
    server = {PREFECT_API_URL: services.api, PREFECT_API_AUTH_STRING: ":".join(services.credentials())}
    with temporary_settings(updates=server):
        yield services


def units(services: Services) -> int:
    """How much of the limit is in use."""
    return int(services.get("/v2/concurrency_limits/gpu")["active_slots"])


def started(folder: Path, services: Services, log: Path, driver: str) -> "subprocess.Popen[bytes]":
    """`python -m flows.align --until first` on a machine that has a GPU if the file `driver` is there."""
    code = f"import pathlib; from flows import align, execute; execute.DRIVER = pathlib.Path({driver!r}); align.main()"
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-c", code, "--until", "first"], cwd=folder, stdout=output, stderr=output,
            env=environment(folder, **services.variables()), start_new_session=True,
        )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stage_that_waits_for_a_gpu_says_so_once_and_ends_when_told_to(taken, modelling, tmp_path, number):
    log = tmp_path / "log"
    process = started(modelling, taken, log, driver=os.devnull)
    try:
        until(lambda: b"waiting for a GPU" in log.read_bytes(), "the stage to wait")
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=8)
        os.kill(process.pid, number)
        assert process.wait(timeout=PATIENCE) != 0
    finally:
        process.kill()
        process.wait()
    text = log.read_text()
    assert text.count("waiting for a GPU") == 1 and "prefect gcl inspect gpu" in text.replace("\n", " ")
    assert not (modelling / "out").exists()


def test_a_stage_waits_for_nobody_on_a_machine_without_a_gpu(taken, modelling, tmp_path):
    process = started(modelling, taken, tmp_path / "log", driver="/dev/null/none")
    try:
        assert process.wait(timeout=PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
    assert "waiting for a GPU" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize(("wanted", "expected"), [(0, 0), (1, 1), (2, 2), (8, 3)])
def test_a_stage_holds_a_unit_for_each_gpu_but_no_more_than_there_are(with_gpu, wanted, expected):
    limit = "/v2/concurrency_limits/gpu"
    with_gpu.patch(limit, limit=3)
    try:
        with gpus_held(wanted, print, threading.Event()):
            assert units(with_gpu) == expected
    finally:
        with_gpu.patch(limit, limit=1)
    assert units(with_gpu) == 0


def test_an_evaluation_holds_the_gpu(with_gpu, modelling, monkeypatch):
    def measure(*_: Any, **__: Any) -> Any:
        raise InputError(f"{units(with_gpu)} in use")

    monkeypatch.chdir(modelling)
    monkeypatch.setattr("flows.evaluate.measure", measure)
    assert evaluate("any", return_state=True).message == "1 in use"
    assert units(with_gpu) == 0


def test_a_stage_on_another_machine_holds_the_gpu_there(with_gpu, modelling, monkeypatch):
    def repro(*_: Any, **__: Any) -> Any:
        raise InputError(f"{units(with_gpu)} in use")

    monkeypatch.chdir(modelling)
    commit(modelling)
    monkeypatch.setattr("flows.remote.repro", repro)
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    work = {"commit": head, "params": Path("params.yaml").read_text(), "lock": "stages: {}", "sender": "nobody"}
    assert stage("first", **work, gpus=1, return_state=True).message == "1 in use"
    assert units(with_gpu) == 0
