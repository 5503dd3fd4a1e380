"""Which processes a stage has, and how work is dealt out to them."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from juicer.runtime.devices import GIB, Card
from juicer.runtime.errors import InputError
from juicer.runtime.processes import SINGLE_PROCESS, join, mixed_cards
from juicer.settings.compute import ComputeSettings
from juicer.stages.launch import configuration, launch

TWO = ComputeSettings(processes=2)


@pytest.fixture(autouse=True)
def not_launched(monkeypatch):
    for name in ("WORLD_SIZE", "LOCAL_RANK", "JUICER_MACHINES", "JUICER_MACHINE_RANK", "JUICER_MAIN_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


def test_a_process_that_was_not_launched_is_alone_and_does_all():
    assert join(ComputeSettings()) == SINGLE_PROCESS
    assert SINGLE_PROCESS.distribute([1, 2, 3], lambda number: 2 * number) == [2, 4, 6]


@pytest.mark.parametrize(("size", "launched"), [(2, None), (2, "1"), (1, "2"), (2, "4")])
def test_another_number_of_processes_than_the_recipe_says_is_refused(monkeypatch, size, launched):
    if launched:
        monkeypatch.setenv("WORLD_SIZE", launched)
    with pytest.raises(InputError, match=f"compute.processes is {size}, but {launched or 1} processes were launched"):
        join(ComputeSettings(processes=size))


def test_one_machine_launches_on_the_loopback_and_any_free_port():
    config = configuration(TWO, gpus=None)
    assert (config["main_process_ip"], config["main_process_port"]) == ("127.0.0.1", 0)
    assert (config["num_processes"], config["num_machines"], config["use_cpu"]) == (2, 1, True)


def test_several_machines_are_described_by_the_environment(monkeypatch):
    monkeypatch.setenv("JUICER_MACHINES", "2")
    monkeypatch.setenv("JUICER_MACHINE_RANK", "1")
    monkeypatch.setenv("JUICER_MAIN_ADDRESS", "10.0.0.1:29500")
    config = configuration(ComputeSettings(processes=8), gpus=4)
    assert (config["num_processes"], config["num_machines"], config["machine_rank"]) == (8, 2, 1)
    assert (config["main_process_ip"], config["main_process_port"]) == ("10.0.0.1", 29500)


@pytest.mark.parametrize(
    ("environment", "gpus", "message"),
    [
        ({"JUICER_MACHINES": "2"}, None, "JUICER_MAIN_ADDRESS is ''"),
        ({"JUICER_MACHINES": "two"}, None, "JUICER_MACHINES is 'two'"),
        ({"JUICER_MACHINE_RANK": "1"}, None, "JUICER_MACHINE_RANK is 1, but JUICER_MACHINES is 1"),
        ({"JUICER_MACHINES": "3", "JUICER_MAIN_ADDRESS": "a:1"}, None, "cannot be divided over 3 machines"),
        ({}, 1, "2 processes are to run on this machine, which has 1 GPUs"),
    ],
)
def test_machines_that_do_not_suit_the_recipe_are_refused(monkeypatch, environment, gpus, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message):
        configuration(TWO, gpus)


@pytest.mark.parametrize(
    ("compute", "visible"), [({"processes": 4}, None), ({"processes": 2}, "5,6"), ({"zero_stage": 3}, "2")]
)
def test_what_is_launched_sees_the_gpus_of_the_process_that_launches_it(tmp_path, monkeypatch, compute, visible):
    """That of a single process, which ZeRO has launched too, has taken one (tests/unit/test_gpus.py)."""
    seen = {}

    def launched(arguments):
        seen["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES")
        seen["processes"] = json.loads(Path(arguments.config_file).read_text())["num_processes"]

    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4 if visible is None else len(visible.split(",")))
    monkeypatch.setattr("accelerate.commands.launch.launch_command", launched)
    monkeypatch.setattr("logging.disable", lambda level: None)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", SimpleNamespace(name="tasks.sft"))
    settings = ComputeSettings(**compute)
    launch(settings, tmp_path, "sft")
    assert seen == {"CUDA_VISIBLE_DEVICES": visible, "processes": settings.processes}


A100, LARGER, T4 = Card("A100", 40 * GIB, ""), Card("A100", 80 * GIB, ""), Card("T4", 16 * GIB, "")


def test_equal_cards_are_not_spoken_of_and_others_are_in_one_line():
    assert mixed_cards([(A100, True), (A100, True)], TWO) == []
    (line,) = mixed_cards([(A100, True), (LARGER, True), (A100, True)], TWO)
    assert line.startswith("the GPUs of this stage differ (2 x A100 with 40 GiB, A100 with 80 GiB)")


def test_cards_on_which_auto_would_be_another_precision_are_refused():
    with pytest.raises(InputError, match="only some of this stage's GPUs compute in bf16, not T4 with 16 GiB"):
        mixed_cards([(A100, True), (T4, False)], TWO)
    assert len(mixed_cards([(A100, True), (T4, False)], ComputeSettings(processes=2, precision="fp32"))) == 1
    assert mixed_cards([(T4, False), (T4, False)], TWO) == [], "it is fp32 on both"
