"""How many stages run at the same time, which of them fit beside each other, and which start warm."""

import json
import os
import sys
from pathlib import Path

import pytest

from juicer.running import capacity, warm
from juicer.running.capacity import BASE, FACTOR, LIGHT, READING, Needs, Room, default_at_a_time
from juicer.running.commands import module_of
from juicer.runtime import memory
from juicer.runtime.devices import GIB
from juicer.settings.compute import ComputeSettings


@pytest.mark.parametrize(("cores", "threads", "expected"), [(8, 1, 2), (2, 1, 2), (2, 2, 1), (1, 1, 1), (1, 4, 1)])
def test_two_at_a_time_where_there_are_threads_for_two(
    cores: int, threads: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    assert default_at_a_time(ComputeSettings(threads=threads, device="cpu")) == expected


@pytest.mark.parametrize(("gpus", "cores", "expected"), [(1, 8, 1), (8, 64, 8), (8, 6, 6)])
def test_as_many_at_a_time_as_a_machine_has_gpus_and_cores_for_them_unless_the_recipe_uses_none(
    gpus: int, cores: int, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(gpus):
        (tmp_path / f"nvidia{number}").touch()
    monkeypatch.setattr("juicer.stages.gpus.DEVICES", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert default_at_a_time(ComputeSettings(threads=1)) == expected
    assert default_at_a_time(ComputeSettings(threads=1, processes=gpus)) == expected, "some of its stages take one GPU"
    assert default_at_a_time(ComputeSettings(threads=1, device="cpu")) == 2


def test_a_stage_needs_what_it_took_here_before_or_else_a_multiple_of_its_models(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/weights").write_bytes(b"x" * 1000)
    inputs = [tmp_path / "model", tmp_path / "not made yet"]
    assert Needs.of("sft", inputs, 1, tmp_path) == Needs(BASE + FACTOR * 1000, 1)
    assert Needs.of("evaluate@sft", inputs, 1, tmp_path, trains=False) == Needs(BASE + READING * 1000, 1)
    (tmp_path / "judge").write_bytes(b"x" * 400)
    assert Needs.of("sft", [*inputs, tmp_path / "judge"], 1, tmp_path) == Needs(BASE + FACTOR * 1000 + READING * 400, 1)
    assert Needs.of("fetch", inputs, None, tmp_path) == Needs(LIGHT, 0)
    (tmp_path / "sft.json").write_text(json.dumps({"stage": "sft", "peak_memory_mb": 512.0}))
    assert Needs.of("sft", inputs, 1, tmp_path, before=1000.0) == Needs(0.5 * GIB, 1)
    # What it took with the small model of another recipe says little of a larger one.
    assert Needs.of("sft", inputs, 1, tmp_path, before=100.0) == Needs(0.5 * GIB + FACTOR * 900, 1)
    assert Needs.of("sft", [], 1, tmp_path, before=1000.0) == Needs(0.5 * GIB, 1)
    # Its record is of the main process.
    assert Needs.of("sft", inputs, 4, tmp_path, before=1000.0) == Needs(2 * GIB, 4)
    assert Needs.of("evaluate", inputs, 4, tmp_path, trains=False) == Needs(4 * (BASE + READING * 1000), 4)


@pytest.mark.parametrize(("free", "resident", "fits"), [(5.0, 0.0, True), (3.9, 0.0, False), (3.9, 0.5, True)])
def test_a_stage_fits_if_the_free_memory_is_enough_for_it_and_for_what_the_others_still_take(
    free: float, resident: float, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "free_memory", lambda: free * GIB)
    monkeypatch.setattr(capacity, "_resident", lambda process: resident * GIB)
    room = Room({"a": Needs(1 * GIB, 0), "b": Needs(3 * GIB, 0)}.__getitem__, gpus=0)
    assert room.fits("b", ["a"]) == fits


def test_stages_do_not_want_more_gpus_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "free_memory", lambda: 100.0 * GIB)
    room = Room({"a": Needs(1.0, 1), "b": Needs(1.0, 1), "c": Needs(1.0, 0)}.__getitem__, gpus=1)
    assert not room.fits("b", ["a"])
    assert room.fits("c", ["a"])


def test_eight_gpus_are_for_eight_stages_of_one_process_or_for_one_of_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "free_memory", lambda: 100.0 * GIB)
    ones = [f"evaluate@{number}" for number in range(8)]
    needs = {**dict.fromkeys(ones, Needs(1.0, 1)), "sft": Needs(1.0, 8), "pair": Needs(1.0, 2)}
    room = Room(needs.__getitem__, gpus=8)
    assert all(room.fits(one, ones[:number]) for number, one in enumerate(ones))
    assert not room.fits("sft", ones[:1]) and not room.fits(ones[0], ["sft"])
    assert room.fits("pair", ones[:6]) and not room.fits("pair", ones[:7])
    monkeypatch.setattr(capacity, "free_memory", lambda: 0.0)
    assert not room.fits(ones[1], ones[:1]), "the memory of the machine counts as well"


def test_a_container_s_limit_counts_as_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    (tmp_path / "memory.current").write_text("3000\n")
    (tmp_path / "memory.max").write_text("5000\n")
    assert capacity.free_memory() == 2000
    (tmp_path / "memory.max").write_text("max\n")
    assert capacity.free_memory() > 2000


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("python -m tasks.sft --out models/@key", ["tasks.sft", "--out", "models/@key"]),
        ("python -m tasks.sft && true", None),
        ("python -m tasks.sft --out $HOME", None),
        ("python -m pip list", None),
        ("python -m tasks.leaderboard --out x", None),
        ("python work.py", None),
        ("cp a b", None),
    ],
)
def test_only_a_stage_program_without_a_shell_s_words_is_forked(command: str, expected: list[str] | None) -> None:
    path = str(Path(sys.executable).parent)
    assert module_of(command, {"PATH": path}) == expected
    assert module_of(command, {"PATH": "/nowhere"}) is None, "another Python has other libraries"


def test_a_process_that_may_touch_cuda_or_several_processes_are_not_forked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm, "DRIVER", tmp_path / "nvidiactl")
    monkeypatch.setattr(sys, "platform", "linux")
    assert warm.possible(ComputeSettings())
    assert not warm.possible(ComputeSettings(processes=2))
    assert not warm.possible(ComputeSettings(zero_stage=2))
    (tmp_path / "nvidiactl").touch()
    assert not warm.possible(ComputeSettings())
    assert warm.possible(ComputeSettings(device="cpu"))
