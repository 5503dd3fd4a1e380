"""Rows of JSON: lines, an array, objects over several lines, or an object of arrays such as {"train": [...]}."""

import contextlib
import io
import json
import re
from collections.abc import Iterator

import orjson

from juicer.runtime.errors import InputError
from juicer.sources.files.json_text import DECODER, JsonText, not_read
from juicer.sources.files.rows import LONGEST_ROW, TOO_LONG, Row, Unreadable, row_of
from juicer.sources.held_out import is_held_out

CONTAINERS = ("data", "rows")
"""Keys of an object under which the rows of the file stand, beside the names of splits."""
_NAMES = " nor ".join(map(repr, CONTAINERS))
# An object in which a list of objects comes first, or after plain values (`version`).
_LIST_FIRST = re.compile(rb'\s*\{[^{}\[\]]*?"([^"\\]*)"\s*:\s*\[\s*[{\]]')
# A list of messages, one dialogue a line.
_MESSAGE_FIRST = re.compile(rb'\s*\[\s*\{\s*"(role|from|content|value)"\s*:')
_BOM = b"\xef\xbb\xbf"


def rows_of_json(file: io.BufferedReader, name: str) -> Iterator[Row | Unreadable]:
    """Stream the rows of a JSON file, in memory that its rows bound and not its size; blank lines are skipped.

    Raises:
        InputError: the text of an array, or of an object over several lines, is not JSON; or a row is too long.
    """
    head = file.peek(1).removeprefix(_BOM)
    if _MESSAGE_FIRST.match(head):
        number, first = _first_line(file, name, limited=True)
        dialogues = _lines(file, name, number, first)
        yield from JsonText(file, name, first, number).array() if _is_cut(first) else dialogues
        return
    if head.lstrip()[:1] == b"[":
        yield from JsonText(file, name).array()
        return
    found = _LIST_FIRST.match(head)
    has_rows = found is not None and _holds_rows(found[1].decode("utf-8", errors="replace"))
    number, first = _first_line(file, name, limited=not has_rows)
    if has_rows and (_is_cut(first) or not file.peek(1).strip()):
        yield from _contained(JsonText(file, name, first, number))
    elif _is_cut(first):
        yield from JsonText(file, name, first, number).objects()
    else:
        yield from _lines(file, name, number, first)


def _holds_rows(key: str) -> bool:
    return key in CONTAINERS or is_held_out(key) is not None


def _first_line(file: io.BufferedReader, name: str, *, limited: bool) -> tuple[int, bytes]:
    """Number and bytes of the first line that is not blank, b"" if there is none; the start of one that is too long."""
    number, line = 1, file.readline(LONGEST_ROW + 1).removeprefix(_BOM)
    while line.isspace() and len(line) <= LONGEST_ROW:
        number, line = number + 1, file.readline(LONGEST_ROW + 1)
    if limited:
        _check_length(line, f"{name}:{number}")
    return number, line


def _check_length(line: bytes, where: str) -> None:
    if len(line) > LONGEST_ROW:
        raise InputError(f"the line is {TOO_LONG}", where=where, do="write one row per line")


def _is_cut(line: bytes) -> bool:
    """Whether a value that begins on the line goes on after it."""
    text = line.decode("utf-8", errors="replace")
    try:
        DECODER.decode(text)
    except json.JSONDecodeError as error:
        return error.pos >= len(text.rstrip()) > 0 or error.msg.startswith("Unterminated string")
    except (ValueError, RecursionError):
        return False
    return False


def _contained(text: JsonText) -> Iterator[Row | Unreadable]:
    """The rows under the keys of an object; a list of rows under another key is told, other values are skipped."""
    for key in text.members():
        if text.skip() != "[":
            text.value()
        elif _holds_rows(key):
            yield from text.array(key, held_out=is_held_out(key) is True)
        else:
            where = text.where()
            if rows := sum(isinstance(row, Row) for row in text.array(key)):
                count = f"{rows:,} row{'s' * (rows != 1)}"
                what = f"the list of {count} under {key!r} is not read: the key is neither a split nor {_NAMES}"
                yield Unreadable(what, where)


def _lines(file: io.BufferedReader, name: str, number: int, line: bytes) -> Iterator[Row | Unreadable]:
    """The rows of JSON lines, from a line on."""
    while line:
        if len(line) > LONGEST_ROW:
            _check_length(line, f"{name}:{number}")
        line = line.strip()
        if line:
            yield _row(line, f"{name}:{number}")
        number += 1
        line = file.readline(LONGEST_ROW + 1)


def _row(line: bytes, where: str) -> Row | Unreadable:
    with contextlib.suppress(orjson.JSONDecodeError):
        return row_of(orjson.loads(line), where)
    # Python's own parser reads what orjson does not (NaN, unpaired surrogates), and says where a line is wrong.
    try:
        text = line.decode()
        value, end = DECODER.raw_decode(text)
        if end < len(text):
            raise json.JSONDecodeError("Extra data", text, end)
        return row_of(value, where)
    except UnicodeDecodeError as error:
        return Unreadable(f"not UTF-8: {error.reason} at byte {error.start}", where)
    except json.JSONDecodeError as error:
        return Unreadable(f"invalid JSON: {error.msg} (column {error.colno})", where)
    except (ValueError, RecursionError) as error:
        return Unreadable(not_read(error), where)
