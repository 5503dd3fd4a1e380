"""What the harness promises: one readable line per failure, nothing half-written, no NaN in tracked files."""

import argparse
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from juicer.recipe.activation import dump, load
from juicer.runtime.command import guarded
from juicer.runtime.devices import Card, peak_memory
from juicer.runtime.errors import InputError
from juicer.runtime.files import read_json, read_yaml, write_json
from juicer.settings.compute import ComputeSettings
from juicer.settings.sft import SftSettings
from juicer.stages.hashes import md5_of
from juicer.stages.stage import Stage, set_environment

QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"


@pytest.fixture
def stage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(dump(*load(QUICKSTART, [])))
    return Stage("sft", argparse.Namespace(params=Path("params.yaml")))


def test_parameters_are_typed(stage):
    assert stage.read("sft", SftSettings).batch_size == 32
    assert stage.value("irft.training.beta") == 0.3


def test_an_output_takes_its_place_only_when_it_is_complete(stage, tmp_path):
    out = tmp_path / "models" / "sft"
    with stage.publish(out) as folder:
        folder.mkdir()
        (folder / "weights").write_text("old")
    with pytest.raises(RuntimeError), stage.publish(out) as folder:
        folder.mkdir()
        (folder / "weights").write_text("half")
        raise RuntimeError
    assert (out / "weights").read_text() == "old"
    assert [path.name for path in out.parent.iterdir()] == ["sft"]


def test_what_killed_runs_left_is_removed_but_not_what_belongs_to_a_running_one(stage, tmp_path):
    dead = 2**22 + 1  # above the highest process id of Linux
    left, running, other = (
        tmp_path / "models" / name
        for name in (f".sft.{dead}.tmp", f".sft.{os.getppid()}.tmp", f".sft-matched.{dead}.tmp")
    )
    scratch = tmp_path / f".juicer/scratch/sft-{dead}"
    for folder in (left, running, other, scratch):
        folder.mkdir(parents=True)
    with stage.publish(tmp_path / "models" / "sft") as folder:
        folder.mkdir()
    with stage.scratch():
        pass
    assert [path.exists() for path in (left, running, other, scratch)] == [False, True, True, False]


def test_costs_are_written_outside_the_tracked_outputs(stage):
    stage.record(steps=3)
    stage.record(steps=2, response_tokens=10)
    stage.write_costs()
    costs = read_json(Path(".juicer/costs/sft.json"))
    assert costs["steps"] == 5
    assert 0 <= costs["seconds"] < 60
    assert costs["peak_memory_mb"] > 1
    assert "output_md5" not in costs


def test_the_peak_of_device_memory_is_that_of_the_process_that_used_most(stage, monkeypatch):
    allocated = 3 * 2**30
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: allocated)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 4 * 2**30)
    stage.peaks = [peak_memory(), {"peak_device_memory_mb": 3500.0, "peak_device_reserved_mb": 3600.0}, {}]
    allocated = 2**30
    stage.cards = [Card("A100", 80 * 2**30, ""), Card("H100", 80 * 2**30, ""), Card("A100", 80 * 2**30, "")]
    stage.write_costs()
    costs = read_json(Path(".juicer/costs/sft.json"))
    assert (costs["peak_device_memory_mb"], costs["peak_device_reserved_mb"]) == (3500, 4096)
    assert (costs["device"], costs["deterministic"]) == ("2 x A100 with 80 GiB, H100 with 80 GiB", False)


def test_a_stage_that_did_not_use_a_gpu_is_not_asked_about_its_memory(stage, monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: pytest.fail("opens a context"))
    stage.write_costs()
    assert not {"peak_device_memory_mb", "device", "deterministic"} & read_json(Path(".juicer/costs/sft.json")).keys()
    monkeypatch.delitem(sys.modules, "torch")
    assert peak_memory() == {} and "torch" not in sys.modules


@pytest.mark.parametrize("name", ["out.json", "folder/out.json"])
def test_the_costs_name_the_md5_of_the_output(stage, tmp_path, name):
    out = tmp_path / Path(name).parts[0]
    with stage.publish(out) as path:
        file = path if out.name == name else path / "out.json"
        file.parent.mkdir(exist_ok=True)
        write_json(file, {"a": 1})
    stage.write_costs()
    assert read_json(Path(".juicer/costs/sft.json"))["output_md5"] == md5_of(out)


ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}),
        ({"PYTORCH_ALLOC_CONF": ""}, {"PYTORCH_ALLOC_CONF": ""}),
        ({"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}, {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}),
    ],
)
def test_gpu_memory_grows_in_one_piece_unless_the_user_says_how(monkeypatch, given, expected):
    environment = {name: value for name, value in os.environ.items() if name not in ALLOCATOR} | given
    monkeypatch.setattr(os, "environ", environment)
    set_environment(ComputeSettings())
    assert {name: environment[name] for name in ALLOCATOR if name in environment} == expected


def test_torch_takes_the_allocator_s_option_by_that_name_and_does_not_warn():
    code = (
        "import juicer.stages.stage as stage; stage.set_environment(stage.ComputeSettings())\n"
        "import torch; print(torch._C._accelerator_getAllocatorSettings())"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ALLOCATOR}
    environment["PYTHONPATH"] = str(QUICKSTART.parents[1])
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("expandable_segments:True\n", "")


def test_scratch_folders_are_gone_afterwards(stage):
    with stage.scratch() as folder:
        assert folder.is_dir()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            InputError("no such file", where="data.jsonl:3", do="check it"),
            "error: data.jsonl:3: no such file (check it)\n",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "x"),
            "error: x: No space left on device (free some disk space",
        ),
        (ValueError("first\nsecond"), "error: sft: ValueError: first (--debug shows the traceback)\n"),
    ],
)
def test_a_failure_is_one_line_and_exit_code_1(capsys, error, line):
    def work():
        raise error

    assert guarded(work, debug=False, name="sft") == 1
    printed = capsys.readouterr().err
    assert printed.startswith(line)
    assert printed.count("\n") == 1


def test_a_reader_who_has_seen_enough_is_no_error(capsys, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as output:
        monkeypatch.setattr("sys.stdout", output)
        monkeypatch.setattr("sys.__stdout__", output)
        assert guarded(lambda: print("a line", flush=True), debug=False, name="recipe") == 128 + signal.SIGPIPE
        assert guarded(lambda: print("another, after nobody reads"), debug=False, name="recipe") == 0
    assert capsys.readouterr().err == ""


def test_a_pipe_to_another_program_that_breaks_is_an_error(capsys):
    def work():
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    assert guarded(work, debug=False, name="register") == 1
    assert capsys.readouterr().err == "error: Broken pipe\n"


def test_debug_shows_the_traceback(capsys):
    def work():
        raise InputError("wrong")

    guarded(work, debug=True, name="sft")
    assert "Traceback" in capsys.readouterr().err


def test_a_nan_never_reaches_a_tracked_file(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"loss": float("nan")})


def test_broken_files_are_named_with_their_line(tmp_path):
    (tmp_path / "x.json").write_text('{"a": 1,\n oops}')
    with pytest.raises(InputError, match=r"x\.json:2"):
        read_json(tmp_path / "x.json")
    (tmp_path / "x.yaml").write_text("a: 1\nb: [1,\n")
    with pytest.raises(InputError, match=r"x\.yaml:\d: invalid YAML"):
        read_yaml(tmp_path / "x.yaml")
