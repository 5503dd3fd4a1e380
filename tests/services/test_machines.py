"""Stages on another machine: a second checkout with a worker of its own, and a folder as the shared DVC remote."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from flows.execute import Stopped
from flows.remote import _final_state as end_of
from tests.services.conftest import Services, worker
from tests.tiny_graph import STAGES, call, commit, git

TRACE = Path(".juicer/trace")


@pytest.fixture(scope="module")
def shared(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Services:
    """The project with a DVC remote, committed."""
    call(services.folder, "dvc", "repro", "-q")  # whatever the tests before have left
    call(services.folder, "dvc", "remote", "add", "-d", "shared", str(tmp_path_factory.mktemp("remote")))
    commit(services.folder)
    return services


@pytest.fixture
def machine(shared: Services, tmp_path: Path) -> Iterator[Path]:
    """A clone with a worker."""
    folder = tmp_path / "machine"
    git(tmp_path, "clone", "-q", str(shared.folder), str(folder))
    with worker(shared, "machines", folder, tmp_path):
        yield folder


def test_without_a_worker_the_run_says_so_and_runs_nothing(shared):
    run = shared.start(on_machines=True)
    state = shared.ended(run)
    assert state["type"] == "FAILED"
    assert state["message"].startswith("no worker is polling the work pool 'machines' (on each machine")
    assert shared.stages(run) == {}


@pytest.mark.slow
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


def test_a_worker_in_the_sender_s_own_checkout_says_so_instead_of_waiting_for_it(shared, tmp_path):
    params = shared.folder / "params.yaml"
    before = params.read_bytes()
    with worker(shared, "machines", shared.folder, tmp_path):
        # A seed of its own: what another test has run would be restored, and not sent.
        run = shared.start(on_machines=True, until_stage="quick", overrides=["seed=1117"])
        state = shared.ended(run)
    params.write_bytes(before)
    assert state["type"] == "FAILED"
    assert "this worker runs in the checkout that sent the stage" in state["message"]


def test_who_waits_for_a_machine_is_told_when_no_worker_takes_the_work(services):
    work = {"stage": "first", "commit": "", "params": "", "lock": "", "sender": ""}
    run, said, cancel = services.start("stage/stage", **work), list[str](), threading.Event()

    def line(text: str) -> None:
        said.append(text)
        threading.Timer(3, cancel.set).start()  # time to say it again

    server = {PREFECT_API_URL: services.api, PREFECT_API_AUTH_STRING: ":".join(services.credentials())}
    with temporary_settings(updates=server), pytest.raises(Stopped):
        end_of(UUID(run), line, cancel)
    services.post(f"/flow_runs/{run}/set_state", state={"type": "CANCELLED"}, force=True)
    assert len(said) == 1
    assert said[0].startswith("work pool 'machines': No worker has taken this run.")
