"""Reading rows from local files: JSON lines (plain or gzipped), JSON arrays and parquet, with a place for every row."""

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
# A word of its own: `test/0000.parquet` and `hh-test-2.jsonl.gz`, but not `latest.jsonl` or `testimonials.jsonl`.
_TEST = re.compile(r"(?<![a-z])test(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class SourceFile:
    """A file of rows.

    Attributes:
        path: where it is.
        name: what provenance calls it: its path inside the source, never an absolute one.
        held_out: its rows must not be trained on.
    """

    path: Path
    name: str
    held_out: bool


@dataclass(frozen=True)
class Row:
    """One raw row: the object, and where it stands (`file:line`, or `file: row N` where there are no lines)."""

    values: dict[str, Any]
    where: str


def is_path(source: str) -> bool:
    """Whether a source means a local file or folder rather than an id of the hub."""
    return source.startswith((".", "/", "~")) or source.endswith((*SUFFIXES, ".gz")) or Path(source).exists()


def files_of(source: str) -> list[SourceFile]:
    """The files of a local source, in a fixed order: itself, or those of a folder (and its folders) by name.

    Of a folder, files with the word `test` in their path inside it are held out.

    Raises:
        InputError: there is no such file or folder, or no file in it that we read.
    """
    path = Path(source).expanduser()
    if path.is_file():
        if not path.name.endswith(SUFFIXES):
            raise InputError("unknown kind of file", where=source, do=f"one of {', '.join(SUFFIXES)}")
        return [SourceFile(path, path.name, held_out=False)]
    if not path.is_dir():
        raise InputError("no such file or folder", where=source, do="check fetch.source")
    found = [file for file in path.rglob("*") if file.is_file() and file.name.endswith(SUFFIXES)]
    names = {file.relative_to(path).as_posix(): file for file in found}
    shown = [name for name in sorted(names) if not any(part.startswith(".") for part in name.split("/"))]
    if not shown:
        raise InputError("no files of rows in this folder", where=source, do=f"one of {', '.join(SUFFIXES)}")
    return [SourceFile(names[name], name, held_out=bool(_TEST.search(name))) for name in shown]


def rows_of(path: Path, name: str) -> Iterator[Row]:
    """Stream the rows of a file (a JSON array is read at once); blank lines are skipped.

    Args:
        path: the file.
        name: what errors call it.

    Raises:
        InputError: the file is truncated, damaged or not UTF-8, or a row is not a JSON object; with its line.
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
        # Inside a JSON array the error knows the line better than we do.
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
