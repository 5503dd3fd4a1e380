"""A project whose stages do nothing, but have the dependencies, parameters and outputs of a finished run's dvc.lock.

What DVC costs grows with the size of the lock's entries, so a chain of stages that copy a file costs less than the real
stages do. Paths in dvc.lock are made as small files, so hashing them is not what is measured.
"""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML


def make(folder: Path, lock: Path) -> int:
    """Write the project into a new folder. Returns its number of stages."""
    stages: dict[str, Any] = YAML(typ="safe").load(lock.read_text(encoding="utf-8"))["stages"]
    made = {out["path"] for stage in stages.values() for out in stage.get("outs", ())}
    read = {dep["path"]: dep for stage in stages.values() for dep in stage.get("deps", ())}
    params: dict[str, dict[str, Any]] = {}
    graph = {}
    folder.mkdir(parents=True)
    for name, stage in stages.items():
        for dep in stage.get("deps", ()):
            if not within(dep["path"], made):
                write(folder, dep["path"], dep)
        for file, values in stage.get("params", {}).items():
            for key, value in values.items():
                put(params.setdefault(file, {}), key, value)
        graph[name.replace("@", "-")] = {
            "cmd": " && ".join(command(name, out, read) for out in stage.get("outs", ())) or "true",
            "deps": [dep["path"] for dep in stage.get("deps", ())],
            "params": [{file: list(values)} for file, values in stage.get("params", {}).items()],
            "outs": [out["path"] for out in stage.get("outs", ())],
        }
    for file, values in params.items():
        # JSON is YAML too.
        (folder / file).write_text(json.dumps(values), encoding="utf-8")
    (folder / "dvc.yaml").write_text(json.dumps({"stages": graph}), encoding="utf-8")
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n", encoding="utf-8")
    return len(graph)


def within(path: str, made: set[str]) -> bool:
    """Whether a stage makes the path, or a folder that it is in."""
    return any(part in made for part in (path, *map(str, Path(path).parents)))


def is_folder(entry: Mapping[str, Any]) -> bool:
    return str(entry.get("md5", "")).endswith(".dir")


def write(folder: Path, path: str, entry: Mapping[str, Any]) -> None:
    """A dependency that no stage makes: a small file, or a folder of as many as the lock counts."""
    if is_folder(entry):
        for number in range(int(entry.get("nfiles", 1))):
            write(folder, f"{path}/file{number}", {})
    elif not (folder / path).exists():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(path, encoding="utf-8")


def put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a value by its dotted key."""
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
    values[last] = value


def command(stage: str, out: Mapping[str, Any], read: Mapping[str, Mapping[str, Any]]) -> str:
    """A shell command that makes an output, and what other stages read of it.

    Args:
        read: the dependencies of all stages, by their paths.
    """
    parts = [entry for path, entry in read.items() if path != out["path"] and within(path, {out["path"]})]
    files = [Path(each["path"], "content") if is_folder(each) else Path(each["path"]) for each in parts or [out]]
    return " && ".join(
        f"mkdir -p {shlex.quote(str(path.parent))} && echo {shlex.quote(stage)} > {shlex.quote(str(path))}"
        for path in files
    )
