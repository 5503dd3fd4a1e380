"""The entries of a dvc.lock as DVC writes it, cut out of its text: what is asked for is parsed, the rest is not.

A YAML parser takes 1.5 s per megabyte, and a stage of many needs few entries. DVC's layout is regular: an entry is
indented by two spaces, its parts by four, files and parameters are listed one below the other. Whatever does not look
like that is left to the parser.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

HEAD = "schema: '2.0'\nstages:\n"
ENTRY = re.compile(r"  (?! )(.+):\n((?:(?:    .*)?\n)+)")
PART = re.compile(r"^    (cmd|deps|params|outs):", re.MULTILINE)
FILE = re.compile(
    r"    - path: ([\w./~][^\n]*)\n(?:      hash: md5\n)?      md5: ([0-9a-f]{32}(?:\.dir)?)\n"
    r"(?:      (?:size|nfiles): \d+\n|      isexec: true\n)*"
)
PARAMS = re.compile(r"\n      params\.yaml:\n((?:        .*\n|\n)+)")
KEY = re.compile(r"^(?=        (?!-[ \n])[^ \n])", re.MULTILINE)
"""Before each key: the items of a list are not indented further than the key that has them."""


class Entries(Mapping[str, Any]):
    """Entries by stage: `cmd`, `params`, and `deps` and `outs` as lists of mappings, of at least path and md5."""

    def __init__(self, texts: dict[str, str]) -> None:
        """Take the text of each entry, below the line with its name; see `of`."""
        self._texts = texts
        self._entries = dict[str, dict[str, Any]]()
        self._files = dict[tuple[str, str], list[tuple[str, str | None]]]()
        self._parsed = dict[str, Any]()
        """By text: most parameters of a stage are those of the stages before it."""

    @classmethod
    def of(cls, text: str) -> "Entries | None":
        """The entries in the text of a dvc.lock; None if it has another layout or its end is missing."""
        if not text.startswith(HEAD) or "\0" in text:
            return None
        place, texts = len(HEAD), dict[str, str]()
        while found := ENTRY.match(text, place):
            name = found[1]
            if name[0] in "'\"" or name in texts:
                return None
            texts[name], place = found[2], found.end()
        entries = cls(texts)
        return entries if place == len(text) and entries._ends_well() else None

    def __getitem__(self, name: str) -> dict[str, Any]:
        if name not in self._entries:
            self._entries[name] = self._entry(self._texts[name])
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)

    def files(self, name: str, kind: str) -> list[tuple[str, str | None]]:
        """Path and md5 of each of an entry's `deps` or `outs`, without its parameters being read."""
        if (name, kind) not in self._files:
            found: list[tuple[str, str | None]] | None = _files(_parts(self._texts[name]).get(kind, "\n"))
            if found is None:
                found = [(each["path"], each.get("md5")) for each in self[name].get(kind, [])]
            self._files[name, kind] = found
        return self._files[name, kind]

    def text(self, name: str) -> str:
        """An entry as it is written."""
        return f"  {name}:\n{self._texts[name]}"

    def _ends_well(self) -> bool:
        """Whether the last entry, the one that a cut would hit, is a whole one."""
        if not self._texts:
            return False
        try:
            last = YAML(typ="safe").load(next(reversed(self._texts.values())))
        except YAMLError:
            return False
        return isinstance(last, dict) and "cmd" in last

    def _entry(self, text: str) -> dict[str, Any]:
        parts = _parts(text)
        entry: dict[str, Any] = {}
        for kind, part in parts.items():
            if kind in ("deps", "outs"):
                files = _files(part)
                entry[kind] = None if files is None else [{"path": path, "md5": md5} for path, md5 in files]
            elif kind == "params" and (values := PARAMS.fullmatch(part)):  # of no other file
                keys = KEY.split(values[1])
                entry[kind] = {"params.yaml": {key: value for each in keys if each for key, value in self._value(each)}}
            else:
                entry |= dict(self._value(f"    {kind}:{part}"))
        return YAML(typ="safe").load(text) if None in entry.values() else entry

    def _value(self, text: str) -> list[tuple[str, Any]]:
        if text not in self._parsed:
            self._parsed[text] = list(YAML(typ="safe").load(text).items())
        return self._parsed[text]


def _parts(text: str) -> dict[str, str]:
    """What follows `cmd:`, `deps:`, `params:` and `outs:`."""
    _, *parts = PART.split(text)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def _files(text: str) -> list[tuple[str, str | None]] | None:
    """Path and md5 of listed files; None if that needs a parser."""
    place, found = 1, list[tuple[str, str | None]]()
    while match := FILE.match(text, place):
        found.append((match[1], match[2]))
        place = match.end()
    return found if place == len(text) else None
