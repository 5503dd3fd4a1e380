"""Files: JSON and YAML read with errors that name the file, values under dotted keys, and atomic replacement."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from juicer.runtime.errors import InputError
from juicer.runtime.yaml_text import CHARACTERS, parse_yaml

_REQUIRED: Any = object()


def write_json(path: Path, value: Any) -> None:
    """Write JSON in the layout of all tracked outputs; NaN and infinity raise ValueError."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: the file does not exist or is not valid JSON; names it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError("no such file", where=str(path), do="run the stage that makes it: dvc repro") from error
    except json.JSONDecodeError as error:
        raise InputError(f"invalid JSON: {error.msg}", where=f"{path}:{error.lineno}") from error


def parse_json_line(line: str, where: str) -> Any:
    """The value of a line of JSON.

    Args:
        where: file and number of the line, for an error message.

    Raises:
        InputError: the line is not valid JSON.
    """
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"invalid JSON: {error.msg}", where=where) from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping, by YAML 1.2 as DVC does, so that 1e-4 is a number.

    Raises:
        InputError: the file does not exist, is not a valid YAML mapping in UTF-8, or is larger or deeper than
            `parse_yaml` reads; names it, and the line.
    """
    try:
        size = path.stat().st_size
        if size > 4 * CHARACTERS:
            raise InputError(f"{size:,} bytes, more than YAML is read from", where=str(path))
        values = parse_yaml(path.read_bytes().decode("utf-8-sig"), str(path))
    except FileNotFoundError as error:
        do = "write it: juicer use recipes/quickstart.yaml" if path.name == "params.yaml" else ""
        raise InputError("no such file", where=str(path), do=do) from error
    except UnicodeDecodeError as error:
        line = path.read_bytes().count(b"\n", 0, error.start) + 1
        do = "save the file as UTF-8"
        raise InputError(f"not UTF-8: {error.reason}", where=f"{path}:{line}", do=do) from error
    if not isinstance(values, dict):
        raise InputError("the file is not a YAML mapping", where=str(path))
    return values


def value_at(values: Mapping[str, Any], key: str, default: Any = _REQUIRED) -> Any:
    """The value under the dotted `key`, for example `values["irft"]["rounds"]` under "irft.rounds".

    Raises:
        KeyError: there is no such value, and no default was given; names the whole key.
    """
    found: Any = values
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            if default is _REQUIRED:
                raise KeyError(key)
            return default
        found = found[part]
    return found


def replace_text(path: Path, text: str) -> None:
    """Write `text` to `path` by an atomic rename: a reader sees the old file or the new one, never a part of either."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_beside(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """A name for a file or folder on the same disk as `path`, so that a rename to `path` is atomic.

    Nothing exists under the name when the block begins, and what still does when it ends is removed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    remove(temporary)
    try:
        yield temporary
    finally:
        remove(temporary)


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder; nothing happens if `path` does not exist."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def md5_of_file(path: Path) -> str:
    """The MD5 of a file's content, hexadecimal, as DVC records it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
