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
            path = folder / "data" / name.replace("__", " ").replace("_", ".").replace(" ", "_")
            path.write_bytes(content)
        return folder / "data"

    return make


def _zstd(content: bytes) -> bytes:
    import pyarrow

    out = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(out, "zstd") as file:
        file.write(content)
    return out.getvalue().to_pybytes()


def _zstd_bomb(folder: Path) -> Path:
    (folder / "a.json.zst").write_bytes(_zstd(b"[" + b" " * 40 * MIB))
    return folder / "a.json.zst"


def _arrow(way: str, cut: int) -> Made:
    """An Arrow file or stream of two batches without its last bytes."""

    def make(folder: Path) -> Path:
        import pyarrow

        out, table = pyarrow.BufferOutputStream(), pyarrow.table({"prompt": ["a"] * 100, "response": ["b"] * 100})
        with getattr(pyarrow.ipc, way)(out, table.schema) as writer:
            writer.write_table(table, max_chunksize=50)
        (folder / "a.arrow").write_bytes(out.getvalue().to_pybytes()[:-cut])
        return folder / "a.arrow"

    return make


def _misspelt(folder: Path) -> Path:
    (folder / "train.jsonl").write_bytes(ROW)
    return folder / "trian.jsonl"


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
TABLE = b"prompt,response\na,b\n"
README = b"---\nconfigs:\n- config_name: default\n  data_files: data/*.csv\n---\n# A dataset\n"
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
    "200,000 open brackets": (_file("a.jsonl", b'{"prompt": ' + b"[" * 200_000), "a.jsonl:1: nested too deeply"),
    "a zstd file of an endless array": (_zstd_bomb, "unpack to more than 100 times"),
    "a quote that swallows a table": (
        _file("a.csv", TABLE + b'"c,d\n' + (b"e" * MIB + b",f\n") * 20),
        "the row is longer than 16",
    ),
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
    "a git-LFS pointer called gzip": (_file("a.jsonl.gz", LFS), "a.jsonl.gz: a git-LFS pointer"),
    "a git-LFS pointer called parquet": (_file("a.parquet", LFS), "a.parquet: a git-LFS pointer"),
    "a git-LFS pointer": (_file("a.jsonl", LFS), "a.jsonl: a git-LFS pointer, not the file itself (git lfs pull)"),
    "noise after a gzip": (_file("a.jsonl.gz", PACKED + b"noise"), "the gzip file is damaged"),
    "text called parquet": (_file("a.parquet", ROW * 9), "a.parquet: not a readable parquet file"),
    "nothing called parquet": (_file("a.parquet", b""), "a.parquet: not a readable parquet file"),
    "a truncated parquet": (_parquet(lambda content: content[:-100]), "a.parquet: not a readable parquet file"),
    "half a parquet": (_parquet(lambda content: content[: len(content) // 2]), "a.parquet: not a readable parquet"),
    "a parquet without its start": (_parquet(lambda content: content[1000:]), "a.parquet"),
    "a parquet with a damaged footer": (_parquet(_flip(0.97)), "a.parquet"),
    "a parquet with a damaged page": (_parquet(_flip(0.001, length=40)), "a.parquet"),
    "a parquet of zeros": (_parquet(lambda content: b"PAR1" + bytes(len(content) - 8) + b"PAR1"), "a.parquet"),
    "a truncated zstd file": (_file("a.jsonl.zst", _zstd(ROW * 9)[:-5]), "a.jsonl.zst:1: the zstd file is truncated"),
    "text called zstd": (_file("a.csv.zst", ROW), "the zstd file is damaged"),
    "noise after a zstd file": (_file("a.jsonl.zst", _zstd(ROW) + b"noise"), "the zstd file is damaged"),
    "a truncated arrow file": (_arrow("new_file", 1), "a.arrow: not a readable arrow file"),
    "a truncated arrow stream": (_arrow("new_stream", 300), "not a readable arrow file"),
    "an arrow stream cut between batches": (_arrow("new_stream", 8), "the stream is truncated"),
    "text called arrow": (_file("a.arrow", ROW), "a.arrow: not a readable arrow file"),
    "a gzipped parquet file that is none": (_file("a.parquet.gz", PACKED), "a.parquet.gz: not a readable parquet file"),
    "an object that ends in a row": (_file("a.json", b"{\n" + ROW[1:20]), "a.json:2: invalid JSON"),
    "an array without its end": (_file("a.json", b"[" + ROW + b"," + ROW), "a.json:3: invalid JSON: the file ends"),
    "an array that ends in a row": (_file("a.json", b"[" + ROW + b"," + ROW[:20]), "a.json:2: invalid JSON"),
    "an array with two commas": (_file("a.json", b"[" + ROW + b",,]"), "a.json:2: invalid JSON"),
    "text after an object of rows": (_file("a.json", b'{"data": [' + ROW + b"]} x"), "extra data after the object"),
    "text after an array": (_file("a.json", b"[" + ROW + b"] x"), "extra data after the array"),
    "an array without commas": (_file("a.json", b"[" + ROW + ROW + b"]"), "a.json:2: invalid JSON: expecting ','"),
    # text
    "Latin-1": (_file("a.jsonl", b'{"prompt": "caf\xe9", "response": "x"}\n'), "a.jsonl:1: not UTF-8"),
    "Latin-1 in an array": (_file("a.json", b'[{"prompt": "caf\xe9"}]'), "a.json: byte 16: not UTF-8"),
    "UTF-16": (
        _file("a.jsonl", ROW.decode().encode("utf-16")),
        "a.jsonl:1: not UTF-8: invalid start byte at byte 0; the file looks like UTF-16 text",
    ),
    "a NUL in a row": (_file("a.jsonl", b'{"prompt": "a\0b"}\n'), "a.jsonl:1: invalid JSON: Invalid control character"),
    "single quotes": (_file("a.jsonl", b"{'prompt': 'a'}\n"), "with single quotes (write each row with json.dumps)"),
    "HTML": (_file("a.jsonl", b"<!DOCTYPE html>\n<html>Not found</html>\n"), "the file looks like an HTML page"),
    "CSV called JSON lines": (_file("a.jsonl", b"prompt,response\na,b\n"), "the file looks like CSV (name it .csv)"),
    "a parquet file called JSON lines": (_parquet(lambda content: content, "a.jsonl"), "looks like a parquet file"),
    "a gzip file without .gz": (_file("a.jsonl", PACKED), "the file looks like a gzip file (add .gz to its name)"),
    "rows with commas after them": (_file("a.jsonl", ROW[:-1] + b",\n" + ROW), "JSON objects with commas between them"),
    "a key without quotes": (_file("a.jsonl", b"{prompt: 1}\n"), "a.jsonl:1: invalid JSON"),
    # tables
    "JSON lines called CSV": (
        _file("a.csv", ROW),
        "a.csv:1: the first line names no columns; the file looks like JSON",
    ),
    "UTF-16 called CSV": (_file("a.csv", TABLE.decode().encode("utf-16")), "the file looks like UTF-16 text"),
    "a table with semicolons": (
        _file("a.csv", TABLE.replace(b",", b";")),
        "the file looks like a table with semicolons (save it with commas",
    ),
    "a table with tabs called CSV": (_file("a.csv", TABLE.replace(b",", b"\t")), "(name it .tsv)"),
    "a table that names a column twice": (_file("a.csv", b"a,a\nb,c\n"), "the header names the column 'a' twice"),
    "a table whose first row has more cells": (_file("a.csv", b"a,b\nc,d,e\n"), "a.csv:2: 3 cells under a header of 2"),
    "a quote that is never closed": (_file("a.csv", TABLE + b'"c,d\ne,f\n'), "a.csv:3: a quote is opened in this row"),
    # rows
    "a number for a row": (_lines(1), "a.jsonl:1: a row must be a JSON object, not int"),
    "null for a row": (_lines(None), "a.jsonl:1: a row must be a JSON object"),
    "a list of numbers": (_lines([1]), "a.jsonl: row 1: a row must be a JSON object, not int"),
    "a text in an array": (_file("a.json", b'["a"]'), "a.json: row 1: a row must be a JSON object, not str"),
    "an empty row": (_lines({}), "a.jsonl:1: unrecognised format: the row has the keys nothing"),
    "unknown keys": (_lines({"question": "a", "reply": "b"}), "a.jsonl:1: unrecognised format"),
    "a key with an escape": (_lines({"\x1b[2J\n": 1}), "a.jsonl:1: unrecognised format"),
    "rows without a key": (
        _lines({"prompt": "a", "response": "b"}, {"prompt": "a"}, {"prompt": "a"}),
        "a.jsonl:2: a key is missing",
    ),
    "a number for a prompt": (
        _lines({"prompt": 1, "response": "b"}),
        "a.jsonl:1: a value has the wrong type: 'prompt' must be text",
    ),
    "a message without a role": (
        _lines({"messages": [{"content": "a"}]}),
        "a.jsonl:1: a value has the wrong type: message 1 of 'messages'",
    ),
    "only empty responses": (_lines({"prompt": "a", "response": " "}), "a.jsonl:1: the response is empty; 1 of 1"),
    "only an unpaired surrogate": (_lines({"prompt": "a", "response": "\ud800"}), "an unpaired surrogate"),
    "a parquet of numbers": (
        _parquet_of({"prompt": [1], "response": [2]}),
        "a.parquet: row 1: a value has the wrong type: 'prompt' must be text",
    ),
    "a parquet of other columns": (_parquet_of({"a": ["x"]}), "a.parquet: row 1: unrecognised format"),
    # files and folders
    "nothing in a file": (_file("a.jsonl", b""), "the dataset is empty"),
    "an empty array": (_file("a.json", b"[]"), "the dataset is empty"),
    "blank lines": (_file("a.jsonl", b"\n \n\n"), "the dataset is empty"),
    "only a header": (_file("a.csv", b"prompt,response\n"), "the dataset is empty"),
    "another type of file": (_file("a.xz", b"x"), "unsupported type of file (supported: .jsonl, .ndjson, .json, .csv"),
    "a folder of other files": (_folder(a_md=b"", b_txt=b""), "no supported file; ignored: 2 files (.md, .txt)"),
    "a folder of metadata": (_folder(dataset__infos_json=b"{}"), "no supported file"),
    "a folder of held-out files": (_folder(test_jsonl=ROW, valid_jsonl=ROW), "hold them out (test, valid)"),
    "a saved dataset without a file": (
        _folder(state_json=b'{"_data_files": [{"filename": "a.arrow"}]}'),
        "names it: a.arrow",
    ),
    "a README.md of files that are not there": (
        _folder(README_md=README),
        "data_files names 'data/*.csv', and no file",
    ),
    "a pattern that matches nothing": (lambda folder: folder / "part-*.jsonl", "the pattern matches no file"),
    "a zip file": (_file("a.zip", b"PK\x03\x04"), "unsupported type of file"),
    "an empty folder": (_folder(), "the folder contains no supported file"),
    "a folder with one bad file": (_folder(a_jsonl=ROW, b_jsonl=b"{"), "b.jsonl:1: invalid JSON"),
    "a folder of folders in a circle": (_folders_in_a_circle, "the folder contains no supported file"),
    "a pipe": (_pipe, "no such file or folder"),
    "a link to itself": (_link_to_itself, "no such file or folder"),
    "a missing file": (lambda folder: folder / "missing.jsonl", "no such file or folder"),
    "a misspelt file": (_misspelt, "did you mean 'train.jsonl'?"),
}
SLOW = ("gzip of one endless line", "gzip of 2 GB of empty lines", "gzip of a row said 10 million times",
        "gzip of an endless array", "gzip of endless blanks", "a parquet text said a million times")  # fmt: skip
"""Those that take seconds to make or to refuse, and that the unit tests leave to `python -m dev.hostile`."""


def cases() -> Iterator[Case]:
    """All bad data."""
    for name, (make, says) in FILES.items():
        yield Case(name, "data", make, says)
