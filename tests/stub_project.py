"""A project under git and DVC whose stages write down given figures, for commands that run copies of it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests import python
from tests.small_pipeline import commit
from tests.stub_models import write_stub

ROOT = Path(__file__).resolve().parents[1]
ROW = {"id": "0", "prompt": "How do I fly a kite?", "response": "Hold the line.", "rejected": "No."}


def make_project(folder: Path, recipe: str, graph: str, program: str, figures: Mapping[str, Any]) -> Path:
    """A project with a model that git ignores.

    Args:
        folder: where to make it.
        recipe: the text of recipes/mine.yaml.
        graph: the text of dvc.yaml.
        program: the text of make.py, which the stages call.
        figures: the evaluations that they write, by name.
    """
    (folder / "figures").mkdir(parents=True)
    for name in ("tasks", "flows"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "recipes").mkdir()
    for name in ("quickstart.yaml", "absent"):
        shutil.copy(ROOT / "recipes" / name, folder / "recipes" / name)
    for name, text in {"dvc.yaml": graph, "make.py": program, "recipes/mine.yaml": recipe}.items():
        (folder / name).write_text(text)
    (folder / "rows.jsonl").write_text(json.dumps(ROW) + "\n")
    for name, made in figures.items():
        (folder / f"figures/{name}.json").write_text(json.dumps(made))
    write_stub(folder / "models/mine")
    for name in (".gitignore", ".dvcignore", ".dvc/config"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    commit(folder, "first")
    return folder


def environment(folder: Path, **more: str) -> dict[str, str]:
    """The environment of a command in which the stages write to a file what has run."""
    return {**python.environment(ROOT), "RAN": str(folder.parent / "ran"), **more}


def call(folder: Path, *words: str, code: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
    """Run `juicer` in the project, which has to end with `code`."""
    command = [sys.executable, "-m", "juicer", *words]
    done = subprocess.run(
        command, cwd=folder, env=environment(folder, **more), capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def ran(folder: Path) -> list[str]:
    """The stages that have run since the last call, and where."""
    path = folder.parent / "ran"
    found = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return found
