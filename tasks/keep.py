"""Stage keep: copy an input that is on this machine only (a model's folder, a file of data) into DVC.

No stage reads the copy. It is there to restore a version when the original has changed or is gone.
"""

import argparse
import os
import shutil
from pathlib import Path

from juicer.runtime.errors import InputError
from juicer.stages.stage import Stage, main

AT_ONCE = 1 << 30
"""Bytes that one call of the system copies at most."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", type=Path, required=True, help="file or folder to copy")
    parser.add_argument("--out", type=Path, required=True, help="copy to write")


def run(stage: Stage) -> str:
    source, out = stage.arguments.source, stage.arguments.out
    with stage.publish(out) as path:
        size = copy(source, path)
    return f"{size / 1e9:.3f} GB of {source}"


def copy(source: Path, target: Path) -> int:
    """Copy a file or folder, what links lead to included. Returns the number of bytes.

    Raises:
        InputError: there is nothing to copy, or it changed meanwhile.
    """
    before = _state(source)
    if not before:
        raise InputError("there is no such file or folder", where=str(source), do="restore it, or use another recipe")
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_copy_file)
    else:
        _copy_file(source, target)
    if _state(source) != before:
        raise InputError("it changed while it was copied", where=str(source), do="run the stage again")
    return sum(size for size, _ in before.values())


def _state(source: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of each file."""
    files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def _copy_file(source: str | Path, target: str | Path) -> None:
    """Copy content. Some file systems need neither time nor space for it, if the kernel does it."""
    try:
        with Path(source).open("rb") as old, Path(target).open("wb") as new:
            while os.copy_file_range(old.fileno(), new.fileno(), AT_ONCE):
                pass
    except OSError:
        shutil.copyfile(source, target)


if __name__ == "__main__":
    main(run, arguments, __doc__)
