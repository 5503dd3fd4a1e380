"""`make setup` in a project that was moved or copied with its environment. A stand-in for Python makes empty ones."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

PYTHON = """#!/bin/sh
# python -m venv [--clear] FOLDER; anything else succeeds.
[ "$2" = venv ] || exit 0
for folder; do :; done
[ "$3" = --clear ] && rm -rf "$folder"/*
mkdir -p "$folder/bin"
touch "$folder/pyvenv.cfg"
cp "$0" "$folder/bin/python"
echo "VIRTUAL_ENV=\\"$PWD/$folder\\"" > "$folder/bin/activate"
"""


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A project whose environment is set up, with a file in it that a new one would not have."""
    folder = tmp_path / "original"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder / name)
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    assert setup(folder).returncode == 0
    (folder / ".venv/old").touch()
    return folder


def setup(folder: Path) -> subprocess.CompletedProcess[str]:
    command = ["make", "setup", f"PYTHON={folder.parent}/python"]
    environment = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_an_environment_is_kept_where_it_was_made_also_when_its_requirements_change(made: Path) -> None:
    with (made / "constraints.txt").open("a") as file:
        file.write("# changed\n")
    assert "Installing" in setup(made).stdout
    assert (made / ".venv/old").exists()
    assert setup(made).stdout == "make: Nothing to be done for 'setup'.\n"


def test_an_environment_is_made_again_in_a_copy_and_after_a_move(made: Path, tmp_path: Path) -> None:
    copy = tmp_path / "original-copy"
    shutil.copytree(made, copy, symlinks=True)
    said = setup(copy)
    assert f".venv was made in another folder, {made}/.venv, and is made again." in said.stdout
    assert not (copy / ".venv/old").exists()
    assert (made / ".venv/old").exists()
    made.rename(tmp_path / "moved")
    assert setup(tmp_path / "moved").returncode == 0
    assert not (tmp_path / "moved/.venv/old").exists()


def test_a_link_to_another_projects_environment_is_refused(made: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(made, other, ignore=shutil.ignore_patterns(".venv"))
    (other / ".venv").symlink_to(made / ".venv")
    said = setup(other)
    assert said.returncode != 0
    assert "error: .venv is a link to an environment that was made elsewhere, in" in said.stderr
    assert (made / ".venv/old").exists()


def test_a_link_to_a_disk_of_ones_own_works(made: Path, tmp_path: Path) -> None:
    shutil.rmtree(made / ".venv")
    (tmp_path / "disk").mkdir()
    (made / ".venv").symlink_to(tmp_path / "disk")
    assert setup(made).returncode == 0
    (made / ".venv/old").touch()
    (made / "constraints.txt").write_text("# changed\n")
    assert setup(made).returncode == 0
    assert (tmp_path / "disk/old").exists()
