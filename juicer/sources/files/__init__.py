"""Rows of local files: JSON, tables, parquet and Arrow, plain or compressed. Every row knows its place.

Contract: what cannot be read as a row is yielded as `Unreadable`, for the caller to count; a file that is damaged, or
that is not what its name says, is an error. Files are streamed, in memory that their rows bound.
Pitfall: what a suffix means is decided in juicer/sources/suffixes.py alone.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from juicer.runtime.errors import InputError
from juicer.sources.files.arrow import rows_in_parquet, rows_of_arrow, rows_of_parquet
from juicer.sources.files.compression import opened
from juicer.sources.files.json_rows import rows_of_json
from juicer.sources.files.listing import Listing, SourceFile, files_of, is_path, is_pattern, listing_of, matches_of
from juicer.sources.files.looks import HEAD, refuse_pointer, unlike
from juicer.sources.files.rows import Row, Unreadable
from juicer.sources.files.tables import rows_of_table
from juicer.sources.suffixes import SUFFIXES, SUPPORTED, type_of

__all__ = [
    "SUFFIXES",
    "Listing",
    "Row",
    "SourceFile",
    "Unreadable",
    "files_of",
    "is_path",
    "is_pattern",
    "listing_of",
    "matches_of",
    "rows_in_parquet",
    "rows_of",
    "rows_of_source",
]


def rows_of_source(path: str, *, among_others: bool = False) -> Iterator[tuple[SourceFile, Iterator[Row | Unreadable]]]:
    """The files of a file, folder or glob, each with its rows; errors name them as `path` does.

    Raises:
        InputError: as `files_of` and, of the rows, `rows_of`.
    """
    for file in files_of(path, among_others=among_others):
        yield file, _marked(file)


def _marked(file: SourceFile) -> Iterator[Row | Unreadable]:
    for row in rows_of(file.path, file.shown):
        yield replace(row, held_out=True) if file.held_out and isinstance(row, Row) else row


def rows_of(path: Path, name: str) -> Iterator[Row | Unreadable]:
    """Stream the rows of a file, in memory that its rows bound and not its size; blank lines are skipped.

    Args:
        path: the file.
        name: the file's name in errors.

    Raises:
        InputError: the file is truncated, damaged, or unpacks to too much, a row is too long, or the first row is not
            readable, so that the file is not what its name says; gives the line or the row.
    """
    type_ = type_of(path.name)
    if not path.is_file():
        raise InputError("no such file", where=name)
    if type_ is None:
        raise InputError("unsupported type of file", where=name, do=SUPPORTED)
    refuse_pointer(path, name)
    if type_.kind in ("parquet", "arrow"):
        yield from (rows_of_parquet if type_.kind == "parquet" else rows_of_arrow)(path, name)
        return
    with opened(path, name) as file:
        head = file.peek(HEAD)[:HEAD]
        if type_.kind == "json":
            rows = rows_of_json(file, name)
        else:
            rows = rows_of_table(file, name, "," if type_.kind == "csv" else "\t")
        first = next(rows, None)
        if isinstance(first, Unreadable):
            raise unlike(first.what, head, path.name, first.where)
        if first is not None:
            yield first
            yield from rows
