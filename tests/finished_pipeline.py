"""The project's own pipeline, run from its first stage to the last one on the smallest world."""

import re
import shutil
import subprocess
from pathlib import Path

from tests import python

ROOT = Path(__file__).resolve().parents[1]
SMALLEST = [
    "world.rows=300",
    "pretrain.policy={hidden_size: 32, layers: 1, heads: 2, documents: 400, vocabulary: 500}",
    "pretrain.scorer={hidden_size: 16, layers: 1, heads: 2, pairs: 100}",
    "curate.keep=64",
    "sft.epochs=1",
    "irft.rounds=1",
    "rft.rounds=1",
    "rft.policy.steps=2",
    "rft.policy.prompts_per_step=4",
    "evaluation.prompts=12",
    "evaluation.shown=2",
]


def make_finished(folder: Path) -> None:
    """Make a project in an empty folder and run its pipeline."""
    copy_of_the_project(folder)
    activate(folder)
    repro(folder)


def copy_of_the_project(folder: Path) -> Path:
    """Code, graph and recipes in a folder of their own, with git and DVC."""
    for name in ("juicer", "tasks", "recipes", "votes"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.jsonl"))
    for name in ("dvc.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, folder / name)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    (folder / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc/config", folder / ".dvc/config")
    return folder


def activate(folder: Path, *overrides: str) -> None:
    """Make the smallest recipe, with `overrides`, the active one."""
    call(folder, "juicer", "use", "recipes/quickstart.yaml", *SMALLEST, *overrides)


def repro(folder: Path, *targets: str) -> tuple[set[str], set[str]]:
    """Run `dvc repro`; returns the stages that ran and those that DVC restored from its run cache."""
    output = call(folder, "dvc", "repro", *targets).stdout
    ran = set(re.findall(r"Running stage '([^']+)'", output))
    restored = set(re.findall(r"Stage '([^']+)' is cached", output))
    return ran, restored


def call(folder: Path, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run `python -m ...` in a project, with the code that is there."""
    return python.run(folder, *command, environment=python.environment(folder), check=check)
