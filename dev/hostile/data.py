"""Bad files and folders of demonstrations."""

import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from dev.hostile import Case

ROW = json.dumps({"prompt": "question", "response": "answer"}).encode() + b"\n"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
Made = Callable[[Path], Path]


def _file(name: str, content: bytes) -> Made:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content)
        return path

    return make


def _lines(*rows: object) -> Made:
    return _file("a.jsonl", b"".join(json.dumps(row).encode() + b"\n" for row in rows))


def _bomb(name: str, piece: bytes, pieces: int) -> Made:
    """A gzip file that unpacks to `pieces` times `piece`."""

    def make(folder: Path) -> Path:
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)
        with (folder / name).open("wb") as file:
            for _ in range(pieces):
                file.write(packer.compress(piece))
            file.write(packer.flush())
        return folder / name

    return make


def _long_line(name: str, start: bytes, size: int) -> Made:
    def make(folder: Path) -> Path:
        with (folder / name).open("wb") as file:
            file.write(start)
            file.truncate(size)  # a hole, which reads as NUL
        return folder / name

    return make


def _parquet(change: Callable[[bytes], bytes], name: str = "a.parquet") -> Made:
    def make(folder: Path) -> Path:
        import pyarrow
        from pyarrow import parquet

        rows = [{"prompt": f"question {number}", "response": "answer" * 20} for number in range(500)]
        parquet.write_table(pyarrow.Table.from_pylist(rows), folder / name)
        (folder / name).write_bytes(change((folder / name).read_bytes()))
        return folder / name

    return make


def _parquet_bomb(rows: int, size: int) -> Made:
    """One text of `size` characters, said `rows` times in a few bytes."""

    def make(folder: Path) -> Path:
        import pyarrow
        from pyarrow import parquet

        text = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * rows, pyarrow.int32()), ["x" * size])
        table = pyarrow.table({"prompt": text, "response": text})
        parquet.write_table(table, folder / "a.parquet", compression="zstd", store_schema=False)
        return folder / "a.parquet"

    return make


def _parquet_of(columns: dict[str, list[object]]) -> Made:
    def make(folder: Path) -> Path:
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table(columns), folder / "a.parquet")
        return folder / "a.parquet"

    return make


def _folder(**files: bytes) -> Made:
    def make(folder: Path) -> Path:
        (folder / "data").mkdir()
        for name, content in files.items():
            (folder / "data" / name.replace("_", ".")).write_bytes(content)
        return folder / "data"

    return make


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "a.jsonl")
    return folder / "a.jsonl"


def _link_to_itself(folder: Path) -> Path:
    (folder / "a.jsonl").symlink_to("a.jsonl")
    return folder / "a.jsonl"


def _folders_in_a_circle(folder: Path) -> Path:
    (folder / "data").mkdir()
    (folder / "data" / "again").symlink_to(folder / "data")
    return folder / "data"


def _flip(at: float, mask: int = 0xFF, length: int = 8) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        start = int(len(content) * at)
        flipped = bytes(byte ^ mask for byte in content[start : start + length])
        return content[:start] + flipped + content[start + length :]

    return change


MIB = 2**20
PACKED = gzip.compress(ROW * 1000, mtime=0)
FILES: dict[str, tuple[Made, str]] = {
    # sizes
    "gzip of one endless line": (_bomb("a.jsonl.gz", b"x" * MIB, 6000), "a.jsonl.gz:1: the line is longer than 16 MiB"),
    "gzip of 2 GB of empty lines": (_bomb("a.jsonl.gz", b"\n" * MIB, 2000), "unpack to more than 100 times as much"),
    "gzip of a row said 10 million times": (_bomb("a.jsonl.gz", ROW * 20_000, 500), "unpack to more than 100 times"),
    "gzip of an endless array": (_bomb("a.json.gz", b"[" + b" " * MIB, 2000), "unpack to more than 100 times"),
    "gzip of endless blanks": (_bomb("a.json.gz", b" " * MIB, 2000), "longer than 16 MiB"),
    "a line of 2 GB": (_long_line("a.jsonl", b'{"prompt": "', 2 * 2**30), "a.jsonl:1: the line is longer than 16 MiB"),
    "a row of 2 GB in an array": (_long_line("a.json", b'[{"prompt": "', 2 * 2**30), "a.json:1: invalid JSON"),
    "a second line of 100 MB": (_long_line("a.jsonl", ROW + b"{", 100 * MIB), "a.jsonl:2: the line is longer"),
    "10,000 open brackets": (_file("a.jsonl", ROW + b'{"prompt": ' + b"[" * 200_000), "a.jsonl:2: nested too deeply"),
    "200,000 open brackets in an array": (
        _file("a.json", b'[{"a": ' + b"[" * 200_000),
        "a.json:1: invalid JSON",
    ),
    "a number of 10,000 digits": (_file("a.jsonl", b'{"prompt": ' + b"9" * 10_000 + b"}"), "more than 4,300 digits"),
    "a parquet text said a million times": (_parquet_bomb(10**6, 4 * MIB), "a.parquet"),
    "100,000 keys in a row": (_lines({f"k{number}": 1 for number in range(100_000)}), "and 99990 more"),
    # damage
    "a truncated gzip": (_file("a.jsonl.gz", PACKED[:-40]), "the gzip file is truncated after line"),
    "a gzip of its header": (_file("a.jsonl.gz", PACKED[:10]), "a.jsonl.gz:1: the gzip file is truncated after line 0"),
    "a damaged gzip": (_file("a.jsonl.gz", _flip(0.5)(PACKED)), "a.jsonl.gz:"),
    "a gzip with a wrong checksum": (_file("a.jsonl.gz", PACKED[:-8] + b"\0" * 8), "the gzip file is damaged"),
    "text called gzip": (_file("a.jsonl.gz", ROW), "a.jsonl.gz:1: the gzip file is damaged: Not a gzipped file"),
    "a git-LFS pointer called gzip": (_file("a.jsonl.gz", LFS), "a.jsonl.gz:1: the gzip file is damaged"),
    "a git-LFS pointer called parquet": (_file("a.parquet", LFS), "a.parquet: not a readable parquet file"),
    "a git-LFS pointer": (_file("a.jsonl", LFS), "a.jsonl:1: invalid JSON"),
    "noise after a gzip": (_file("a.jsonl.gz", PACKED + b"noise"), "the gzip file is damaged"),
    "text called parquet": (_file("a.parquet", ROW * 9), "a.parquet: not a readable parquet file"),
    "nothing called parquet": (_file("a.parquet", b""), "a.parquet: not a readable parquet file"),
    "a truncated parquet": (_parquet(lambda content: content[:-100]), "a.parquet: not a readable parquet file"),
    "half a parquet": (_parquet(lambda content: content[: len(content) // 2]), "a.parquet: not a readable parquet"),
    "a parquet without its start": (_parquet(lambda content: content[1000:]), "a.parquet"),
    "a parquet with a damaged footer": (_parquet(_flip(0.97)), "a.parquet"),
    "a parquet with a damaged page": (_parquet(_flip(0.001, length=40)), "a.parquet"),
    "a parquet of zeros": (_parquet(lambda content: b"PAR1" + bytes(len(content) - 8) + b"PAR1"), "a.parquet"),
    "a file that ends in a row": (_file("a.jsonl", ROW + ROW[:20]), "a.jsonl:2: invalid JSON"),
    "an array without its end": (_file("a.json", b"[" + ROW + b"," + ROW), "a.json:3: invalid JSON: the file ends"),
    "an array that ends in a row": (_file("a.json", b"[" + ROW + b"," + ROW[:20]), "a.json:2: invalid JSON"),
    "an array with a trailing comma": (_file("a.json", b"[" + ROW + b",]"), "a.json"),
    "text after an array": (_file("a.json", b"[" + ROW + b"] x"), "extra data after the array"),
    "an array without commas": (_file("a.json", b"[" + ROW + ROW + b"]"), "a.json:2: invalid JSON: expecting ','"),
    # text
    "Latin-1": (_file("a.jsonl", ROW + b'{"prompt": "caf\xe9", "response": "x"}\n'), "a.jsonl:2: not UTF-8"),
    "Latin-1 in an array": (_file("a.json", b'[{"prompt": "caf\xe9"}]'), "a.json: byte 16: not UTF-8"),
    "UTF-16": (_file("a.jsonl", ROW.decode().encode("utf-16")), "a.jsonl:1: not UTF-8"),
    "a NUL in a row": (_file("a.jsonl", b'{"prompt": "a\0b"}\n'), "a.jsonl:1: invalid JSON: Invalid control character"),
    "single quotes": (_file("a.jsonl", b"{'prompt': 'a'}\n"), "a.jsonl:1: invalid JSON"),
    "HTML": (_file("a.jsonl", b"<!DOCTYPE html>\n<html>Not found</html>\n"), "a.jsonl:1: invalid JSON"),
    "CSV called JSON lines": (_file("a.jsonl", b"prompt,response\na,b\n"), "a.jsonl:1: invalid JSON"),
    "a pretty-printed object": (_file("a.jsonl", b'{\n "prompt": "a"\n}\n'), "a.jsonl:1: invalid JSON"),
    # rows
    "a number for a row": (_lines(1), "a.jsonl:1: a row must be a JSON object, not int"),
    "null for a row": (_lines({"prompt": "a", "response": "b"}, None), "a.jsonl:2: a row must be a JSON object"),
    "a list for a row": (_lines([1]), "a.jsonl:1: a row must be a JSON object, not list"),
    "a text in an array": (_file("a.json", b'["a"]'), "a.json: row 1: a row must be a JSON object, not str"),
    "an empty row": (_lines({}), "a.jsonl:1: unrecognised format: the row has the keys nothing"),
    "unknown keys": (_lines({"question": "a", "reply": "b"}), "a.jsonl:1: unrecognised format"),
    "a key with an escape": (_lines({"\x1b[2J\n": 1}), "a.jsonl:1: unrecognised format"),
    "a second row without its key": (
        _lines({"prompt": "a", "response": "b"}, {"prompt": "a"}),
        "a.jsonl:2: the row has",
    ),
    "a number for a prompt": (_lines({"prompt": 1, "response": "b"}), "a.jsonl:1: 'prompt' must be text"),
    "a message without a role": (_lines({"messages": [{"content": "a"}]}), "a.jsonl:1: message 1 of 'messages'"),
    "only empty responses": (_lines({"prompt": "a", "response": " "}), "a.jsonl:1: the response is empty; 1 of 1"),
    "only an unpaired surrogate": (_lines({"prompt": "a", "response": "\ud800"}), "an unpaired surrogate"),
    "a parquet of numbers": (
        _parquet_of({"prompt": [1], "response": [2]}),
        "a.parquet: row 1: 'response' must be text",
    ),
    "a parquet of other columns": (_parquet_of({"a": ["x"]}), "a.parquet: row 1: unrecognised format"),
    # files and folders
    "nothing in a file": (_file("a.jsonl", b""), "the dataset is empty"),
    "an empty array": (_file("a.json", b"[]"), "the dataset is empty"),
    "blank lines": (_file("a.jsonl", b"\n \n\n"), "the dataset is empty"),
    "another type of file": (_file("a.xz", b"x"), "unsupported type of file"),
    "a zip file": (_file("a.zip", b"PK\x03\x04"), "unsupported type of file"),
    "an empty folder": (_folder(), "the folder contains no supported file"),
    "a folder with one bad file": (_folder(a_jsonl=ROW, b_jsonl=b"{"), "b.jsonl:1: invalid JSON"),
    "a folder of folders in a circle": (_folders_in_a_circle, "the folder contains no supported file"),
    "a pipe": (_pipe, "no such file or folder"),
    "a link to itself": (_link_to_itself, "no such file or folder"),
    "a missing file": (lambda folder: folder / "missing.jsonl", "no such file or folder"),
}
SLOW = ("gzip of one endless line", "gzip of 2 GB of empty lines", "gzip of a row said 10 million times",
        "gzip of an endless array", "gzip of endless blanks", "a parquet text said a million times")  # fmt: skip
"""Those that take seconds to make or to refuse, and that the unit tests leave to `python -m dev.hostile`."""


def cases() -> Iterator[Case]:
    """All bad data."""
    for name, (make, says) in FILES.items():
        yield Case(name, "data", make, says)
