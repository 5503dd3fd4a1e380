"""The md5 of files and folders as DVC gives it, computed from their bytes; a large file is read once per change.

DVC trusts its own table for what it restores from its cache, so it does not notice a damaged object. The table here
(.juicer/hashes.db) holds only what was computed here.
"""

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import cache
from pathlib import Path

import pathspec

from juicer.runtime.files import md5_of_file

TABLE = Path(".juicer/hashes.db")
SMALL = 1 << 20
"""Files below this size, in bytes, are read each time, which costs less than the table."""
SECONDS = 5.0
"""How long to wait for another process that writes the table, before doing without it."""


def md5_of(path: Path, *, remember: bool = False) -> str:
    """The md5 that DVC gives to a file, or to a folder (it ends in ".dir").

    In a DVC project, files that the project's .dvcignore lists are left out of a folder, as DVC leaves them out.

    Args:
        remember: do not read a large file again whose inode, size and modification time have not changed.

    Raises:
        OSError: there is nothing at `path`, or it cannot be read.
    """
    one = _remembered if remember else md5_of_file
    if not path.is_dir():
        return one(path)
    found = [{"md5": one(file), "relpath": file.relative_to(path).as_posix()} for file in files_in(path)]
    # The text of DVC's .dir objects, whose md5 this is.
    text = json.dumps(sorted(found, key=lambda entry: entry["relpath"]), sort_keys=True)
    return f"{hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()}.dir"


def files_in(path: Path) -> Iterator[Path]:
    """The file at `path`, or the files of the folder there that DVC sees."""
    if not path.is_dir():
        yield path
        return
    project = next((each for each in path.absolute().parents if (each / ".dvc").is_dir()), None)
    ignored = ignored_in(project) if project else pathspec.GitIgnoreSpec([])
    for here, folders, names in os.walk(path):
        below = f"{os.path.relpath(here, project)}/" if project else ""
        folders[:] = [name for name in folders if not ignored.match_file(f"{below}{name}/")]
        yield from (Path(here, name) for name in names if not ignored.match_file(below + name))


def ignored_in(project: Path) -> pathspec.GitIgnoreSpec:
    """What the .dvcignore of a project lists."""
    file = project / ".dvcignore"
    return _spec(file.read_text(encoding="utf-8") if file.is_file() else "")


@cache
def _spec(text: str) -> pathspec.GitIgnoreSpec:
    return pathspec.GitIgnoreSpec.from_lines(text.splitlines())


def _remembered(file: Path) -> str:
    """The md5 of a file, from the table if the file has not changed since it was entered there."""
    found = file.stat()
    if found.st_size < SMALL:
        return md5_of_file(file)
    key = (str(file.absolute()), found.st_ino, found.st_size, found.st_mtime_ns)
    with suppress(sqlite3.Error):  # a damaged table, or one that is busy for long: the bytes are read
        with _table() as table:
            row = table.execute(
                "SELECT md5 FROM files WHERE path = ? AND inode = ? AND size = ? AND modified = ?", key
            ).fetchone()
        if row is not None:
            return str(row[0])
    md5 = md5_of_file(file)
    with suppress(sqlite3.Error), _table() as table, table:
        table.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", (*key, md5))
    return md5


def _table() -> "closing[sqlite3.Connection]":
    TABLE.parent.mkdir(exist_ok=True)
    table = sqlite3.connect(TABLE, timeout=SECONDS)
    table.execute("CREATE TABLE IF NOT EXISTS files (path PRIMARY KEY, inode, size, modified, md5)")
    return closing(table)
