"""What the flow expects of each stage before anything runs, against what DVC then does."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from flows.forecast import plan, repair_locks
from juicer.runtime.errors import InputError
from tests.tiny_graph import STAGES, call, environment, make


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which every stage has run, with two values of the seed."""
    folder = make(tmp_path_factory.mktemp("project"))
    call(folder, "dvc", "repro", "-q")
    set_seed(folder, 1)
    call(folder, "dvc", "repro", "-q")
    return folder


@pytest.fixture
def done(ran: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That project as the working directory."""
    monkeypatch.chdir(ran)
    return ran


def set_seed(folder: Path, seed: int) -> None:
    params = folder / "params.yaml"
    lines = [f"seed: {seed}" if line.startswith("seed:") else line for line in params.read_text().splitlines()]
    params.write_text("\n".join(lines) + "\n")


def forecast(**choice: str | bool) -> dict[str, str]:
    return {stage.name: stage.forecast for stage in plan(**choice)}


def test_stages_come_in_the_order_of_dvc_and_know_what_they_wait_for(done):
    planned = plan()
    assert [stage.name for stage in planned] == STAGES
    assert {stage.name: set(stage.needs) for stage in planned}["last"] == {"slow", "quick@x", "quick@y"}


def test_what_is_up_to_date_is_unchanged_for_certain_except_stages_that_always_run(done):
    set_seed(done, 1)
    planned = {stage.name: stage for stage in plan()}
    assert forecast() == dict.fromkeys(STAGES, "unchanged") | {"always": "will run"}
    assert planned["last"].certain and not planned["always"].certain


def test_a_parameter_set_back_restores_the_stages_that_had_run_with_it_and_those_behind(done):
    set_seed(done, 0)
    expected = dict.fromkeys(["first", "slow"], "unchanged") | {"always": "will run"}
    expected |= dict.fromkeys(["quick@x", "quick@y"], "restored")
    assert {name: each for name, each in forecast().items() if name != "last"} == expected
    before = (done / "dvc.lock").read_bytes()
    output = call(done, "dvc", "repro").stdout
    assert "Stage 'quick@x' is cached" in output and "Running stage 'quick@x'" not in output
    assert (done / "dvc.lock").read_bytes() != before


def test_a_new_value_runs_the_stages_that_read_it_and_leaves_the_others(done):
    set_seed(done, 7)
    planned = forecast()
    assert planned["slow"] == "unchanged"
    assert planned["quick@x"] == planned["last"] == "will run"


def test_lost_outputs_come_back_from_the_cache_even_behind_one_another(done):
    set_seed(done, 1)
    shutil.rmtree(done / "out")
    planned = forecast()
    assert {planned[name] for name in STAGES[:-1]} == {"restored"}
    output = call(done, "dvc", "repro").stdout
    assert "Running stage 'slow'" not in output


def test_without_the_cache_everything_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(make(tmp_path))
    assert set(forecast().values()) == {"will run"}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"until_stage": "slow"}, ["first", "slow"]),
        ({"from_stage": "quick"}, ["quick@x", "quick@y", "last", "always"]),
        ({"from_stage": "slow", "until_stage": "last"}, ["slow", "last"]),
    ],
)
def test_a_part_of_the_graph_can_be_chosen(done, choice, expected):
    assert list(forecast(**choice)) == expected


@pytest.mark.parametrize(
    ("compute", "expected"),
    [
        ({}, {"first": 0, "slow": 1, "last": 1}),
        ({"processes": 4}, {"first": 0, "slow": 1, "last": 4}),
        ({"processes": 4, "device": "cpu"}, {"first": 0, "slow": 0, "last": 0}),
    ],
)
def test_a_stage_wants_the_gpus_that_it_declares(tmp_path, monkeypatch, compute, expected):
    folder = make(tmp_path)
    monkeypatch.chdir(folder)
    graph, params = (
        yaml.safe_load((folder / "dvc.yaml").read_text()),
        yaml.safe_load((folder / "params.yaml").read_text()),
    )
    graph["stages"]["slow"]["meta"] = {"gpus": 1}
    graph["stages"]["last"]["meta"] = {"gpus": "per process"}
    params["compute"] |= compute
    for path, content in (("dvc.yaml", graph), ("params.yaml", params)):
        (folder / path).write_text(yaml.safe_dump(content))
    gpus = {stage.name: stage.gpus for stage in plan()}
    assert {name: gpus[name] for name in expected} == expected


def test_force_runs_all(done):
    assert set(forecast(force=True).values()) == {"will run"}


def test_an_unknown_stage_is_told_with_the_nearest_name(done):
    with pytest.raises(InputError, match=r"no stage 'slwo' \(did you mean 'slow'\?\)"):
        plan(until_stage="slwo")


def test_a_broken_graph_is_told_in_one_line(tmp_path, monkeypatch):
    folder = make(tmp_path)
    monkeypatch.chdir(folder)
    (folder / "dvc.yaml").write_text("stages: {first: {cmd: x, deps: [}}")
    with pytest.raises(InputError, match=r"dvc\.yaml"):
        plan()


@pytest.mark.parametrize("half", ["", '{"write": {"out/', "[]"])
@pytest.mark.parametrize("mended_by", [plan, repair_locks])
def test_a_dvc_that_was_killed_while_it_noted_its_files_stops_nobody(done, half, mended_by):
    noted = done / ".dvc/tmp/rwlock"
    noted.write_text(half)
    assert call(done, "dvc", "repro", "--dry", check=False).returncode != 0
    mended_by()
    assert call(done, "dvc", "repro", "--dry").returncode == 0


@pytest.mark.parametrize("dvc", [["-m", "dvc"], [str(Path(sys.executable).with_name("dvc"))]])
@pytest.mark.parametrize("in_container", [False, True])
def test_what_a_living_dvc_has_noted_stays(tmp_path, monkeypatch, dvc, in_container):
    folder = make(tmp_path)
    monkeypatch.chdir(folder)
    graph, noted, trace = folder / "dvc.yaml", folder / ".dvc/tmp/rwlock", folder / ".juicer/trace"
    graph.write_text(graph.read_text().replace("work.py slow 2", "work.py slow 600"))
    process = subprocess.Popen([sys.executable, *dvc, "repro", "slow"], env=environment(folder), start_new_session=True)
    try:
        while not (trace.exists() and "slow" in trace.read_text()):
            assert process.poll() is None
            time.sleep(0.1)
        before = noted.read_text()
        if in_container:  # where a process has another number than outside
            before = before.replace(str(process.pid), "1")
            noted.write_text(before)
        assert "out/slow" in before
        plan()
        assert noted.read_text() == before
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("mended_by", [plan, repair_locks])
def test_what_a_dvc_in_a_container_had_noted_when_it_was_killed_stops_nobody(done, mended_by):
    somebody = subprocess.Popen(["sleep", "600"])  # who has on this machine the number that it had in the container
    by = {"pid": somebody.pid, "cmd": "/opt/juicer/bin/dvc repro"}
    noted = {"write": {str(done / "out/last"): by}, "read": {str(done / "out/slow"): [by]}}
    (done / ".dvc/tmp/rwlock").write_text(json.dumps(noted))
    try:
        blocked = call(done, "dvc", "repro", "--force", "--single-item", "last", check=False)
        assert blocked.returncode != 0 and "blocked by" in blocked.stderr
        mended_by()
        call(done, "dvc", "repro", "--force", "--single-item", "last")
    finally:
        somebody.kill()
        somebody.wait()
