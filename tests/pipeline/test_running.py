"""`python -m juicer.running repro` makes what `dvc repro` makes: side by side, warm, and however it is disturbed."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from juicer.running.warm import WarmParent
from juicer.runtime.files import read_yaml
from juicer.runtime.process_groups import GROUP, members
from juicer.settings.compute import ComputeSettings
from juicer.stages.attempts import read as attempts
from juicer.stages.dvc_files import DvcLock
from tests.warm import WarmStages

ROOT = Path(__file__).resolve().parents[2]
STAGE = """
import argparse, os, sys, time
from pathlib import Path
from juicer.runtime.errors import InputError
from juicer.runtime.process_groups import WARM
from juicer.stages.stage import Stage, main

def arguments(parser):
    parser.add_argument("--source", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)

def note(event):
    with open(".events", "a") as file:
        file.write(event + "\\n")

def run(stage: Stage) -> str:
    stage.value("seed")
    with stage.cancellation.held():
        Path(f".begun-{stage.name}").touch()
        note(f"{stage.name} begins on {os.environ.get('CUDA_VISIBLE_DEVICES')}")
        while Path(f".hold-{stage.name}").exists():
            stage.cancellation.check("saved")
            time.sleep(0.02)
    if Path(f".fail-{stage.name}").exists():
        raise InputError("it was told to fail", where=stage.name)
    from tasks import words
    with stage.publish(stage.arguments.out) as out:
        out.write_text(words.TEXT + "".join(source.read_text() for source in stage.arguments.source))
    note(f"{stage.name} ends")
    return "warm" if WARM in os.environ else "cold"

if __name__ == "__main__":
    main(run, arguments, __doc__)
"""
GRAPH = """
stages:
  second:
    cmd: python -m tasks.work --source origin.txt --out made/second
    deps: [origin.txt, tasks/work.py]
    params: [seed, compute]
    meta: {gpus: 1}
    outs: [made/second]
  first:
    cmd: python -m tasks.work --source origin.txt --out made/first
    deps: [origin.txt, tasks/work.py]
    params: [seed, compute]
    meta: {gpus: 1}
    outs: [made/first]
  last:
    cmd: python -m tasks.work --source made/first made/second --out made/last
    deps: [made/first, made/second, tasks/work.py, tasks/words.py]
    params: [seed, compute]
    outs: [made/last]
"""
STAGES = ("first", "second", "last")
PATIENCE = 600.0
"""Seconds after which a test gives up waiting for what will never happen; no measure of how long it may take."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    shutil.copytree(ROOT / "juicer", folder / "juicer", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "recipes").symlink_to(ROOT / "recipes")
    for name in ("params.yaml", ".dvcignore", ".dvc/config"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    parent = folder / "juicer/running/warm_parent.py"
    before, rest = parent.read_text().split("LIBRARIES = (", 1)
    parent.write_text(f"{before}LIBRARIES = ({rest[rest.index(chr(10) + ')') :]}")  # they would take seconds
    (folder / "tasks").mkdir()
    (folder / "tasks/work.py").write_text(STAGE)
    (folder / "tasks/words.py").write_text('TEXT = "words "\n')
    (folder / "origin.txt").write_text("source\n")
    (folder / "dvc.yaml").write_text(GRAPH)
    costs = folder / ".juicer/costs"
    costs.mkdir(parents=True)
    for stage in STAGES:  # small enough for two of them anywhere
        (costs / f"{stage}.json").write_text(json.dumps({"stage": stage, "peak_memory_mb": 1.0}))
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return folder


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    shutil.copytree(template, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def group() -> Iterator[str]:
    """The mark of a test's tree of processes; survivors of a test that failed are killed."""
    mark = f"{os.getpid()}.{uuid.uuid4().hex}"
    yield mark
    for process in members(mark):
        process.kill()


def start(group: str, *words: str) -> "subprocess.Popen[str]":
    """A command in a session of its own, as in a terminal."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        [sys.executable, "-m", *words],
        env={**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", GROUP: group},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def begin(group: str, *held: str, at_a_time: int = 2) -> "subprocess.Popen[str]":
    """Run up to the point where all of the held stages work."""
    for stage in held:
        Path(f".hold-{stage}").touch()
    running = start(group, "juicer.running", "--at-a-time", str(at_a_time), "repro")
    until(lambda: all(Path(f".begun-{stage}").exists() for stage in held), running)
    return running


def until(happens: Callable[[], object], running: "subprocess.Popen[str] | None" = None) -> None:
    end = time.monotonic() + PATIENCE
    while not happens():
        assert time.monotonic() < end
        assert running is None or running.poll() is None, running.communicate()[0]
        time.sleep(0.02)


def release() -> None:
    for path in Path().glob(".hold-*"):
        path.unlink()


def ended(running: "subprocess.Popen[str]", code: int = 0) -> str:
    """What a command printed, once it has ended with a code."""
    printed = running.communicate(timeout=PATIENCE)[0]
    assert running.returncode == code, printed
    return printed


def repro(group: str) -> str:
    return ended(start(group, "juicer.running", "--at-a-time", "2", "repro"))


def process_of(group: str, word: str) -> psutil.Process:
    return next(each for each in members(group) if any(word in part for part in each.cmdline()))


def made() -> dict[str, str]:
    return {path.name: path.read_text() for path in Path("made").iterdir() if path.name != ".gitignore"}


WHOLE = {"first": "words source\n", "second": "words source\n", "last": "words words source\nwords source\n"}


def test_two_stages_run_at_once_and_leave_the_bytes_of_dvc_repro(project, template, tmp_path, group, monkeypatch):
    running = begin(group, "first", "second")  # both work at the same time, or this would wait for ever
    assert {process_of(group, stage).cmdline()[2] for stage in ("made/first", "made/second")} == {"tasks.work"}
    Path(".hold-first").unlink()
    until(lambda: Path("dvc.lock").is_file(), running)
    assert list(DvcLock.read(Path("dvc.lock")).stages) == ["first"], "the faster one, though DVC takes it last"
    release()
    printed = ended(running)
    assert made() == WHOLE
    assert printed.count(": warm [") == 3
    lock = Path("dvc.lock").read_bytes()
    assert "Use `dvc push` to send your updates" in printed

    again = repro(group)
    assert [f"Stage '{stage}' didn't change, skipping" in again for stage in STAGES] == [True] * 3

    shutil.rmtree("made")
    Path("dvc.lock").unlink()
    restored = repro(group)
    assert restored.count("is cached - skipping run, checking out outputs") == 3
    assert (made(), Path("dvc.lock").read_bytes()) == (WHOLE, lock)

    plain = tmp_path / "plain"
    shutil.copytree(template, plain, symlinks=True)
    monkeypatch.chdir(plain)
    ended(start(group, "dvc", "repro"))
    assert (made(), Path("dvc.lock").read_bytes()) == (WHOLE, lock)
    assert members(group) == []


@pytest.fixture
def two_gpus(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes this a machine with two GPUs, as far as the order of the stages goes."""
    devices = tmp_path / "devices"
    devices.mkdir()
    for number in range(2):
        (devices / f"nvidia{number}").touch()
    gpus = project / "juicer/stages/gpus.py"
    gpus.write_text(gpus.read_text().replace('Path("/dev")', f"Path({str(devices)!r})"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # for the locks
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_stages_of_one_process_run_beside_each_other_on_a_gpu_each(two_gpus, group):
    for stage in ("first", "second"):
        Path(f".hold-{stage}").touch()
    running = start(group, "juicer.running", "repro")
    until(lambda: Path(".begun-first").exists() and Path(".begun-second").exists(), running)
    release()
    ended(running)
    events = Path(".events").read_text().splitlines()
    assert {event.split()[-1] for event in events[:2]} == {"0", "1"}
    assert events[4] == "last begins on None", "it uses no GPU"
    assert made() == WHOLE


def test_a_stage_that_takes_all_gpus_runs_alone(two_gpus, group):
    graph = Path("dvc.yaml")
    graph.write_text(graph.read_text().replace("gpus: 1", "gpus: per process", 1))
    params = read_yaml(Path("params.yaml"))
    Path("params.yaml").write_text(json.dumps({**params, "compute": {**params["compute"], "processes": 2}}))
    ended(start(group, "juicer.running", "--at-a-time", "2", "repro"))
    events = [event.split()[0] for event in Path(".events").read_text().splitlines()]
    assert events in (["first"] * 2 + ["second"] * 2 + ["last"] * 2, ["second"] * 2 + ["first"] * 2 + ["last"] * 2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_both_stages_with_their_work_saved_and_the_next_run_goes_on(project, group, number):
    running = begin(group, "first", "second")
    if number == signal.SIGINT:
        os.killpg(running.pid, number)
    else:
        running.terminate()
    printed = ended(running, 255)
    assert printed.count("saved") == 2
    assert members(group) == []
    assert not list(Path("made").glob("*t"))
    assert {attempt.stage for attempt in attempts().values() if not attempt.is_running()} == {"first", "second"}
    release()
    repro(group)
    assert made() == WHOLE
    assert attempts() == {}


def test_after_a_failure_the_stage_beside_it_is_finished_and_recorded(project, group):
    Path(".fail-second").touch()
    running = begin(group, "first", "second")
    Path(".hold-second").unlink()
    until(lambda: (attempt := attempts().get("second")) and attempt.ended, running)
    release()
    printed = ended(running, 255)
    assert "error: second: it was told to fail" in printed
    assert "ERROR: failed to reproduce 'second': failed to run: python -m tasks.work" in printed
    assert list(DvcLock.read(Path("dvc.lock")).stages) == ["first"]
    assert "Running stage 'last'" not in printed


def test_a_killed_warm_parent_costs_the_stage_a_new_start_and_no_more(project, group):
    running = begin(group, "first", at_a_time=1)
    process_of(group, "warm_parent").kill()
    until(lambda: (attempt := attempts().get("first")) and attempt.ended, running)
    release()
    printed = ended(running)
    assert "first: started again without the warm parent, which has ended" in printed
    assert printed.count(": cold [") == 2
    assert made() == WHOLE


def test_a_killed_runner_leaves_nobody_behind(project, group):
    running = begin(group, "first", "second")
    running.kill()
    running.communicate()
    until(lambda: not members(group))
    assert not list(Path("made").glob("*t"))
    release()
    repro(group)
    assert made() == WHOLE
    assert not Path(".juicer/align.order.json").exists()


def shown(group: str, *, at_a_time: int = 2, kind: str = "lines") -> "subprocess.Popen[str]":
    return start(group, "juicer.running", "--at-a-time", str(at_a_time), "--show", kind, "repro")


def test_a_shown_run_has_a_line_for_each_start_and_end_and_the_bytes_of_one_that_is_not(project, template, group):
    printed = ended(shown(group))
    lock = Path("dvc.lock").read_bytes()
    assert made() == WHOLE
    assert printed.startswith("3 stages: 3 to run; how long that takes is not known, because nothing of it has run")
    for stage in STAGES:
        assert len(re.findall(rf"^stage [123] of 3: {stage} started; .* elapsed$", printed, re.MULTILINE)) == 1
        assert len(re.findall(rf"^stage [123] of 3: {stage} done in ", printed, re.MULTILINE)) == 1
        assert Path(f".juicer/logs/{stage}.log").read_text().startswith(f"{stage}: warm [")
        assert f"{stage}: warm [" in printed
    assert "stage 3 of 3: last started" in printed
    assert "Running stage" not in printed and "dvc push" not in printed and "Updating lock file" not in printed
    assert re.search(r"^all 3 stages up to date after .* \(3 ran\)$", printed, re.MULTILINE)

    again = ended(shown(group))
    assert again.splitlines()[0] == "3 stages: 3 unchanged" and "stage 1 of 3" not in again

    shutil.rmtree("made")
    assert ended(shown(group)).count("restored from DVC's cache") == 3

    shutil.rmtree("made")
    shutil.rmtree(".dvc/cache")
    Path("dvc.lock").unlink()
    expecting = ended(shown(group))
    assert "3 stages: 3 to run; expected to take about " in expecting
    assert expecting.count(" expected; ") == 3 and "at least" not in expecting
    assert (made(), Path("dvc.lock").read_bytes()) == (WHOLE, lock)

    shutil.rmtree("made")
    shutil.rmtree(".dvc/cache")
    Path("dvc.lock").unlink()
    repro(group)
    assert (made(), Path("dvc.lock").read_bytes()) == (WHOLE, lock)


def test_a_shown_failure_names_the_stage_and_its_log_and_a_quiet_run_says_nothing_else(project, group):
    Path(".fail-second").touch()
    printed = ended(shown(group, at_a_time=1, kind="quiet"), 255)
    log = Path(".juicer/logs/second.log").absolute()
    assert "error: second: it was told to fail" in log.read_text()
    assert printed.count("error: second: it was told to fail") == 1
    assert re.search(rf"^stage 1 of 3: second failed after .*; its output: {log}$", printed, re.MULTILINE)
    assert "started" not in printed and "up to date" not in printed
    Path(".fail-second").unlink()
    assert ended(shown(group, kind="quiet")) == ""


def test_a_shown_run_that_is_told_to_end_says_which_stages_stopped(project, group):
    for stage in ("first", "second"):
        Path(f".hold-{stage}").touch()
    running = shown(group)
    until(lambda: all(Path(f".begun-{stage}").exists() for stage in ("first", "second")), running)
    running.terminate()
    printed = ended(running, 255)
    assert len(re.findall(r"^stage [12] of 3: (?:first|second) stopped after ", printed, re.MULTILINE)) == 2
    assert printed.count("saved") == 2
    assert members(group) == []


def test_a_word_that_is_no_way_to_show_a_run_is_refused(project, group):
    assert "error: --show takes one of auto, bars, lines, quiet" in ended(shown(group, kind="loud"), 2)


def test_a_module_that_is_edited_between_two_stages_is_read_anew(project, group):
    running = begin(group, "first", "second")
    release()
    until(lambda: Path(".begun-last").exists() or Path("made/first").exists(), running)
    Path("tasks/words.py").write_text('TEXT = "other "\n')
    printed = ended(running) if running.wait(PATIENCE) == 0 else repro(group)
    assert ": warm [" in printed
    assert made()["last"].startswith("other ")
    assert DvcLock.read(Path("dvc.lock")).stages["last"]


def test_a_stage_from_a_warm_parent_ends_and_prints_as_an_ordinary_process(template, project, capfd):
    parent = WarmParent(ComputeSettings(device="cpu", threads=1), template)
    stages = WarmStages(parent)
    good = ["tasks.work", "--source", "origin.txt", "--out", "made/first", "--stage", "first"]
    bad = ["tasks.work", "--source", "origin.txt", "--out", "made/first", "--params", "none.yaml"]
    try:
        for words in (good, bad, ["tasks.work"], ["tasks.none"]):
            warm = stages.run(project, *words)
            cold = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, check=False)
            assert warm.returncode == cold.returncode
            assert warm.stdout.partition(": ")[0] == cold.stdout.partition(": ")[0]
            assert warm.stderr.splitlines()[-1:] == cold.stderr.splitlines()[-1:] or words == ["tasks.none"]
    finally:
        parent.close()
    assert capfd.readouterr() == ("", "")
