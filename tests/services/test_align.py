"""The flow `align` on a real Prefect server with a worker: what it runs, shows and leaves, and how it is stopped."""

import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from juicer.stages.gpus import gpus_of_machine
from tests.chromium import program
from tests.services.conftest import PATIENCE, Services, until
from tests.tiny_graph import STAGES, call, make

NEEDED = {"slow": "first", "quick@x": "first", "quick@y": "first", "last": "slow", "always": "last"}


@contextmanager
def lasting(services: Services) -> Iterator[None]:
    """The project with a `slow` that lasts minutes, as it was afterwards."""
    graph = services.folder / "dvc.yaml"
    before = graph.read_text()
    graph.write_text(before.replace("work.py slow 2", "work.py slow 600"))
    try:
        yield
    finally:
        graph.write_text(before)


@pytest.fixture
def patient(services: Services) -> Iterator[Services]:
    with lasting(services):
        yield services


def begun(services: Services, run: str) -> None:
    """Wait until `slow` is at work."""
    until(lambda: "slow step 0" in services.logs(run), "the first step of slow")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_leaves_the_bytes_that_dvc_repro_leaves_and_the_next_one_finds_nothing_to_do(services, tmp_path):
    run = services.start(at_a_time=3)
    assert services.ended(run)["type"] == "COMPLETED", services.logs(run)

    other = make(tmp_path)
    call(other, "dvc", "repro", "-q")
    assert (services.folder / "dvc.lock").read_bytes() == (other / "dvc.lock").read_bytes()
    assert contents(services.folder / "out") == contents(other / "out")

    stages = services.stages(run)
    assert set(stages) == set(STAGES)
    assert {each["state"]["name"] for each in stages.values()} == {"Ran"}
    for stage, needed in NEEDED.items():
        assert stages[stage]["start_time"] >= stages[needed]["end_time"]
    # The three in the middle did not wait for one another.
    assert stages["quick@y"]["start_time"] < stages["slow"]["end_time"]
    assert {"slow step 0", "slow step 2"} <= set(services.logs(run))

    again = services.start()
    assert services.ended(again)["type"] == "COMPLETED"
    results = {name: each["state"]["name"] for name, each in services.stages(again).items()}
    assert results == dict.fromkeys(STAGES, "Unchanged") | {"always": "Ran"}
    assert (services.folder / "dvc.lock").read_bytes() == (other / "dvc.lock").read_bytes()


def test_the_plan_the_progress_and_the_end_are_artifacts_and_a_run_has_the_name_that_its_user_gave_it(services):
    deployment = services.get("/deployments/name/align/align")["id"]
    path, given = f"/deployments/{deployment}/create_flow_run", {"until_stage": "quick"}
    run = services.post(path, name="before the demo", parameters=given)["id"]
    assert services.ended(run)["type"] == "COMPLETED"
    assert services.get(f"/flow_runs/{run}")["name"] == "before the demo"
    shown = services.artifacts(run)
    assert shown["progress"] == 100
    assert "| quick@x | " in shown["plan"] and "slow" not in shown["plan"]
    assert "| quick@x | " in shown["stages"]


def test_a_lost_output_is_restored_not_made_again(services):
    call(services.folder, "dvc", "repro", "-q")
    shutil.rmtree(services.folder / "out")
    run = services.start(until_stage="last")
    assert services.ended(run)["type"] == "COMPLETED"
    assert services.get(f"/flow_runs/{run}")["name"] == "active", "it is called by what it does"
    assert {each["state"]["name"] for each in services.stages(run).values()} == {"Restored"}


def test_a_failing_stage_fails_the_run_with_its_last_lines_and_stops_what_would_follow(services):
    broken = services.folder / "broken"
    broken.touch()
    try:
        run = services.start(from_stage="quick", force=True)
        state = services.ended(run)
    finally:
        broken.unlink()
    assert state["type"] == "FAILED"
    assert "quick@" in state["message"] and "error: source.txt: the input is broken" in state["message"]
    assert not {"last", "always"} & set(services.stages(run))


@dataclass(frozen=True)
class Cancelled:
    """What there was to see of a run with overrides that was cancelled, and of the next one."""

    params: list[bytes]
    """params.yaml before, while it was at work, and when it had ended."""
    refused: "subprocess.CompletedProcess[str]"
    """Of a second run, from the command line, while it was at work."""
    state: str
    next_state: str


@pytest.fixture(scope="module")
def cancelled(services: Services) -> Cancelled:
    with lasting(services):
        params = services.folder / "params.yaml"
        before = params.read_bytes()
        run = services.start(overrides=["seed=7"])
        begun(services, run)
        assert services.processes("work.py", "dvc")
        during = params.read_bytes()
        refused = call(services.folder, "flows.align", check=False, **services.variables())
        services.post(f"/flow_runs/{run}/set_state", state={"type": "CANCELLING"})
        state = services.ended(run)["type"]
        until(lambda: not services.processes("work.py", "dvc", "prefect.engine"), "the end of the process tree")
        after = params.read_bytes()
        call(services.folder, "dvc", "status")
        graph = services.folder / "dvc.yaml"
        graph.write_text(graph.read_text().replace("slow 600", "slow 1"))
        return Cancelled([before, during, after], refused, state, services.ended(services.start())["type"])


def test_cancelling_ends_the_whole_tree_frees_the_locks_and_a_new_run_takes_up(cancelled):
    assert (cancelled.state, cancelled.next_state) == ("CANCELLED", "COMPLETED")


def test_a_second_run_from_the_command_line_is_refused_while_one_is_at_work(cancelled):
    assert cancelled.refused.returncode == 1
    assert "is working in this folder" in cancelled.refused.stderr.splitlines()[-1]


def test_overrides_of_a_cancelled_run_are_not_left_behind(cancelled, services):
    before, during, after = cancelled.params
    assert before == after != during
    assert not (services.folder / ".juicer/before_run.json").exists()


def test_a_killed_flow_is_told_as_crashed_and_a_new_run_takes_up(patient):
    run = patient.start()
    begun(patient, run)
    for process in patient.processes("prefect.engine"):
        process.kill()
    assert patient.ended(run)["type"] == "CRASHED"
    for process in patient.processes("work.py"):  # a stage of ours would notice by itself that its flow is gone
        os.kill(process.pid, signal.SIGKILL)
    until(lambda: not patient.processes("work.py", "dvc"), "the end of what the flow had started")
    graph = patient.folder / "dvc.yaml"
    graph.write_text(graph.read_text().replace("slow 600", "slow 1"))
    assert patient.ended(patient.start())["type"] == "COMPLETED"


def test_an_unknown_stage_fails_the_run_in_one_line(services):
    run = services.start(until_stage="slwo")
    state = services.ended(run)
    assert (state["type"], state["message"]) == ("FAILED", "dvc.yaml: no stage 'slwo' (did you mean 'slow'?)")


def test_an_unknown_recipe_is_refused_before_the_run(services):
    with pytest.raises(httpx.HTTPStatusError) as refused:
        services.start(recipe="quickstrat")
    assert "is not one of" in refused.value.response.text


def test_a_new_recipe_appears_in_the_form_without_deploying_again(services):
    recipe = services.folder / "recipes/fresh.yaml"
    recipe.write_text((services.folder / "recipes/quickstart.yaml").read_text())

    def offered() -> list[str]:
        schema = services.get("/deployments/name/align/align")["parameter_openapi_schema"]
        return list(schema["properties"]["recipe"]["enum"])

    try:
        until(lambda: "fresh" in offered(), "the new recipe in the form")
    finally:
        recipe.unlink()
    until(lambda: "fresh" not in offered(), "its end")
    stages = services.get("/deployments/name/align/align")["parameter_openapi_schema"]["properties"]["until_stage"]
    assert {"slow", "quick", "quick@x"} <= set(stages["anyOf"][0]["enum"])


@pytest.mark.parametrize("override", ["seed", "iftr.rounds=4"])
def test_what_is_no_override_is_refused_before_the_run(services, override):
    with pytest.raises(httpx.HTTPStatusError) as refused:
        services.start(overrides=[override])
    assert "does not match" in refused.value.response.text


def test_an_override_that_the_recipe_refuses_fails_the_run_in_one_line(services):
    before = (services.folder / "params.yaml").read_bytes()
    state = services.ended(services.start(overrides=["irft.round=4"]))
    assert state["type"] == "FAILED"
    assert state["message"] == "params.yaml: unknown parameter 'irft.round' (did you mean 'rounds'?)"
    assert (services.folder / "params.yaml").read_bytes() == before


def test_a_dirty_workspace_is_refused_where_a_clean_one_is_required(services):
    (services.folder / "source.txt").write_text("changed")
    try:
        state = services.ended(services.start(require_clean=True))
    finally:
        (services.folder / "source.txt").write_text("source")
    assert state["type"] == "FAILED"
    assert "uncommitted changes" in state["message"] and "source.txt" in state["message"]


def test_the_schedule_is_there_and_paused(services):
    (schedule,) = services.get("/deployments/name/align/align")["schedules"]
    assert not schedule["active"]
    assert schedule["schedule"]["cron"] == "0 2 * * *"


def test_pools_the_gpu_limit_and_the_automations_are_there(services):
    assert services.get("/work_pools/process")["type"] == "process"
    variables = services.get("/work_pools/docker")["base_job_template"]["variables"]["properties"]
    assert {"device_requests", "shm_size", "volumes", "user", "image_pull_policy"} <= set(variables)
    assert services.get("/v2/concurrency_limits/gpu")["limit"] == max(1, len(gpus_of_machine()))
    # The last one is the trigger of the deployment `evaluate`.
    automations = {each["name"] for each in services.post("/automations/filter")}
    assert automations == {"zombies", "no-worker", "evaluate__automation_1"}


def test_a_page_of_another_origin_can_neither_create_a_deployment_nor_read_anything(services):
    flow = services.post("/flows/", name="of-another-origin")["id"]
    pull = [{"prefect.deployments.steps.run_shell_script": {"script": "touch /tmp/owned"}}]
    wanted = {"name": "any", "flow_id": flow, "pull_steps": pull}
    for headers, auth, status in (
        ({"Origin": "http://127.0.0.1:9999"}, services.credentials(), 403),
        ({"Host": "evil.example"}, services.credentials(), 403),
        ({}, None, 401),
    ):
        for address in (f"{services.api}/deployments/", f"{services.mlflow}/api/2.0/mlflow/experiments/create"):
            assert httpx.post(address, json=wanted, headers=headers, auth=auth).status_code == status
    assert services.post("/deployments/filter", deployments={"name": {"any_": ["any"]}}) == []


def test_the_secret_is_in_no_log_and_on_no_command_line_and_nobody_else_can_read_it(services):
    _, secret = services.credentials()
    folder = services.folder / ".juicer/ui"
    for path in folder.iterdir():
        assert secret not in path.read_text() or path.name in ("secret", "env"), path
        assert path.name not in ("secret", "env") or stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not any(secret in " ".join(each.cmdline()) for each in services.processes("prefect", "mlflow", "flows"))


def test_the_printed_address_opens_the_page_of_the_runs_in_a_browser(services, tmp_path):
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--dump-dom"]
    command = [program(), *options, "--virtual-time-budget=60000", services.log_in.replace("/?", "/runs?")]
    page = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout
    assert "Flow runs" in page or "Flow Runs" in page, page[-2000:]
