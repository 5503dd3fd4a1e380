"""Rows of local files: JSON lines and JSON arrays, plain or gzipped, and parquet. Every row knows its place."""

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from juicer.runtime.errors import InputError

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")
# A whole word: `test/0000.parquet` and `hh-test-2.jsonl.gz`, but not `latest.jsonl` or `testimonials.jsonl`.
_TEST = re.compile(r"(?<![a-z])test(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class SourceFile:
    """A file of rows.

    Attributes:
        path: where the file is.
        name: its path inside the source, never an absolute one; provenance.json records it.
        held_out: whether its rows are held out from training.
    """

    path: Path
    name: str
    held_out: bool


@dataclass(frozen=True)
class Row:
    """One raw row: its values, and its place (`file:line`, or `file: row N` in formats without lines)."""

    values: dict[str, Any]
    where: str


def is_path(source: str) -> bool:
    """Whether a source is a local file or folder rather than an id of the hub."""
    return source.startswith((".", "/", "~")) or source.endswith((*SUFFIXES, ".gz")) or Path(source).exists()


def files_of(source: str) -> list[SourceFile]:
    """The files of a local source: the source itself, or all readable files below a folder, sorted by path.

    Files with the word `test` in their path inside a folder are held out.

    Raises:
        InputError: the file or folder does not exist, the type of the file is not supported, or the folder contains no
            file of a supported type.
    """
    path = Path(source).expanduser()
    if path.is_file():
        if not path.name.endswith(SUFFIXES):
            raise InputError("unsupported type of file", where=source, do=f"use one of {', '.join(SUFFIXES)}")
        return [SourceFile(path, path.name, held_out=False)]
    if not path.is_dir():
        raise InputError("no such file or folder", where=source, do="check fetch.source")
    found = [file for file in path.rglob("*") if file.is_file() and file.name.endswith(SUFFIXES)]
    names = {file.relative_to(path).as_posix(): file for file in found}
    shown = [name for name in sorted(names) if not any(part.startswith(".") for part in name.split("/"))]
    if not shown:
        raise InputError("the folder contains no supported file", where=source, do=f"supported: {', '.join(SUFFIXES)}")
    return [SourceFile(names[name], name, held_out=bool(_TEST.search(name))) for name in shown]


def rows_of(path: Path, name: str) -> Iterator[Row]:
    """Stream the rows of a file (a JSON array is loaded as a whole); blank lines are skipped.

    Args:
        path: the file.
        name: the file's name in errors.

    Raises:
        InputError: the file is truncated, damaged or not UTF-8, or a row is not a JSON object; gives the line.
    """
    if not path.is_file():
        raise InputError("no such file", where=name)
    if path.name.endswith(".parquet"):
        yield from _parquet(path, name)
        return
    number = 0
    try:
        with _open(path) as file:
            if path.name.endswith((".json", ".json.gz")) and file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"[":
                file.seek(0)
                yield from _array(file.read(), name)
                return
            file.seek(0)
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield Row(_object(_json(line.strip(), f"{name}:{number}"), f"{name}:{number}"), f"{name}:{number}")
    except EOFError as error:
        do = "download or copy it again"
        raise InputError(
            f"the gzip file is truncated after line {number}", where=f"{name}:{number + 1}", do=do
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"the gzip file is damaged: {error}", where=f"{name}:{number + 1}") from error


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb"))


def _json(text: bytes, where: str) -> Any:
    try:
        return json.loads(text.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8: {error.reason} at byte {error.start}", where=where) from error
    except json.JSONDecodeError as error:
        line, colon, number = where.rpartition(":")
        # In a JSON array, the row starts at the line in `where`, and the error counts lines from there.
        at = f"{line}{colon}{int(number) + error.lineno - 1}"
        raise InputError(f"invalid JSON: {error.msg} (column {error.colno})", where=at) from error


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"a row must be a JSON object, not {type(value).__name__}", where=where)
    return value


def _array(text: bytes, name: str) -> Iterator[Row]:
    for number, value in enumerate(_json(text, f"{name}:1"), 1):
        where = f"{name}: row {number}"
        yield Row(_object(value, where), where)


def _parquet(path: Path, name: str) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1000):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(values, f"{name}: row {number}")
    except pyarrow.ArrowException as error:
        raise InputError(f"not a readable parquet file: {error}", where=name) from error
