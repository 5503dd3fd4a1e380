"""Rows are read from files of several kinds, and every error says where."""

import gzip
import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from juicer.runtime.errors import InputError
from juicer.sources.files import files_of, is_path, rows_of

ROWS = [{"prompt": f"question {number}", "response": "ä"} for number in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES.encode()),
        ("a.jsonl", b"\xef\xbb\xbf" + LINES.replace("\n", "\n\n").encode()),
        ("a.jsonl.gz", gzip.compress(LINES.encode())),
        ("a.json", json.dumps(ROWS, indent=1).encode()),
        ("a.json", LINES.encode()),
        ("a.json.gz", gzip.compress(json.dumps(ROWS).encode())),
    ],
)
def test_rows_are_the_same_whatever_the_file(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert [row.values for row in rows_of(path, name)] == ROWS


def test_rows_of_parquet_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    read = list(rows_of(path, "a.parquet"))
    assert [row.values for row in read] == ROWS
    assert read[2].where == "a.parquet: row 3"


def test_a_row_knows_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2}\n')
    assert [row.where for row in rows_of(path, "x/a.jsonl")] == ["x/a.jsonl:1", "x/a.jsonl:3"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'[{"a": 1},\n{"a": 2},\n{]', r"a\.json:3: invalid JSON"),
        ("a.jsonl.gz", gzip.compress(LINES.encode())[:-8], r"a\.jsonl\.gz:4: the gzip file is truncated after line 3"),
        ("a.jsonl.gz", b"plain text", r"a\.jsonl\.gz:1: the gzip file is damaged"),
        ("a.parquet", b"not parquet", r"a\.parquet: not a readable parquet file"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(rows_of(path, name))


def test_of_a_folder_test_files_are_held_out_and_other_files_ignored(tmp_path: Path) -> None:
    folder = tmp_path / "test"
    for name in (
        "train.jsonl", "sub/hh-test.jsonl.gz", "latest.jsonl", "testimonials.jsonl", "test/0000.parquet",
        "train/0000.parquet", "README.md", ".hidden.jsonl",
    ):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    found = files_of(str(folder))
    assert [(file.name, file.held_out) for file in found] == [
        ("latest.jsonl", False),
        ("sub/hh-test.jsonl.gz", True),
        ("test/0000.parquet", True),
        ("testimonials.jsonl", False),
        ("train.jsonl", False),
        ("train/0000.parquet", False),
    ]


def test_a_single_file_is_trained_on_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").touch()
    assert [file.held_out for file in files_of(str(tmp_path / "test.jsonl"))] == [False]


def test_a_path_is_not_taken_for_an_id_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    assert all(
        is_path(source) for source in ("./a", "../a/b", "/a", "a.jsonl", "a/b.json", "b.gz", "c.parquet", "data")
    )
    assert not any(is_path(source) for source in ("Anthropic/hh-rlhf", "HuggingFaceH4/ultrachat_200k", "imdb"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.jsonl", "no such file or folder"),
        ("notes.gz", "unsupported type of file"),
        ("empty", "the folder contains no supported file"),
    ],
)
def test_a_source_without_rows_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "notes.gz").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=message):
        files_of(str(tmp_path / name))
