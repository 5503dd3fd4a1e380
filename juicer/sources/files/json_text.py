"""Values of JSON that are no lines, each parsed as soon as it has been read: arrays and objects over several lines."""

import codecs
import io
import json
import re
from collections.abc import Iterator
from typing import Any

from juicer.runtime.errors import InputError
from juicer.sources.files.rows import LONGEST_ROW, Row, Unreadable, row_of

DECODER = json.JSONDecoder()
BLOCK = 2**16
_NO_BLANK = re.compile(r"[^ \t\r\n]")


def not_read(error: Exception) -> str:
    """What is wrong with JSON that is valid, but that Python does not read."""
    return "nested too deeply" if isinstance(error, RecursionError) else "a number of more than 4,300 digits"


def _message(error: json.JSONDecodeError) -> str:
    """The parser's message, without the preposition before its place."""
    return error.msg.removesuffix(" at").removesuffix(" starting")


class JsonText:
    """The text of a JSON file from a place on, read in blocks.

    Args:
        file: read from here on.
        name: the file's name in errors.
        start: bytes that were read before.
        line: number of the line that they begin.
    """

    def __init__(self, file: io.BufferedReader, name: str, start: bytes = b"", line: int = 1) -> None:
        self._file, self._name = file, name
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self._place, self._line, self._read = "", 0, line, 0
        if start:
            self._add(start)

    def array(self, key: str = "", *, held_out: bool = False) -> Iterator[Row | Unreadable]:
        """The rows of an array, which begins here.

        Args:
            key: key of the array in an object; without one, the file has to end after it.
            held_out: whether the rows are held out.
        """
        of = f" of {key!r}" if key else ""
        self.take("[")
        number = 0
        while self.skip() != "]":
            if number:
                self.take(",")
                if self.skip() == "]":  # a comma after the last row
                    break
            number += 1
            where = f"{self._name}: row {number}{of}"
            yield row_of(self.value(), where, held_out=held_out)
        self.take("]")
        if not key:
            self.end("the array")

    def objects(self) -> Iterator[Row | Unreadable]:
        """The rows of a file of one object after another."""
        while self.skip():
            where = self.where()
            yield row_of(self.value(), where)

    def members(self) -> Iterator[str]:
        """The keys of an object, which begins here. The caller reads the value of each."""
        self.take("{")
        first = True
        while self.skip() != "}":
            if not first:
                self.take(",")
                if self.skip() == "}":
                    break
            first = False
            key = self.value()
            if not isinstance(key, str):
                raise self.error("expecting a key in double quotes")
            self.take(":")
            self.skip()
            yield key
        self.take("}")
        self.end("the object")

    def line(self) -> int:
        """Number of the present line."""
        return self._line + self._text.count("\n", 0, self._place)

    def where(self) -> str:
        """The present place, as `file:line`."""
        return f"{self._name}:{self.line()}"

    def error(self, what: str, ahead: int = 0) -> InputError:
        """The error at the present place, or so many characters after it."""
        line = self._line + self._text.count("\n", 0, self._place + ahead)
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

    def end(self, after: str) -> None:
        """Go to the end of the file, where nothing but blanks may be."""
        if self.skip():
            raise self.error(f"extra data after {after}")

    def value(self) -> Any:
        """The value that begins here; go beyond it."""
        size = BLOCK
        while True:
            try:
                value, end = DECODER.raw_decode(self._text, self._place)
                # A number may go on in the next block.
                if isinstance(value, int | float) and end == len(self._text) and self._more(size):
                    continue
                self._place = end
                return value
            except json.JSONDecodeError as error:
                # Either the text is wrong, or the value goes on in the next block. Reading on moves the text's start.
                message, ahead = _message(error), error.pos - self._place
                if len(self._text) - self._place > LONGEST_ROW:
                    what = f"{message}, or the row is longer than {LONGEST_ROW // 2**20} MiB"
                    raise self.error(what, ahead) from error
                if not self._more(size):
                    raise self.error(message, ahead) from error
                size *= 2
            except (ValueError, RecursionError) as error:
                raise self.error(not_read(error)) from error

    def _more(self, size: int) -> bool:
        """Read on, and forget what lies behind; False at the end of the file."""
        block = bytearray()
        while len(block) < size and (read := self._file.read1(size - len(block))):
            block += read
        self._add(block)
        return bool(block)

    def _add(self, block: bytes | bytearray) -> None:
        self._line += self._text.count("\n", 0, self._place)
        try:
            self._text = self._text[self._place :] + self._decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            where = f"{self._name}: byte {self._read + error.start}"
            raise InputError(f"not UTF-8: {error.reason}", where=where) from error
        self._place = 0
        self._read += len(block)
