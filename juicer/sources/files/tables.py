"""Rows of .csv and .tsv files: the first line names the columns, and every cell is text."""

import csv
import io
from collections.abc import Iterator

from juicer.runtime.errors import InputError
from juicer.sources.files.rows import LONGEST_ROW, TOO_LONG, Row, Unreadable


class _Lines:
    """The lines of a table as text, for `csv.reader`."""

    def __init__(self, file: io.BufferedReader, name: str) -> None:
        self._file, self._name = file, name
        self.number = 0
        self.begin()

    def begin(self) -> None:
        """Begin a row with the next line."""
        self.start, self.wrong = self.number + 1, ""
        self._size = 0

    @property
    def where(self) -> str:
        """Place of the row's first line."""
        return f"{self._name}:{self.start}"

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline(LONGEST_ROW + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self._size += len(line)
        if self._size > LONGEST_ROW:
            do = "check that every quote that is opened is closed"
            raise InputError(f"the row is {TOO_LONG}", where=self.where, do=do)
        if self.number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            self.wrong = f"not UTF-8: {error.reason}"
            return line.decode(errors="replace")


def rows_of_table(file: io.BufferedReader, name: str, delimiter: str) -> Iterator[Row | Unreadable]:
    """Stream the rows of a table. A cell is text, and an empty one None; a cell in quotes may go over several lines.

    A column without a name, such as pandas' index, is `column N`. A header with a fault is the first `Unreadable`.

    Raises:
        InputError: a quote is never closed, or a row is too long.
    """
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_ROW))
    lines = _Lines(file, name)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    columns: list[str] = []
    while True:
        lines.begin()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield _broken(lines, error)
            continue
        if not cells:
            continue
        if not columns:
            columns = [cell.strip() or f"column {number}" for number, cell in enumerate(cells, 1)]
            if wrong := lines.wrong or _wrong_header(columns):
                yield Unreadable(wrong, lines.where)
        elif lines.wrong or len(cells) != len(columns):
            yield Unreadable(lines.wrong or f"{len(cells)} cells under a header of {len(columns)}", lines.where)
        else:
            yield Row({column: cell or None for column, cell in zip(columns, cells, strict=True)}, lines.where)


def _wrong_header(columns: list[str]) -> str:
    """What is wrong with the names of the columns; "" if nothing is."""
    if columns[0].startswith(("{", "[", "<")):
        return "the first line names no columns"
    if len(columns) == 1 and (";" in columns[0] or "\t" in columns[0] or "," in columns[0]):
        return "the header has one column"
    twice = next((each for each in columns if columns.count(each) > 1), None)
    return f"the header names the column {twice!r} twice" if twice else ""


def _broken(lines: _Lines, error: csv.Error) -> Unreadable:
    if "unexpected end of data" not in str(error):
        return Unreadable(f"no row of a table: {error}; a quote within quotes is written twice", lines.where)
    if lines.number > lines.start:
        what = "a quote is opened in this row and never closed, so that all rows after it are unreadable"
        raise InputError(what, where=lines.where, do='write a quote within quotes twice: ""') from error
    return Unreadable("the row is cut off within quotes", lines.where)
