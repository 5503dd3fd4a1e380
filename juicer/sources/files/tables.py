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

    Raises:
        InputError: the header has no or equal names, a quote is never closed, or a row is too long.
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
            if not columns:
                raise InputError(f"the header is no line of a table: {error}", where=lines.where) from error
            yield _broken(lines, error)
            continue
        if not cells:
            continue
        if not columns:
            columns = _header(cells, delimiter, lines)
        elif lines.wrong or len(cells) != len(columns):
            yield Unreadable(lines.wrong or f"{len(cells)} cells under a header of {len(columns)}", lines.where)
        else:
            yield Row({column: cell or None for column, cell in zip(columns, cells, strict=True)}, lines.where)


def _header(cells: list[str], delimiter: str, lines: _Lines) -> list[str]:
    """The names of the columns; one without a name, as of pandas' index, is `column N`."""
    if lines.wrong:
        raise InputError(lines.wrong, where=lines.where, do="save the table as UTF-8")
    names = [cell.strip() or f"column {number}" for number, cell in enumerate(cells, 1)]
    other = next((each for each in (";", "\t", ",") if each != delimiter and each in names[0]), None)
    if len(names) == 1 and other:
        do = "name it .tsv" if other == "\t" else "name it .csv" if other == "," else "save it with commas"
        raise InputError(f"the columns seem to be separated by {other!r}, not {delimiter!r}", where=lines.where, do=do)
    twice = next((each for each in names if names.count(each) > 1), None)
    if twice:
        raise InputError(f"the header names the column {twice!r} twice", where=lines.where, do="rename one of them")
    return names


def _broken(lines: _Lines, error: csv.Error) -> Unreadable:
    if "unexpected end of data" not in str(error):
        return Unreadable(f"no row of a table: {error}; a quote within quotes is written twice", lines.where)
    if lines.number > lines.start:
        what = "a quote is opened in this row and never closed, so that all rows after it are unreadable"
        raise InputError(what, where=lines.where, do='write a quote within quotes twice: ""') from error
    return Unreadable("the row is cut off within quotes", lines.where)
