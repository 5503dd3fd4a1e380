"""Small files: JSON and YAML read with errors that name the file, written whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from juicer.runtime.errors import InputError


def write_json(path: Path, value: Any) -> None:
    """Write JSON in the one layout that tracked outputs use; a NaN or infinity is refused."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file; InputError says which file is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError("no such file", where=str(path), do="run the stage that makes it: dvc repro") from error
    except json.JSONDecodeError as error:
        raise InputError(f"invalid JSON: {error.msg}", where=f"{path}:{error.lineno}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping (YAML 1.2, as DVC does, so 1e-4 is a number)."""
    try:
        values = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        do = "write it: juicer use recipes/quickstart.yaml" if path.name == "params.yaml" else ""
        raise InputError("no such file", where=str(path), do=do) from error
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise InputError(f"invalid YAML: {error.problem}", where=f"{path}:{line}") from error
    if not isinstance(values, dict):
        raise InputError("not a mapping of parameters", where=str(path))
    return values


def replace_text(path: Path, text: str) -> None:
    """Write `text` to `path` by an atomic rename: a reader sees the file as it was or as it is, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
