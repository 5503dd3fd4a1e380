"""Folders that say themselves which files are their rows: those of `datasets`' save_to_disk and load_dataset."""

import glob
import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from juicer.runtime.errors import InputError
from juicer.runtime.yaml_text import parse_yaml
from juicer.sources.suffixes import SUPPORTED, type_of

METADATA = (
    "croissant.json",
    "datapackage.json",
    "dataset-metadata.json",
    "dataset_dict.json",
    "dataset_info.json",
    "dataset_infos.json",
    "metadata.json",
    "state.json",
)
"""Files that describe a dataset and have no rows of it."""
_HEAD = re.compile(r"\A---\n(.*?\n)---\s*$", re.DOTALL | re.MULTILINE)


def is_rows(path: Path) -> bool:
    """Whether a file is one of rows, by its name."""
    return type_of(path.name) is not None and path.name.lower() not in METADATA


def described_files(folder: Path, shown: str) -> list[tuple[Path, str | None]] | None:
    """The files that a folder names as its rows, each with its split or None; None if it names none.

    Args:
        folder: the folder.
        shown: its path in errors.

    Raises:
        InputError: the folder names files that do not exist, or several configurations, or its metadata are no JSON.
    """
    if (folder / "dataset_dict.json").is_file():
        splits = _metadata(folder, "dataset_dict.json", "splits", shown)
        return [(path, split) for split in splits for path in _saved(folder / str(split), f"{shown}/{split}")]
    if (folder / "state.json").is_file():
        return [(path, None) for path in _saved(folder, shown)]
    return _of_readme(folder, shown) or None


def _saved(folder: Path, shown: str) -> Iterator[Path]:
    """The files of a dataset that save_to_disk wrote."""
    for entry in _metadata(folder, "state.json", "_data_files", shown):
        name = str(entry.get("filename") if isinstance(entry, dict) else entry)
        path = folder / PurePosixPath(name).name
        if not path.is_file():
            raise InputError(f"no such file, although state.json names it: {name}", where=shown, do="copy it again")
        yield path


def _metadata(folder: Path, name: str, key: str, shown: str) -> list[Any]:
    try:
        value = json.loads((folder / name).read_bytes())[key]
    except FileNotFoundError as error:
        raise InputError(f"the saved dataset has no {name}", where=shown, do="copy the whole folder again") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"no metadata of a saved dataset: no JSON with {key!r}", where=f"{shown}/{name}") from error
    if not isinstance(value, list):
        raise InputError(f"{key!r} must be a list", where=f"{shown}/{name}")
    return value


def _of_readme(folder: Path, shown: str) -> list[tuple[Path, str | None]]:
    """The files that the head of README.md names, as on the Hugging Face hub."""
    where = f"{shown}/README.md"
    try:
        head = _HEAD.match((folder / "README.md").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return []
    if head is None or "data_files" not in head[1]:
        return []
    values = parse_yaml(head[1], where)
    config = _config(values.get("configs") if isinstance(values, dict) else None, where)
    found: dict[Path, str | None] = {}
    for split, pattern in _patterns(config.get("data_files")):
        for path in _matches(folder, pattern, where):
            found.setdefault(path, split)
    return list(found.items())


def _config(configs: object, where: str) -> dict[str, Any]:
    """The only configuration, or the default one."""
    given = [each for each in configs if isinstance(each, dict)] if isinstance(configs, list) else []
    chosen = [each for each in given if each.get("default") is True or each.get("config_name") == "default"]
    if len(given) > 1 and not chosen:
        names = ", ".join(str(each.get("config_name")) for each in given)
        do = "name a folder or a pattern instead, such as data/train-*.parquet"
        raise InputError(f"the dataset has the configurations {names}, and none is the default", where=where, do=do)
    return next(iter(chosen or given), {})


def _patterns(data_files: object, split: str | None = None) -> Iterator[tuple[str | None, str]]:
    """Splits and patterns: a pattern, a list of these, a mapping from splits, or a list of `split` and `path`."""
    if isinstance(data_files, str):
        yield split, data_files
    elif isinstance(data_files, list):
        for each in data_files:
            yield from _patterns(each, split)
    elif isinstance(data_files, dict) and "path" in data_files:
        yield from _patterns(data_files["path"], str(data_files.get("split") or split))
    elif isinstance(data_files, dict):
        for name, each in data_files.items():
            yield from _patterns(each, str(name))


def _matches(folder: Path, pattern: str, where: str) -> list[Path]:
    if PurePosixPath(pattern).is_absolute() or ".." in PurePosixPath(pattern).parts:
        raise InputError(f"data_files names {pattern!r}, which is outside of the folder", where=where)
    names = glob.glob(pattern, root_dir=folder, recursive=True)  # noqa: PTH207  Path.glob lists hidden files
    found = [folder / name for name in sorted(names)]
    files = [path for path in found if path.is_file()]
    if not files:
        do = "complete the folder, or correct the head of README.md"
        raise InputError(f"data_files names {pattern!r}, and no file has such a name", where=where, do=do)
    unsupported = next((path for path in files if type_of(path.name) is None), None)
    if unsupported:
        raise InputError(f"unsupported type of file: {unsupported.name}", where=where, do=SUPPORTED)
    return files
