"""A Prefect server as `make ui` starts it, without the rest: what survives its end, and another `make ui`."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from flows.gate import USER
from flows.notices import switch_off, switch_on
from flows.setup import set_up
from flows.ui import behind_gate, variables
from juicer.runtime.errors import InputError
from tests.conftest import ROOT
from tests.servers import ask, end, free_port, start

SECRET = "a-secret-of-this-test"


class PrefectServer:
    """Prefect's server with the settings of `make ui`, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        address = f"http://127.0.0.1:{self.port}"
        self.variables = variables(address, "", SECRET) | behind_gate(address, SECRET) | {"PREFECT_HOME": str(folder)}
        self.api = self.variables["PREFECT_API_URL"]
        self.start()

    def start(self) -> None:
        command = ["flows.gate", "prefect", "--port", str(self.port)]
        self.process = start(command, self.folder, f"{self.api}/health", **self.variables)

    def kill(self) -> None:
        """Kill it, as a power cut would."""
        end(self.process)

    def request(self, method: str, path: str, **body: Any) -> Any:
        answer = ask(method, f"{self.api}{path}", json=body or None, timeout=60, auth=(USER, SECRET))
        return answer.json() if answer.content else None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A server that has been set up once, and is the one that Prefect's clients here know."""
    running = PrefectServer(tmp_path_factory.mktemp("prefect"))
    try:
        with temporary_settings({PREFECT_API_URL: running.api, PREFECT_API_AUTH_STRING: f"{USER}:{SECRET}"}):
            set_up(1)
            yield running
    finally:
        running.kill()


def test_who_holds_a_gpu_keeps_it_over_a_power_cut_and_gives_it_back(server: PrefectServer) -> None:
    path = "/v2/concurrency_limits"
    lease = server.request("POST", f"{path}/increment-with-lease", names=["gpu"], slots=1, lease_duration=300)[
        "lease_id"
    ]
    server.kill()
    server.start()
    server.request("POST", f"{path}/leases/{lease}/renew", lease_duration=300)
    assert server.request("GET", f"{path}/gpu")["active_slots"] == 1
    server.request("POST", f"{path}/decrement-with-lease", lease_id=lease)
    assert server.request("GET", f"{path}/gpu")["active_slots"] == 0


def test_notices_are_switched_on_and_off_and_their_address_is_not_shown(server: PrefectServer) -> None:
    before = automations(server).keys()
    with pytest.raises(InputError, match="set JUICER_WEBHOOK_URL, or make the block juicer-webhook"):
        switch_on("webhook", {})
    names = switch_on("webhook", {"JUICER_WEBHOOK_URL": "http://127.0.0.1:9/a-secret-path"})
    assert names == [f"notice-{name}-webhook" for name in ("finished", "failed", "refused")]
    made = automations(server)
    assert made.keys() == before | set(names) and all(made[name]["enabled"] for name in names)
    assert "a-secret-path" not in str(server.request("POST", "/block_documents/filter", limit=200))
    assert switch_on("webhook", {}) == names, "the block is there"
    assert {name: each["id"] for name, each in automations(server).items()} == {
        name: each["id"] for name, each in made.items()
    }
    assert switch_off("webhook") == names
    assert automations(server).keys() == before


def automations(server: PrefectServer) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in server.request("POST", "/automations/filter", limit=50)}


def test_an_automation_that_is_as_it_should_be_is_left_alone_so_that_it_forgets_no_run(server: PrefectServer) -> None:
    before = automations(server)
    set_up()
    assert before.keys() == {"zombies", "no-worker"}
    assert automations(server) == before


def test_an_automation_that_differs_is_brought_up_to_date_and_stays_switched_off(server: PrefectServer) -> None:
    before = automations(server)["zombies"]
    changed = {name: before[name] for name in ("name", "trigger", "actions")}
    server.request("PUT", f"/automations/{before['id']}", **changed, description="old", enabled=False)
    set_up()
    after = automations(server)["zombies"]
    assert after["id"] == before["id"]
    assert (after["description"], after["enabled"]) == (before["description"], False)


def test_setting_up_again_keeps_the_limit_on_gpus_and_the_values_of_the_pools(server: PrefectServer) -> None:
    assert set_up(gpus=4) == 4
    template = server.request("GET", "/work_pools/docker")["base_job_template"]
    template["variables"]["properties"]["image"]["default"] = "ours:1"
    server.request("PATCH", "/work_pools/docker", base_job_template=template, concurrency_limit=2)
    assert set_up() == 4
    pool = server.request("GET", "/work_pools/docker")
    assert (pool["base_job_template"], pool["concurrency_limit"]) == (template, 2)


def test_the_schedule_is_paused_at_first_and_stays_resumed_when_deployed_again(server: PrefectServer) -> None:
    assert deployed_schedule(server)["active"] is False
    deployment = server.request("GET", "/deployments/name/align/align")
    path = f"/deployments/{deployment['id']}/schedules/{deployment['schedules'][0]['id']}"
    server.request("PATCH", path, active=True)
    assert deployed_schedule(server)["active"] is True


def deployed_schedule(server: PrefectServer) -> dict[str, Any]:
    """Deploy `align`, as one types it; returns its one schedule."""
    command = [Path(sys.executable).with_name("prefect"), "--no-prompt", "deploy", "--name", "align"]
    environ = {**os.environ, **server.variables}
    del environ["PYTHONPATH"]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (schedule,) = server.request("GET", "/deployments/name/align/align")["schedules"]
    return dict(schedule)


def test_a_run_fails_in_words_where_the_worker_was_not_told_its_checkout(server: PrefectServer) -> None:
    deployed_schedule(server)
    deployment = server.request("GET", "/deployments/name/align/align")["id"]
    run = server.request("POST", f"/deployments/{deployment}/create_flow_run", parameters={})["id"]
    environ = {name: value for name, value in {**os.environ, **server.variables}.items() if name != "JUICER_CHECKOUT"}
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "process", "--run-once"]
    subprocess.run(command, cwd=server.folder, env=environ, check=True)
    state = server.request("GET", f"/flow_runs/{run}")["state"]
    assert (state["type"], state["message"]) == ("FAILED", "JUICER_CHECKOUT is not set: start the worker with it")
