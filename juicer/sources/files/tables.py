"""Rows of .csv and .tsv files: the first line names the columns, and every cell is text."""

import csv
import io
from collections.abc import Iterator

from juicer.runtime.errors import InputError
from juicer.sources.files.rows import LONGEST_ROW, TOO_LONG, Row, Unreadable

_BOM = b"\xef\xbb\xbf"


class _Lines:
    """The lines of a table as text, for `csv.reader`; the caller sets back what is counted of a row."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self.size, self.wrong = 0, ""

    def __iter__(self) -> Iterator[str]:
        while line := self._file.readline(LONGEST_ROW + 1):
            self.size += len(line)
            if self.size > LONGEST_ROW:
                raise _TooLongError
            try:
                yield line.decode()
            except UnicodeDecodeError as error:
                self.wrong = f"not UTF-8: {error.reason}"
                yield line.decode(errors="replace")


class _TooLongError(Exception):
    """A row is longer than any that is read."""


def rows_of_table(file: io.BufferedReader, name: str, delimiter: str) -> Iterator[Row | Unreadable]:
    """Stream the rows of a table. A cell is text, and an empty one None; a cell in quotes may go over several lines.

    A column without a name, such as pandas' index, is `column N`. A header with a fault is the first `Unreadable`.

    Raises:
        InputError: a quote is never closed, or a row is too long.
    """
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_ROW))
    if file.peek(3).startswith(_BOM):
        file.read(len(_BOM))
    lines = _Lines(file)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    columns: list[str] = []
    while True:
        lines.size, lines.wrong = 0, ""
        start = reader.line_num + 1
        where = f"{name}:{start}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except _TooLongError as error:
            do = "check that every quote that is opened is closed"
            raise InputError(f"the row is {TOO_LONG}", where=where, do=do) from error
        except csv.Error as error:
            yield _broken(error, where, several=reader.line_num > start)
            continue
        if not cells:
            continue
        if not columns:
            columns = [cell.strip() or f"column {number}" for number, cell in enumerate(cells, 1)]
            if wrong := lines.wrong or _wrong_header(columns):
                yield Unreadable(wrong, where)
        elif lines.wrong or len(cells) != len(columns):
            yield Unreadable(lines.wrong or f"{len(cells)} cells under a header of {len(columns)}", where)
        else:
            yield Row({column: cell or None for column, cell in zip(columns, cells, strict=True)}, where)


def _wrong_header(columns: list[str]) -> str:
    """What is wrong with the names of the columns; "" if nothing is."""
    if columns[0].startswith(("{", "[", "<")):
        return "the first line names no columns"
    if len(columns) == 1 and (";" in columns[0] or "\t" in columns[0] or "," in columns[0]):
        return "the header has one column"
    twice = next((each for each in columns if columns.count(each) > 1), None)
    return f"the header names the column {twice!r} twice" if twice else ""


def _broken(error: csv.Error, where: str, *, several: bool) -> Unreadable:
    """The row that is none; `several` says that it took more than one line."""
    if "new-line character" in str(error):
        return Unreadable("a line ends in CR alone; lines end in LF, or in CR and LF", where)
    if "unexpected end of data" not in str(error):
        return Unreadable(f"no row of a table: {error}; a quote within quotes is written twice", where)
    if several:
        what = "a quote is opened in this row and never closed, so that all rows after it are unreadable"
        raise InputError(what, where=where, do='write a quote within quotes twice: ""') from error
    return Unreadable("the row is cut off within quotes", where)
