"""Whatever params.yaml holds, `dvc repro` gives none of it to a shell."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from juicer.stages.code import Sources

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "; touch pwned #"
CONFIG = "recipes/models/pythia-1b.json"


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """The active recipe, in a project of its own that has not run."""
    for name in ("juicer", "tasks"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    shutil.copytree(ROOT / ".dvc", tmp_path / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local"))
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, tmp_path)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    Path("code").mkdir()
    for path, text in Sources().lists().items():
        Path(path).write_text(text, encoding="utf-8")
    return YAML(typ="safe").load(ROOT / "params.yaml")


def repro(recipe: dict, stage: str) -> str:
    """The errors of `dvc repro` with this params.yaml, written by hand."""
    YAML(typ="safe").dump(recipe, Path("params.yaml"))
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-m", "dvc", "repro", "--single-item", stage]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert f"Running stage '{stage}'" in done.stdout, done.stdout + done.stderr
    assert done.returncode
    return done.stderr


def test_a_value_of_a_recipe_is_no_command(recipe: dict) -> None:
    revision = f"main{COMMAND}"
    recipe["policy"] = {"model": "org/name", "revision": revision}
    recipe["graph"]["downloads"] = {"policy": dict(recipe["policy"])}
    recipe["graph"]["base"] = recipe["graph"]["models"]["base"]["path"] = "models/hub/policy"
    assert f"revision {revision!r} " in repro(recipe, "download@policy")
    assert not Path("pwned").exists()


def test_a_key_of_the_graph_is_no_command(recipe: dict) -> None:
    recipe["graph"]["tiny"] = {COMMAND: {"config": CONFIG}}
    assert "does not follow from the recipe" in repro(recipe, f"tiny@{COMMAND}")
    assert not Path("pwned").exists()
