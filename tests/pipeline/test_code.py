"""An edit reruns the stages whose program uses the module, and no stage runs on code that is not the recorded one."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from flows.forecast import plan
from juicer.stages.code import Sources, read_list
from tests.tiny_graph import ROOT, call

STAGE = """
import argparse
from pathlib import Path
from juicer.stages.stage import Stage, main
from tasks.words import TEXT

def arguments(parser):
    parser.add_argument("--out", type=Path, required=True)

def run(stage: Stage) -> str:
    seed = stage.value("seed")
    with stage.publish(stage.arguments.out) as out:
        out.write_text(f"{TEXT} {seed}")
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
  one:
    cmd: python -m tasks.one --out one.txt
    deps: [code/one.json]
    params: [compute, seed]
    outs: [one.txt]
  two:
    cmd: python -m tasks.two --out two.txt
    deps: [code/two.json]
    params: [compute, seed]
    outs: [two.txt]
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of two small stages that have run; the programs use a module of their own each, and the harness."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "juicer", folder / "juicer", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "recipes").symlink_to(ROOT / "recipes")
    for name in ("params.yaml", ".gitignore", ".dvcignore", ".dvc/config", "tasks/code.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    for name in ("one", "two"):
        (folder / f"tasks/{name}.py").write_text(STAGE.replace("words", f"words_{name}"))
        (folder / f"tasks/words_{name}.py").write_text('TEXT = "words"\n')
    (folder / "dvc.yaml").write_text(GRAPH)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    assert repro(folder) == {"code", "one", "two"}
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that project as the working directory."""
    folder = tmp_path / "project"
    shutil.copytree(made, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


def repro(folder: Path) -> set[str]:
    """Run `dvc repro`; returns the stages that ran."""
    return set(re.findall(r"Running stage '([^']+)'", call(folder, "dvc", "repro").stdout))


def forecast() -> dict[str, str]:
    return {stage.name: stage.forecast for stage in plan()}


def test_an_edit_runs_the_stages_that_use_the_module_and_the_plan_says_so(project: Path) -> None:
    assert forecast() == dict.fromkeys(["code", "one", "two"], "unchanged")
    (project / "tasks/words_one.py").write_text('TEXT = "other"\n')
    assert forecast() == {"code": "will run", "one": "will run", "two": "unchanged"}
    assert {stage.name for stage in plan() if stage.certain} == {"two"}
    assert repro(project) == {"code", "one"}
    assert (project / "one.txt").read_text() == "other 0"
    assert forecast() == dict.fromkeys(["code", "one", "two"], "unchanged")


def test_code_that_no_program_uses_runs_nothing_but_the_listing(project: Path) -> None:
    (project / "juicer/registry/unused.py").write_text("")
    assert forecast() == {"code": "will run", "one": "unchanged", "two": "unchanged"}
    assert repro(project) == {"code"}


def test_an_edit_that_is_undone_brings_the_results_back(project: Path) -> None:
    words = project / "tasks/words_one.py"
    before = words.read_text()
    words.write_text('TEXT = "other"\n')
    repro(project)
    words.write_text(before)
    assert forecast() == {"code": "restored", "one": "restored", "two": "unchanged"}
    assert repro(project) == set()
    assert (project / "one.txt").read_text() == "words 0"


def test_a_part_of_the_graph_takes_the_listing_along(project: Path) -> None:
    (project / "tasks/words_two.py").write_text('TEXT = "other"\n')
    assert {stage.name: stage.forecast for stage in plan(from_stage="two")} == {"code": "will run", "two": "will run"}


def test_a_stage_refuses_code_that_has_changed_since_it_was_listed(project: Path) -> None:
    (project / "tasks/words_one.py").write_text('TEXT = "other"\n')
    (project / "one.txt").unlink()
    done = call(project, "dvc", "repro", "--single-item", "--force", "one", check=False)
    assert done.returncode != 0
    what = "the code changed since the stage `code` listed it (juicer run lists it again)"
    assert f"error: tasks/words_one.py: {what}" in done.stderr
    assert not (project / "one.txt").exists()


def test_the_lists_that_dvc_has_are_those_that_follow_from_the_code(project: Path) -> None:
    texts = Sources().lists()
    assert {path: (project / path).read_text() for path in texts} == texts
    assert {"tasks/one.py", "tasks/words_one.py", "juicer/stages/stage.py"} <= set(read_list(Path("code/one.json")))
