"""Finds what a fault left wrong in a project and removes it, so that the next `dvc repro` makes it again.

That is an output, or an object of DVC's cache, whose bytes are not those of its md5 (a damaged disk, an edit by hand),
and an entry of dvc.lock that records something else than the stage read.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from juicer.runtime.errors import InputError
from juicer.runtime.files import read_yaml, remove
from juicer.stages import recorded
from juicer.stages.dvc_files import LOCK, DvcLock
from juicer.stages.hashes import md5_of
from juicer.stages.pipeline import Declared, declared_stages


def remove_damage(params: Mapping[str, Any]) -> list[str]:
    """Remove what is wrong; returns a line about each. Nobody else may run DVC in the folder meanwhile.

    Files that have not changed since the last time are not read again, and an output that is there is compared with
    dvc.lock only, so this takes milliseconds where nothing is wrong.

    Args:
        params: the content of params.yaml.
    """
    if not LOCK.is_file():
        return []
    lock = DvcLock.read(LOCK)
    lines = []
    for stage, differences in recorded.compare(lock).items():
        _remove_entry(stage, lock)
        lines.append(
            f"{LOCK}: {stage} did not read what was recorded of it ({', '.join(differences)}); the entry is removed"
        )
    for name, declared in declared_stages(params).items():
        lines += _remove_outputs(name, declared, lock)
    return lines


def _remove_outputs(stage: str, declared: Declared, lock: DvcLock) -> Iterator[str]:
    """Remove the outputs of a stage that are not what dvc.lock says, and the objects that they came from."""
    for output in declared.outputs:
        path, expected = Path(output), lock.md5(output)
        if expected is None or (path.exists() and md5_of(path, remember=True) == expected):
            continue
        damaged = list(_damaged_objects(expected))
        for each in damaged:
            remove(each)
        if path.exists():
            remove(path)
            yield f"{path}: it was not what {stage} made (changed by hand, or damaged); it is removed"
        elif damaged:
            yield f"{path}: its copy in DVC's cache was damaged; {len(damaged)} objects are removed"


def _damaged_objects(md5: str) -> Iterator[Path]:
    """The objects of DVC's cache for an output whose bytes are not those of their md5."""
    cache = _cache()
    whole = _object(cache, md5)
    if not whole.is_file():
        return
    if not md5.endswith(".dir"):
        if md5_of(whole, remember=True) != md5:
            yield whole
        return
    if f"{md5_of(whole)}.dir" != md5:
        yield whole
        return
    for entry in json.loads(whole.read_text(encoding="utf-8")):
        part = _object(cache, entry["md5"])
        if part.is_file() and md5_of(part, remember=True) != entry["md5"]:
            yield part


def _object(cache: Path, md5: str) -> Path:
    return cache / "files/md5" / md5[:2] / md5[2:]


def _cache() -> Path:
    from dvc.repo import Repo

    with Repo() as repo:
        return Path(repo.cache.local_cache_dir)


def _remove_entry(stage: str, lock: DvcLock) -> None:
    """Remove a stage's entry from dvc.lock, and what DVC's run cache keeps of it."""
    from dvc.utils.serialize import modify_yaml

    entry = lock.stages[stage]
    with modify_yaml(str(lock.path)) as content:
        del content["stages"][stage]
    for folder in _runs_like(entry):
        shutil.rmtree(folder)
    recorded.forget(stage)


def _runs_like(entry: Mapping[str, Any]) -> Iterable[Path]:
    """The folders of DVC's run cache for the command, parameters and inputs of an entry."""
    for file in (_cache() / "runs").glob("*/*/*"):
        try:
            run = read_yaml(file)
        except InputError:
            continue
        if all(run.get(key) == entry.get(key) for key in ("cmd", "params")) and _md5s(run) == _md5s(entry):
            yield file.parent


def _md5s(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {dependency["path"]: dependency.get("md5") for dependency in entry.get("deps", [])}
