"""What is expensive to make is made once in a run of the tests, whichever of its worker processes asks first."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that `make` has filled, one for all workers of this run; nobody may change what is in it.

    Args:
        name: of the folder; another name is another folder.
        make: fills the empty folder that it is given. If it fails, the next one who asks tries again.
    """
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # each worker has a folder of its own in that of the run
    folder, complete = base / name, base / f"{name}.complete"
    with FileLock(base / f"{name}.lock"):
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            complete.touch()
    return folder


def copied(folder: Path, to: Path) -> Path:
    """Copy a folder that others share to one's own, to change it; returns that."""
    shutil.copytree(folder, to, symlinks=True, dirs_exist_ok=True)
    return to
