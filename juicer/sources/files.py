"""Rows of local files: JSON lines and JSON arrays, plain or gzipped, and parquet. Every row knows its place."""

import codecs
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from juicer.runtime.errors import InputError

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")
LONGEST_ROW = 16 * 2**20
"""Longest row, in bytes. Parsed, a row takes up to twenty times its size."""
UNPACKED, RATIO = 32 * 2**20, 100
"""A compressed file may unpack to so many bytes, or to so many times what was read of it. Text packs 3 to 10 times."""
BLOCK = 2**16
BATCH = 64 * 2**20
"""Largest batch of a parquet file, in bytes."""
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
    held_out: bool = False
    """Whether the file holds this row out: by the file's name, or by the name of the split that it stands in."""


@dataclass(frozen=True)
class Unreadable:
    """A place where a row should be and none can be read: invalid JSON, no object, ..."""

    what: str
    """What is wrong, as a clause."""
    where: str


def is_path(source: str) -> bool:
    """Whether a source is a local file or folder rather than an id of the hub."""
    return source.startswith((".", "/", "~")) or source.endswith((*SUFFIXES, ".gz")) or Path(source).exists()


def is_glob(source: str) -> bool:
    """Whether a source is a pattern of file names, rather than the name of a file that exists."""
    return any(sign in source for sign in "*?[") and not Path(source).exists()


def matches_of(pattern: str) -> list[Path]:
    """The files that a glob matches, sorted."""
    start = Path(Path(pattern).anchor or ".")
    return sorted(path for path in start.glob(str(Path(pattern).relative_to(start))) if path.is_file())


def files_of(source: str) -> list[SourceFile]:
    """The files of a local source: the source itself, or all readable files below a folder, sorted by path.

    Files with the word `test` in their path inside a folder are held out.

    Raises:
        InputError: the file or folder does not exist, the type of the file is not supported, or the folder contains no
            file of a supported type.
    """
    path = Path(os.path.expanduser(source))  # noqa: PTH111  Path.expanduser raises for ~x of no user
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
    """Stream the rows of a file, in memory that its rows bound and not its size; blank lines are skipped.

    Args:
        path: the file.
        name: the file's name in errors.

    Raises:
        InputError: the file is truncated, damaged, not UTF-8 or unpacks to too much, or a row is too long or no JSON
            object; gives the line.
    """
    if not path.is_file():
        raise InputError("no such file", where=name)
    if path.name.endswith(".parquet"):
        yield from rows_of_parquet(path, name)
        return
    with opened(path, name) as file:
        start = file.peek(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
        if start == b"[" and path.name.endswith((".json", ".json.gz")):
            yield from _array(file, name)
            return
        for number, line in _lines(file, name):
            if line.strip():
                where = f"{name}:{number}"
                yield Row(_object(_json(line.strip(), where), where), where)


def _lines(file: io.BufferedReader, name: str) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := file.readline(LONGEST_ROW + 1):
        number += 1
        if len(line) > LONGEST_ROW:
            what = f"the line is longer than {LONGEST_ROW // 2**20} MiB, the longest row that is read"
            raise InputError(what, where=f"{name}:{number}", do="write one row per line")
        yield number, line


def _json(text: bytes, where: str) -> Any:
    try:
        return json.loads(text.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8: {error.reason} at byte {error.start}", where=where) from error
    except json.JSONDecodeError as error:
        raise InputError(f"invalid JSON: {error.msg} (column {error.colno})", where=where) from error
    except (ValueError, RecursionError) as error:
        raise InputError(_unreadable(error), where=where) from error


def _unreadable(error: Exception) -> str:
    """What is wrong with JSON that is valid, but that Python does not read."""
    return "nested too deeply" if isinstance(error, RecursionError) else "a number of more than 4,300 digits"


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"a row must be a JSON object, not {type(value).__name__}", where=where)
    return value


def _array(file: io.BufferedReader, name: str) -> Iterator[Row]:
    """The rows of a JSON array, each parsed as soon as it has been read."""
    text = _Text(file, name)
    text.skip()
    text.take("[")
    number = 0
    while text.skip() != "]":
        if number:
            text.take(",")
            text.skip()
        number += 1
        where = f"{name}: row {number}"
        yield Row(_object(text.value(), where), where)
    text.take("]")
    if text.skip():
        raise text.error("extra data after the array")


class _Text:
    """The text of a JSON file from a place on, read in blocks."""

    def __init__(self, file: io.BufferedReader, name: str) -> None:
        self._file, self._name = file, name
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self._place, self._line, self._read = "", 0, 1, 0

    def error(self, what: str, place: int | None = None) -> InputError:
        """The error at a place of the text, by default the present one."""
        end = self._place if place is None else place
        line = self._line + self._text.count("\n", 0, end)
        return InputError(f"invalid JSON: {what}", where=f"{self._name}:{line}")

    def skip(self) -> str:
        """Go to the next character that is no white space, and return it; "" at the end of the file."""
        while True:
            found = _NO_BLANK.search(self._text, self._place)
            if found:
                self._place = found.start()
                return found.group()
            self._place = len(self._text)
            if not self._more(BLOCK):
                return ""

    def take(self, character: str) -> None:
        """Go beyond a character, which has to be the next one."""
        if self.skip() != character:
            raise self.error(f"expecting {character!r}" if self._text[self._place :] else "the file ends too early")
        self._place += 1

    def value(self) -> Any:
        """The value that begins here, which has to be an object; go beyond it."""
        size = BLOCK
        while True:
            try:
                value, self._place = _DECODER.raw_decode(self._text, self._place)
                return value
            except json.JSONDecodeError as error:
                # Either the text is wrong, or the value goes on in the next block.
                if len(self._text) - self._place > LONGEST_ROW:
                    what = f"{error.msg}, or the row is longer than {LONGEST_ROW // 2**20} MiB"
                    raise self.error(what, error.pos) from error
                if not self._more(size):
                    raise self.error(error.msg, error.pos) from error
                size *= 2
            except (ValueError, RecursionError) as error:
                raise self.error(_unreadable(error)) from error

    def _more(self, size: int) -> bool:
        """Read on, and forget what lies behind; False at the end of the file."""
        block = self._file.read(size)
        self._line += self._text.count("\n", 0, self._place)
        try:
            self._text = self._text[self._place :] + self._decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            where = f"{self._name}: byte {self._read + error.start}"
            raise InputError(f"not UTF-8: {error.reason}", where=where) from error
        self._place = 0
        self._read += len(block)
        return bool(block)


_DECODER = json.JSONDecoder()
_NO_BLANK = re.compile(r"[^ \t\r\n]")


class _Unpacked(io.RawIOBase):
    """What a compressed file unpacks to, as far as it stays in proportion to the file."""

    def __init__(self, path: Path) -> None:
        self._packed = path.open("rb")
        self._file = gzip.GzipFile(fileobj=self._packed)
        self.size = 0

    def readable(self) -> bool:
        """True, as io asks."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Unpack the next bytes."""
        data = self._file.read1(len(buffer))
        buffer[: len(data)] = data
        self.size += len(data)
        if self.size > max(UNPACKED, RATIO * self._packed.tell()):
            raise _BombError(self._packed.tell())
        return len(data)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._packed.close()
        super().close()


class _BombError(Exception):
    """A file unpacks to far more than it holds."""


@contextmanager
def opened(path: Path, name: str) -> Iterator[io.BufferedReader]:
    """The bytes of a file, unpacked if it is gzipped.

    Raises:
        InputError: in the block, for a gzip file that is truncated, damaged, or unpacks to more than is read; gives the
            line.
    """
    file = _Counted(_Unpacked(path) if path.name.endswith(".gz") else path.open("rb", buffering=0))
    with file:
        try:
            yield file
        except EOFError as error:
            what, do = f"the gzip file is truncated after line {file.lines}", "download or copy it again"
            raise InputError(what, where=f"{name}:{file.lines + 1}", do=do) from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise InputError(f"the gzip file is damaged: {error}", where=f"{name}:{file.lines + 1}") from error
        except _BombError as error:
            what = f"the first {error} bytes of the file unpack to more than {RATIO} times as much"
            do = "unpack it yourself, if it is what it should be"
            raise InputError(what, where=f"{name}:{file.lines + 1}", do=do) from error


class _Counted(io.BufferedReader):
    """A file that counts the lines that were read, for errors."""

    lines = 0

    def readline(self, size: int | None = -1, /) -> bytes:
        """Read a line."""
        line = super().readline(size)
        self.lines += bool(line)
        return line


def rows_of_parquet(path: Path, name: str) -> Iterator[Row]:
    """Stream the rows of a parquet file.

    Raises:
        InputError: the file cannot be read, or unpacks to far more than it holds.
    """
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            size, unpacked = path.stat().st_size, 0
            together = _check_parquet(file.metadata, size, name)
            for batch in file.iter_batches(batch_size=together):
                unpacked += batch.nbytes
                if unpacked > max(UNPACKED, RATIO * size):
                    what = f"the file of {size:,} bytes unpacks to more than {RATIO} times as much"
                    raise InputError(what, where=f"{name}: row {number + 1}")
                for values in batch.to_pylist():
                    number += 1
                    yield Row(values, f"{name}: row {number}")
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        where = f"{name}: row {number + 1}" if number else name
        raise InputError(f"not a readable parquet file: {reason}", where=where) from error


def rows_in_parquet(path: Path, name: str) -> int:
    """Number of rows of a parquet file, by its footer.

    Raises:
        InputError: as `rows_of_parquet`.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        metadata = parquet.read_metadata(path)
        _check_parquet(metadata, path.stat().st_size, name)
        return int(metadata.num_rows)
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"not a readable parquet file: {reason}", where=name) from error


def _check_parquet(metadata: Any, size: int, name: str) -> int:
    """Rows to read at a time, so that a batch stays below 64 MiB.

    A column with a dictionary may stand for as much in every row as the whole dictionary holds.
    """
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    columns = [group.column(number) for group in groups for number in range(group.num_columns)]
    unpacked = sum(column.total_uncompressed_size for column in columns)
    limit = max(UNPACKED, RATIO * size)
    if unpacked > limit or metadata.num_rows > limit:
        what = f"the file of {size:,} bytes unpacks to {unpacked:,} bytes and {metadata.num_rows:,} rows"
        raise InputError(f"{what}, more than {RATIO} times as much", where=name)
    widest = max((column.total_uncompressed_size for column in columns if column.has_dictionary_page), default=0)
    rows = max(1, metadata.num_rows)
    return max(1, min(1000, BATCH // max(1, unpacked // rows), BATCH // max(1, min(widest, BATCH // 8))))


def rows_of_source(path: str) -> Iterator[tuple[SourceFile, Iterator[Row | Unreadable]]]:
    """The files of a file, folder or glob, each with its rows; errors name them as `path` does."""
    for file in files_of(path):
        shown = path if Path(path).name == file.name else f"{path.rstrip('/')}/{file.name}"
        yield file, _marked(file, shown)


def _marked(file: SourceFile, shown: str) -> Iterator[Row | Unreadable]:
    for row in rows_of(file.path, shown):
        yield replace(row, held_out=True) if file.held_out else row
