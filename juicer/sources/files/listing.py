"""Which files a source is: a file, all files of a folder, or those that a pattern matches."""

import difflib
import glob
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from juicer.runtime.errors import InputError, did_you_mean
from juicer.sources.files.dataset_folders import METADATA, described_files, is_rows
from juicer.sources.held_out import held_out_word, is_held_out
from juicer.sources.suffixes import PACKINGS, SUPPORTED, type_of

SHOWN = 8
"""Names of a folder that an error lists."""


@dataclass(frozen=True)
class SourceFile:
    """A file of rows.

    Attributes:
        path: where the file is.
        name: its path inside the source, never an absolute one; provenance.json records it.
        shown: its path as the user wrote the source, for messages.
        word: the word of its name, or the name of its split, that holds its rows out from training; None if they are
            trained on.
    """

    path: Path
    name: str
    shown: str
    word: str | None = None

    @property
    def held_out(self) -> bool:
        """Whether its rows are held out from training."""
        return self.word is not None


@dataclass(frozen=True)
class Listing:
    """The files of a source.

    Attributes:
        files: the files that are read, sorted by name.
        ignored: how many others there are by type (`.md`); those that describe a dataset by name (`state.json`).
    """

    files: list[SourceFile]
    ignored: Counter[str] = field(default_factory=Counter)

    def ignored_line(self) -> str:
        """The files that are not read, for a message: `ignored: 3 files (.md, .txt)`; "" if there are none."""
        count = self.ignored.total()
        return f"ignored: {count} file{'s' * (count > 1)} ({', '.join(sorted(self.ignored))})" if count else ""


def is_path(source: str) -> bool:
    """Whether a source is a local file, folder or pattern rather than an id of the hub."""
    if source.startswith((".", "/", "~")) or source.endswith("/") or source.count("/") > 1 or glob.has_magic(source):
        return True
    return type_of(source) is not None or source.lower().endswith(tuple(PACKINGS)) or Path(source).exists()


def is_pattern(source: str) -> bool:
    """Whether a source is a pattern of file names rather than the name of one that exists."""
    return glob.has_magic(source) and not Path(source).exists()


def matches_of(pattern: str) -> list[str]:
    """The files and folders that a pattern matches."""
    return glob.glob(os.path.expanduser(pattern), recursive=True)  # noqa: PTH111, PTH207  Path.glob lists hidden files


def files_of(source: str, *, among_others: bool = False) -> list[SourceFile]:
    """The files of a local source, as `listing_of` finds them."""
    return listing_of(source, among_others=among_others).files


def listing_of(source: str, *, among_others: bool = False) -> Listing:
    """The files of a local source: the source itself, all readable files below a folder, or those that match a pattern.

    Of a folder or a pattern, files whose names say so are held out (`juicer.sources.held_out`); hidden files are
    skipped. A folder that names its own files (`save_to_disk`, or `data_files` in README.md) has these and no others.

    Args:
        among_others: whether the recipe has other sources too, so that the name of a single file may hold it out.

    Raises:
        InputError: the file or folder does not exist, the type of the file is not supported, there is no file of a
            supported type, or all are held out.
    """
    path = Path(os.path.expanduser(source))  # noqa: PTH111  Path.expanduser raises for ~x of no user
    if path.is_file():
        if type_of(path.name) is None:
            raise InputError("unsupported type of file", where=source, do=SUPPORTED)
        return Listing([SourceFile(path, path.name, source, held_out_word(path.name) if among_others else None)])
    if path.is_dir():
        return _checked(_Finder(path, source.rstrip("/")).add(path), source, "the folder contains no supported file")
    if glob.has_magic(source):
        return _matching(source)
    raise _missing(source, path)


def _matching(source: str) -> Listing:
    """The files that a pattern matches, and those below folders that it matches."""
    parts = source.split("/")
    fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    base = "/".join(parts[:fixed]) or ("/" if source.startswith("/") else "")
    finder = _Finder(Path(os.path.expanduser(base)), base)  # noqa: PTH111
    matches = matches_of(source)
    for match in matches:
        finder.add(Path(match))
    return _checked(finder, source, "the pattern matches no " + ("supported file" if matches else "file"))


class _Finder:
    """Collects the files of one source.

    Args:
        base: the folder that names are relative to.
        shown: its path as the user wrote it, without a slash at the end.
    """

    def __init__(self, base: Path, shown: str) -> None:
        self._base, self._shown = base, shown
        self._files: dict[str, SourceFile] = {}
        self._ignored: dict[str, str] = {}

    def listing(self) -> Listing:
        """All that was found."""
        ignored = Counter(kind for name, kind in self._ignored.items() if name not in self._files)
        return Listing([self._files[name] for name in sorted(self._files)], ignored)

    def add(self, path: Path) -> "_Finder":
        """Add a file, or all that are below a folder and not hidden."""
        if not path.is_dir():
            self._add_file(path)
            return self
        described = described_files(path, self._shown_of(path))
        for file, split in described or ():
            self._add_file(file, split)
        for entry in path.iterdir():
            if entry.name.startswith("."):
                continue
            if entry.is_symlink() and entry.is_dir():
                self._ignored[self._name(entry)] = "linked folders"
            elif described is None:
                self.add(entry)
            elif entry.is_file():
                self._ignored[self._name(entry)] = _kind(entry)
        return self

    def _add_file(self, path: Path, split: str | None = None) -> None:
        name = self._name(path)
        if not path.is_file() or not is_rows(path):
            self._ignored[name] = _kind(path)
            return
        says = is_held_out(split)
        word = held_out_word(name) if says is None else split if says else None
        self._files.setdefault(name, SourceFile(path, name, self._shown_of(path), word))

    def _name(self, path: Path) -> str:
        return path.relative_to(self._base).as_posix()

    def _shown_of(self, path: Path) -> str:
        name = self._name(path)
        return self._shown if name == "." else f"{self._shown.rstrip('/')}/{name}" if self._shown else name


def _kind(path: Path) -> str:
    """What an ignored file is counted as."""
    return path.name if path.name.lower() in METADATA else path.suffix.lower() or path.name


def _checked(finder: _Finder, source: str, nothing: str) -> Listing:
    listing = finder.listing()
    if not listing.files:
        ignored = listing.ignored_line()
        raise InputError(f"{nothing}; {ignored}" if ignored else nothing, where=source, do=SUPPORTED)
    words = sorted({file.word for file in listing.files if file.word})
    if all(file.held_out for file in listing.files):
        what = f"no file is left to train on: the names of all {len(listing.files)} hold them out ({', '.join(words)})"
        raise InputError(what, where=source, do="add a file to train on, or name one file itself")
    return listing


def _missing(source: str, path: Path) -> InputError:
    """The error for a path that does not exist, with the nearest name that does."""
    if path.is_symlink() or path.exists():
        what = "a link to no file" if path.is_symlink() else "neither a file nor a folder"
        return InputError(f"no such file or folder: it is {what}", where=source)
    folder = next((each for each in path.parents if each.is_dir()), Path())
    name = path.relative_to(folder).parts[0]
    names = sorted(each.name for each in folder.iterdir() if not each.name.startswith("."))
    known = names if len(names) <= SHOWN else difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    what = "no such file or folder" if folder == path.parent else f"no such file or folder; there is no {name!r}"
    what += "" if folder == Path() else f" in {folder}"
    return InputError(what, where=source, do=did_you_mean(name, known) or "check the path")
