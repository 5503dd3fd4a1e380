"""A copy of the project to run in, so that code and parameters can be edited while a long run lasts.

A copy is a git worktree with the changes that are not committed. It is named after its content: the same command finds
it again after a kill, with the checkpoints in it. It uses the project's own DVC cache: stages that it finished
before it failed are not computed again anywhere else either.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from juicer.runtime.errors import InputError
from juicer.runtime.files import remove, replace_text
from juicer.stages.dvc_files import LOCK, DvcLock
from juicer.stages.git import git, root
from juicer.stages.pipeline import declared_stages

FOLDER, ARTIFACTS = Path(".juicer/snapshots"), Path("mlruns")
WHOLE = Path(".juicer/snapshot")
"""In a copy: it is whole."""
LOCAL = Path(".dvc/config.local")


def take(params: Mapping[str, Any]) -> tuple[Path, bool]:
    """The folder of a copy of the project as it is now, and whether it was there already.

    Args:
        params: the content of params.yaml.

    Raises:
        InputError: the project is not the top folder of a git checkout with a commit, has an input that a copy would
            not find, or was changed while it was copied.
    """
    if root().resolve() != Path.cwd().resolve():
        raise InputError("a snapshot needs a project that is a git checkout of its own", where=str(Path.cwd()))
    files = [*versioned(), *ignored_inputs(params)]
    folder = FOLDER / digest(Path(), files)
    commit = git("rev-parse", "HEAD")
    if (folder / WHOLE).is_file():
        git("reset", "--quiet", commit, cwd=folder)
        return folder, True
    make_copy(folder, files, commit)
    if digest(folder, files) != folder.name:
        discard(folder)
        raise InputError("the project was changed while it was copied", where=str(Path.cwd()), do="run again")
    _share_artifacts(folder)
    replace_text(folder / WHOLE, "")
    return folder, False


def make_copy(folder: Path, files: Iterable[Path], commit: str) -> None:
    """Make `folder` a git worktree of `commit` with these files of the project, its dvc.lock and its DVC cache.

    What was there of an earlier attempt is removed.
    """
    discard(folder)
    git("worktree", "add", "--quiet", "--detach", "--no-checkout", str(folder), commit)
    for path in files:
        _copy(path, folder / path)
    git("reset", "--quiet", commit, cwd=folder)  # else git would take all files for new ones
    if LOCK.is_file():
        _copy(LOCK, folder / LOCK)
    share_cache(folder)


def bring_back(folder: Path) -> None:
    """Move what was made in a copy, and the record of it, to the project, whose files may have changed since."""
    lock = DvcLock.read(folder / LOCK)
    for path in map(Path, lock.producers):
        if not path.is_absolute() and (folder / path).exists():
            remove(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            (folder / path).rename(path)
    replace_text(LOCK, (folder / LOCK).read_text(encoding="utf-8"))


def discard(folder: Path) -> None:
    """Remove a copy, whole or not."""
    with suppress(InputError):
        git("worktree", "remove", "--force", "--force", str(folder))
    remove(folder)
    git("worktree", "prune")


def versioned() -> list[Path]:
    """The files that git has or would add, but not dvc.lock, which changes with every run."""
    listed = git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    paths = sorted({Path(name) for name in listed if name} - {LOCK})
    return [path for path in paths if path.is_symlink() or path.is_file()]


def ignored_inputs(params: Mapping[str, Any]) -> list[Path]:
    """The files that stages read, no stage makes and git ignores: data and models of the user."""
    stages = declared_stages(params).values()
    made = {Path(path) for stage in stages for path in stage.outputs}
    read = {Path(path) for stage in stages for path in stage.inputs}
    given = sorted(path for path in read if not path.is_absolute() and not made & {path, *path.parents})
    if outside := next((path for path in given if ".." in path.parts), None):
        raise InputError("a snapshot would not find this input", where=str(outside), do="name it by its whole path")
    known = set(versioned())
    return [path for each in given for path in _within(each) if path not in known and _is_data(path)]


def _within(path: Path) -> Iterator[Path]:
    yield from sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path][: path.is_file()]


def _is_data(path: Path) -> bool:
    return path.suffix != ".pyc" and "__pycache__" not in path.parts


def digest(folder: Path, files: Iterable[Path]) -> str:
    """A name for the content of files."""
    found = hashlib.sha256()
    for path in files:
        place = folder / path
        if place.is_symlink():
            content = str(place.readlink())
        else:
            with place.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
        found.update(f"{path}\0{content}\0{os.access(place, os.X_OK)}\n".encode())
    return found.hexdigest()[:16]


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target, follow_symlinks=False)


def share_cache(folder: Path) -> None:
    """Let another folder use the project's DVC cache, and all else that is configured on this machine."""
    cache = _dvc(Path(), "cache", "dir")  # before the copy has a configuration of its own
    if LOCAL.is_file():
        _copy(LOCAL, folder / LOCAL)
    _dvc(folder, "config", "--local", "cache.dir", str(Path(cache).absolute()))


def _share_artifacts(folder: Path) -> None:
    """Let a copy use the project's MLflow artifacts."""
    ARTIFACTS.mkdir(exist_ok=True)
    (folder / ARTIFACTS).symlink_to(ARTIFACTS.absolute(), target_is_directory=True)


def _dvc(folder: Path, *words: str) -> str:
    command: Sequence[str] = [sys.executable, "-m", "dvc", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(" ".join(done.stderr.split()) or f"exit code {done.returncode}", where=f"dvc {words[0]}")
    return done.stdout.strip()
