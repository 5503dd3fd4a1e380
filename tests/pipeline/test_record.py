"""What dvc.lock says about a stage is what the stage read, whatever happens while it runs."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from juicer.stages.attempts import read as attempts
from juicer.stages.damage import remove_damage
from juicer.stages.dvc_files import DvcLock

ROOT = Path(__file__).resolve().parents[2]
STAGE = """
import argparse, time
from pathlib import Path
from juicer.stages.stage import Stage, main

def arguments(parser):
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)

def run(stage: Stage) -> str:
    from tasks import words
    seed = stage.value("seed")
    Path(".begun").touch()
    while not Path(".go").exists():
        time.sleep(0.02)
    with Path(".runs").open("a") as runs:
        runs.write("x")
    with stage.publish(stage.arguments.out) as out:
        out.mkdir()
        (out / "text").write_text(f"{words.TEXT} {seed} {stage.arguments.source.read_text()}")
    return "made"

if __name__ == "__main__":
    main(run, arguments, __doc__)
"""
GRAPH = """
stages:
  code:
    cmd: python -m tasks.code --out code
    deps: [juicer, tasks]
    params: [compute]
    outs: [code]
  before:
    cmd: cp origin.txt source.txt
    deps: [origin.txt]
    outs: [source.txt]
  slow:
    cmd: python -m tasks.slow --source source.txt --out made
    deps: [source.txt, code/slow.json]
    params: [seed]
    outs: [made]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose last stage has begun its work when .begun appears, and ends once there is .go."""
    for name in ("juicer", "recipes"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("params.yaml", ".dvcignore", ".dvc/config"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "tasks").mkdir()
    shutil.copy(ROOT / "tasks/code.py", tmp_path / "tasks/code.py")
    (tmp_path / "tasks/slow.py").write_text(STAGE)
    (tmp_path / "tasks/words.py").write_text('TEXT = "words"\n')
    (tmp_path / "origin.txt").write_text("source")
    (tmp_path / "dvc.yaml").write_text(GRAPH)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start() -> "subprocess.Popen[str]":
    """`dvc repro`, up to the point where the slow stage works."""
    for name in (".begun", ".go"):
        Path(name).unlink(missing_ok=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro"],
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while not Path(".begun").exists() and process.poll() is None:
        time.sleep(0.02)
    return process


def finish(process: "subprocess.Popen[str]") -> str:
    """Let the slow stage end; returns what was printed."""
    Path(".go").touch()
    return process.communicate(timeout=300)[0]


def repro() -> str:
    """A whole, undisturbed `dvc repro`; returns what was printed."""
    process = start()
    printed = finish(process)
    assert process.returncode == 0, printed
    return printed


def set_seed(seed: int) -> None:
    params = YAML().load(Path("params.yaml"))
    params["seed"] = seed
    YAML().dump(params, Path("params.yaml"))


def recorded() -> dict[str, Any]:
    return DvcLock.read(Path("dvc.lock")).stages.get("slow", {}) if Path("dvc.lock").is_file() else {}


CHANGES: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
    "seed": (lambda: set_seed(7), lambda: set_seed(0)),
    "tasks/words.py": (
        lambda: Path("tasks/words.py").write_text('TEXT = "other"\n'),
        lambda: Path("tasks/words.py").write_text('TEXT = "words"\n'),
    ),
}


@pytest.mark.parametrize("changed", CHANGES)
def test_a_stage_whose_parameters_or_code_change_is_not_recorded_and_its_work_is_not_lost(project, changed):
    change, change_back = CHANGES[changed]
    process = start()
    time.sleep(1)  # until it is known which modules were loaded as they were at the start
    change()
    printed = finish(process)
    assert process.returncode != 0
    assert f"error: slow: changed while the stage ran: {changed}" in printed
    assert not Path("made").exists() and not recorded()
    change_back()
    assert "published what an earlier run had made" in repro()
    assert Path("made/text").read_text() == "words 0 source"
    assert Path(".runs").read_text() == "x"
    assert recorded()["params"]["params.yaml"] == {"seed": 0}
    assert not Path(".juicer/finished/slow").exists()


def test_after_a_change_the_stage_runs_as_the_parameters_are_now(project):
    process = start()
    set_seed(7)
    finish(process)
    repro()
    assert Path("made/text").read_text() == "words 7 source"
    assert recorded()["params"]["params.yaml"] == {"seed": 7}
    set_seed(0)
    assert "published what an earlier run had made" in repro()
    assert Path("made/text").read_text() == "words 0 source"


def test_work_with_an_input_that_changed_is_discarded_even_if_it_was_changed_back(project):
    process = start()
    Path("source.txt").chmod(0o644)
    Path("source.txt").write_text("another")
    Path("source.txt").write_text("source")
    printed = finish(process)
    assert process.returncode != 0
    assert "source.txt (changed and changed back); its work is discarded" in printed
    assert not Path("made").exists() and not Path(".juicer/finished/slow").exists()
    repro()
    assert Path("made/text").read_text() == "words 0 source"


def test_a_damaged_object_of_the_cache_is_noticed_before_it_is_used_and_made_again(project):
    repro()
    entry = DvcLock.read(Path("dvc.lock"))
    md5 = entry.md5("source.txt")
    stored = Path(".dvc/cache/files/md5", md5[:2], md5[2:])
    stored.chmod(0o644)
    stored.write_text("sourcE")
    stored.chmod(0o444)  # what DVC protects, it trusts
    Path("source.txt").unlink()
    set_seed(1)
    process = start()
    printed = finish(process)
    assert process.returncode != 0
    assert "error: source.txt: its md5 is" in printed
    assert f"but before made {md5}: it was changed by hand or is damaged in DVC's cache" in printed
    (line,) = remove_damage(YAML().load(Path("params.yaml")))
    assert line == "source.txt: it was not what before made (changed by hand, or damaged); it is removed"
    assert not stored.exists()
    repro()
    assert Path("made/text").read_text() == "words 1 source"
    assert remove_damage(YAML().load(Path("params.yaml"))) == []


def test_an_entry_of_dvc_lock_that_is_not_what_the_stage_read_is_removed_and_the_stage_runs_again(project):
    repro()
    Path(".juicer/read/slow.json").write_text(
        Path(".juicer/read/slow.json").read_text().replace('"seed": 0', '"seed": 3')
    )
    (line,) = remove_damage(YAML().load(Path("params.yaml")))
    assert line == "dvc.lock: slow did not read what was recorded of it (seed (read: 3)); the entry is removed"
    assert not recorded()
    repro()
    assert Path(".runs").read_text() == "xx"
    assert remove_damage(YAML().load(Path("params.yaml"))) == []


def test_a_stage_whose_dvc_was_killed_while_it_started_does_nothing(project):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    dvc = subprocess.Popen([sys.executable, "-m", "dvc", "repro"], env={**os.environ, "PATH": path})
    while not any("tasks.slow" in word for word in _commands()):
        time.sleep(0.005)
    dvc.kill()
    dvc.wait()
    while any("tasks.slow" in word for word in _commands()):
        time.sleep(0.02)
    assert not Path(".begun").exists()
    assert not Path("made").exists()
    repro()
    assert Path(".runs").read_text() == "x"
    assert attempts() == {}


def _commands() -> list[str]:
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(Path.cwd()):
                found += process.cmdline()
        except psutil.Error:
            continue
    return found
