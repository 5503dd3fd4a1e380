"""What the suffix of a file's name says, in any letter case: the type of its rows, and how it is compressed."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["json", "csv", "tsv", "parquet", "arrow"]
Packing = Literal["gzip", "zstd"]
KINDS: dict[str, Kind] = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
PACKINGS: dict[str, Packing] = {".gz": "gzip", ".zst": "zstd"}
SUFFIXES = tuple(kind + packing for kind in KINDS for packing in ("", *PACKINGS))
"""All suffixes of files of rows, in lower case."""
SUPPORTED = f"supported: {', '.join(KINDS)}, each also with {' or '.join(PACKINGS)} after it"


@dataclass(frozen=True)
class FileType:
    """What a file is, by its name."""

    kind: Kind
    """Type of the rows: `json` is lines, arrays and objects alike."""
    packing: Packing | None
    """Compression around the file."""


def type_of(name: str) -> FileType | None:
    """The type of a file by its name; None if no such file is read."""
    rest, packing = _split(name.lower(), PACKINGS)
    _, kind = _split(rest, KINDS)
    return FileType(KINDS[kind], PACKINGS.get(packing)) if kind else None


def stem_of(name: str) -> str:
    """The name without its suffixes: `train` of `train.jsonl.gz`."""
    rest, _ = _split(name, PACKINGS)
    return _split(rest, KINDS)[0]


def _split(name: str, suffixes: dict[str, Kind] | dict[str, Packing]) -> tuple[str, str]:
    """The name up to one of the suffixes, and that in lower case or ""."""
    start, dot, end = name.rpartition(".")
    suffix = f".{end.lower()}"
    return (start, suffix) if dot and suffix in suffixes else (name, "")
