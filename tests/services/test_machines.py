"""Stages on another machine: a second checkout with a worker of its own, and a folder as the shared DVC remote."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services.conftest import PATIENCE, Services
from tests.tiny_graph import STAGES, call, commit, environment, git

TRACE = Path(".juicer/trace")


@pytest.fixture(scope="module")
def shared(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Services:
    """The project with a DVC remote, committed."""
    if not (services.folder / "dvc.lock").is_file():
        call(services.folder, "dvc", "repro", "-q")
    call(services.folder, "dvc", "remote", "add", "-d", "shared", str(tmp_path_factory.mktemp("remote")))
    commit(services.folder)
    return services


@pytest.fixture
def machine(shared: Services, tmp_path: Path) -> Iterator[Path]:
    """A clone with a worker that takes one stage at a time."""
    folder = tmp_path / "machine"
    git(tmp_path, "clone", "-q", str(shared.folder), str(folder))
    environ = environment(folder, PREFECT_API_URL=shared.api, JUICER_CHECKOUT=str(folder), PREFECT_HOME=str(tmp_path))
    worker = subprocess.Popen(
        [sys.executable, "-m", "prefect", "worker", "start", "--pool", "machines", "--limit", "1"],
        cwd=folder, env=environ | {"PREFECT_WORKER_QUERY_SECONDS": "1"},
    )  # fmt: skip
    try:
        yield folder
    finally:
        worker.terminate()
        worker.wait(timeout=PATIENCE)


def test_without_a_worker_the_run_says_so_and_runs_nothing(shared):
    run = shared.start(on_machines=True)
    state = shared.ended(run)
    assert state["type"] == "FAILED"
    assert state["message"].startswith("no worker polls the work pool 'machines' (on each machine")
    assert shared.stages(run) == {}


def test_stages_run_in_the_worker_s_checkout_only_and_come_back_through_the_remote(shared, machine):
    lock = (shared.folder / "dvc.lock").read_bytes()
    result = (shared.folder / "out/last").read_bytes()
    for path in ("out", ".dvc/cache"):
        shutil.rmtree(shared.folder / path)
    (shared.folder / TRACE).unlink()

    run = shared.start(on_machines=True)
    assert shared.ended(run)["type"] == "COMPLETED", shared.logs(run)
    assert {name: each["state"]["name"] for name, each in shared.stages(run).items()} == dict.fromkeys(STAGES, "Ran")

    assert not (shared.folder / TRACE).exists()
    assert set((machine / TRACE).read_text().split()) == {
        "out/first/text", "out/slow", "out/quick-x", "out/quick-y", "out/last"
    }  # fmt: skip
    assert (shared.folder / "dvc.lock").read_bytes() == lock
    assert (shared.folder / "out/last").read_bytes() == result
