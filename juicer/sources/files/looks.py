"""What a file looks like that is not what its name says, and what to do about it."""

import re
from pathlib import Path
from typing import NamedTuple

from juicer.runtime.errors import InputError
from juicer.sources.suffixes import Kind, type_of

HEAD = 4096
"""Bytes from the start of a file that are looked at."""


class Look(NamedTuple):
    """What a file looks like."""

    what: str
    do: str


_BINARY = (
    (b"\x1f\x8b", Look("a gzip file", "add .gz to its name")),
    (b"\x28\xb5\x2f\xfd", Look("a zstd file", "add .zst to its name")),
    (b"PAR1", Look("a parquet file", "name it .parquet")),
    (b"ARROW1", Look("an arrow file", "name it .arrow")),
    (b"\xff\xff\xff\xff", Look("an arrow stream", "name it .arrow")),
    (b"PK\x03\x04", Look("a zip file (or a spreadsheet)", "unpack it, or save the sheet as .csv")),
    (b"BZh", Look("a bzip2 file", "unpack it")),
    (b"\xfd7zXZ", Look("an xz file", "unpack it")),
    (b"\xff\xfe", Look("UTF-16 text", "convert it: iconv -f UTF-16 -t UTF-8")),
    (b"\xfe\xff", Look("UTF-16 text", "convert it: iconv -f UTF-16 -t UTF-8")),
)
_TEXT = (
    (r"(?i)<!doctype|<html|<head|<body", Look("an HTML page", "download the file itself, not the page that shows it")),
    (r"<\?xml|<[a-z]", Look("XML", "write one JSON object per line")),
    (r"\[?\s*\{\s*'", Look("Python's own notation with single quotes", "write each row with json.dumps")),
    (
        r"[^\n]*\}\s*,\s*(\n|$)",
        Look("JSON objects with commas between them", "drop the commas"),
    ),
    (r"[\[{]", Look("JSON", "name it .json or .jsonl")),
    (r"---\s|- \w+:|\w+:[ \n]", Look("YAML", "write one JSON object per line")),
    (r"[^\n\t]+\t[^\n]*\n", Look("a table with tabs", "name it .tsv")),
    (r"[^\n,]+,[^\n]*(\n|$)", Look("CSV", "name it .csv")),
    (r"[^\n;]+;[^\n]*\n", Look("a table with semicolons", "save it with commas, and name it .csv")),
)
_EXPECTED: dict[Kind, tuple[str, ...]] = {
    "json": ("JSON",),
    "csv": ("CSV",),
    "tsv": ("a table with tabs",),
    "parquet": ("a parquet file",),
    "arrow": ("an arrow file", "an arrow stream"),
}
_POINTER = b"version https://git-lfs"


def head_of(path: Path) -> bytes:
    """The first bytes of a file, as they are on the disk."""
    with path.open("rb") as file:
        return file.read(HEAD)


def refuse_pointer(path: Path, name: str) -> None:
    """Refuse a file that git-LFS put in the place of the real one.

    Raises:
        InputError: it is one.
    """
    if head_of(path).startswith(_POINTER):
        raise InputError("a git-LFS pointer, not the file itself", where=name, do="git lfs pull")


def look(head: bytes, name: str) -> Look | None:
    """What a file that could not be read looks like by its first bytes; None if like what its name says, or nothing."""
    found = next((each for magic, each in _BINARY if head.startswith(magic)), None)
    if found is None and b"\0" in head:
        wide = head[1:64:2].count(0) > 8 or head[0:64:2].count(0) > 8
        found = Look("UTF-16 text", "convert it: iconv -f UTF-16 -t UTF-8") if wide else Look("binary data", "")
    if found is None:
        text = head.decode("utf-8", errors="replace").lstrip("\ufeff \t\r\n")
        found = next((each for pattern, each in _TEXT if re.match(pattern, text)), None)
    return None if found is None or _is_expected(found, name) else found


def _is_expected(found: Look, name: str) -> bool:
    named = type_of(name)
    return named is not None and found.what in _EXPECTED[named.kind]


def unlike(what: str, head: bytes, name: str, where: str, do: str = "") -> InputError:
    """The error for a file that is not what its name says.

    Args:
        what: what went wrong, as a clause.
        head: the first bytes, unpacked.
        name: the file's name; "" for what is no file of rows.
        where: the place.
        do: what to do, if that is known better than from what the file looks like.
    """
    found = look(head, name)
    if found is None:
        return InputError(what, where=where, do=do)
    return InputError(f"{what}; the file looks like {found.what}", where=where, do=do or found.do)
