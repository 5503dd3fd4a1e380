"""A stage sees as many GPUs as it has processes, and others than the stage beside it."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from juicer.runtime.devices import visible_gpus
from juicer.settings.compute import ComputeSettings
from juicer.stages import gpus
from juicer.stages.gpus import VISIBLE, take_gpus
from juicer.stages.launch import launch
from juicer.stages.stage import wants_one_gpu

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Makes this a machine with so many GPUs, on which nobody has taken any."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("juicer.stages.gpus.DEVICES", tmp_path)
    monkeypatch.delenv(VISIBLE, raising=False)

    def with_gpus(count: int) -> Path:
        for name in ("nvidiactl", "nvidia-uvm", "nvidia-caps", *(f"nvidia{number}" for number in range(count))):
            (tmp_path / name).touch()
        return tmp_path

    yield with_gpus
    HELD.clear()


HELD = []
"""Locks of the stages that a test plays, one list for each."""


def taken(monkeypatch, setting: str | None = None, count: int = 1, say=None) -> str | None:
    """What a stage that is told `setting` sees. It keeps its GPUs, as a process of its own would."""
    monkeypatch.delenv(VISIBLE, raising=False)
    if setting is not None:
        monkeypatch.setenv(VISIBLE, setting)
    HELD.append(take_gpus(count, say))
    return os.environ.get(VISIBLE)


@pytest.fixture
def ends(monkeypatch):
    """Has stages that a test plays end, by their numbers, one after the other, each while another stage waits."""

    def in_turn(*stages: int) -> None:
        left = list(stages)
        monkeypatch.setattr(gpus.time, "sleep", lambda seconds: [lock.release() for lock in HELD[left.pop(0)]])

    return in_turn


@pytest.mark.parametrize(
    ("setting", "gpus"),
    [
        (None, ["0", "1", "2"]),
        ("", []),
        ("-1", []),
        ("2", ["2"]),
        ("3, 1", ["3", "1"]),
        ("0,-1,2", ["0"]),
        ("GPU-8a56,MIG-77c1", ["GPU-8a56", "MIG-77c1"]),
    ],
)
def test_the_gpus_of_a_process_are_those_that_its_environment_names_else_all(setting, gpus):
    assert visible_gpus(setting, 3) == gpus


def test_stages_side_by_side_take_a_gpu_each_and_the_one_too_many_waits_for_the_first_that_is_free(
    machine, monkeypatch, ends
):
    machine(3)
    assert [taken(monkeypatch) for _ in range(3)] == ["0", "1", "2"]
    ends(1)
    said = []
    assert taken(monkeypatch, say=said.append) == "1"
    assert said == ["waiting for a GPU: other stages use 3 of 3"]


def test_a_stage_of_several_processes_takes_free_gpus_beside_one_of_a_single_process(machine, monkeypatch):
    machine(4)
    assert taken(monkeypatch) == "0"
    assert taken(monkeypatch, count=2) == "1,2"
    assert taken(monkeypatch) == "3"
    assert [len(locks) for locks in HELD] == [1, 2, 1]


def test_a_stage_of_several_processes_keeps_what_it_has_while_it_waits_for_the_rest(machine, monkeypatch, ends):
    machine(4)
    assert [taken(monkeypatch) for _ in range(3)] == ["0", "1", "2"]
    ends(2, 0)
    said = []
    assert taken(monkeypatch, count=3, say=said.append) == "0,2,3", "in CUDA's order"
    assert said == ["waiting for 3 GPUs: other stages use 3 of 4"]


def test_of_two_stages_that_wait_for_several_gpus_the_second_takes_none_before_the_first(machine, monkeypatch, ends):
    machine(4)
    HELD.append([gpus._lock("turn")])  # the stage that waits already
    HELD[0][0].acquire()
    ends(0)
    said = []
    assert taken(monkeypatch, count=2, say=said.append) == "0,1"
    assert said == ["waiting for 2 GPUs: another waits before it"]
    assert taken(monkeypatch, count=2) == "2,3", "its turn is over"


def test_stages_that_may_share_gpus_do_so_only_where_too_few_are_free(machine, monkeypatch):
    machine(2)
    monkeypatch.setenv(gpus.SHARED, "1")
    assert [taken(monkeypatch) for _ in range(3)] == ["0", "1", "0"]


def test_a_stage_that_wants_more_gpus_than_there_are_takes_none_and_does_not_wait(machine, monkeypatch):
    machine(2)
    assert taken(monkeypatch, count=3) is None
    assert HELD == [[]]
    assert taken(monkeypatch, count=2) is None, "it sees both, and no others"
    assert len(HELD[1]) == 2


def test_a_stage_takes_one_of_those_that_it_was_given(machine, monkeypatch):
    machine(8)
    assert taken(monkeypatch, "GPU-8a56/0,GPU-77c1/0") == "GPU-8a56/0"
    assert taken(monkeypatch, "5,3") == "5"
    assert taken(monkeypatch, "5,3") == "3"


def test_a_gpu_that_was_given_alone_is_left_by_those_that_may_choose(machine, monkeypatch):
    machine(2)
    assert taken(monkeypatch, "0") == "0"
    assert taken(monkeypatch) == "1"


@pytest.mark.parametrize(("count", "setting"), [(0, None), (1, None), (4, ""), (4, "-1"), (4, "2")], ids=repr)
def test_where_one_gpu_or_none_is_visible_nothing_is_set(machine, monkeypatch, count, setting):
    machine(count)
    assert taken(monkeypatch, setting) == setting


def test_processes_are_launched_on_gpus_that_are_free_and_locked_until_they_have_ended(machine, tmp_path, monkeypatch):
    machine(4)
    assert taken(monkeypatch) == "0"
    monkeypatch.delenv(VISIBLE)
    seen = []

    def launched(arguments):
        seen.append(os.environ[VISIBLE])
        assert taken(monkeypatch) == "3", "no other is free meanwhile"

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: len(os.environ[VISIBLE].split(",")))
    monkeypatch.setattr("accelerate.commands.launch.launch_command", launched)
    monkeypatch.setattr("logging.disable", lambda level: None)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", SimpleNamespace(name="tasks.sft"))
    launch(ComputeSettings(processes=2), tmp_path, "sft")
    assert seen == ["1,2"]
    assert taken(monkeypatch) == "1"


def test_the_gpu_of_a_killed_stage_is_free_again(machine, monkeypatch):
    folder = machine(2)
    code = "import juicer.stages.gpus as gpus; from pathlib import Path; gpus.DEVICES = Path('.')"
    code += "; held = gpus.take_gpus()"
    code += f"; import os; print(os.environ['{VISIBLE}'], flush=True); input()"
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as other:  # fmt: skip
        assert other.stdout.readline() == "0\n"
        assert taken(monkeypatch) == "1"
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert taken(monkeypatch) == "0"


def test_a_folder_for_locks_that_cannot_be_written_stops_no_stage(machine, monkeypatch):
    folder = machine(2)
    (folder / f"juicer-{os.getuid()}").touch()
    assert [taken(monkeypatch), taken(monkeypatch)] == ["0", "0"]
    assert taken(monkeypatch, "1,0,3", count=2) == "1,0"


@pytest.mark.parametrize(
    ("compute", "launches", "rank", "one"),
    [
        ({}, True, None, True),
        ({"device": "cpu"}, True, None, False),
        ({"processes": 2}, True, None, False),
        ({"processes": 2}, True, "0", False),
        ({"processes": 2}, False, None, True),
        # The process that ZeRO has launched sees the GPU that the one that launched it has taken.
        ({"zero_stage": 3}, True, None, True),
        ({"zero_stage": 3}, True, "0", False),
    ],
)
def test_one_gpu_is_for_the_process_that_is_all_of_its_stage(monkeypatch, compute, launches, rank, one):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert wants_one_gpu(ComputeSettings(**compute), launches) == one


STAGE = f"""
import os, pathlib, sys
import juicer.stages.gpus, juicer.stages.launch

def run(stage):
    print(os.environ.get("{VISIBLE}"), "torch" in sys.modules)
    return "done"

juicer.stages.gpus.DEVICES = pathlib.Path()
juicer.stages.{{module}}.main(run, lambda parser: None, None)
"""


@pytest.mark.parametrize("module", ["stage", "launch"])
def test_the_gpu_is_taken_before_torch_is_imported(machine, module):
    folder = machine(2)
    shutil.copy(ROOT / "params.yaml", folder)
    environment = {name: value for name, value in os.environ.items() if name not in (VISIBLE, "LOCAL_RANK")}
    done = subprocess.run(
        [sys.executable, "-c", STAGE.format(module=module)], cwd=folder, text=True, capture_output=True, check=True,
        env={**environment, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.splitlines()[0].split() == ["0", "False"]
