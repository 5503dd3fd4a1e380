"""Rows are read from files of every type, and every error says where."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import ipc, parquet

from juicer.runtime.errors import InputError
from juicer.sources.files import Row, Unreadable, rows_in_parquet, rows_of, rows_of_source
from juicer.sources.files.rows import LONGEST_ROW

ROWS = [{"prompt": f"question {number}", "response": "ä"} for number in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
PRETTY = "\n".join(json.dumps(row, indent=2) for row in ROWS)


def gz(content: bytes) -> bytes:
    """Without the time, which would give each worker that collects these tests other ones."""
    return gzip.compress(content, mtime=0)


def zstd(content: bytes) -> bytes:
    out = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(out, "zstd") as file:
        file.write(content)
    return bytes(out.getvalue())


def table_of(delimiter: str, rows: list[dict[str, str]] = ROWS) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def arrow_of(way: Any, rows: list[dict[str, str]] = ROWS) -> bytes:
    table, out = pyarrow.Table.from_pylist(rows), pyarrow.BufferOutputStream()
    with way(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return bytes(out.getvalue())


def parquet_of(rows: list[dict[str, str]] = ROWS) -> bytes:
    out = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(rows), out)
    return bytes(out.getvalue())


def read(folder: Path, name: str, content: bytes | str) -> list[Row | Unreadable]:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return list(rows_of(folder / name, name))


def values(folder: Path, name: str, content: bytes | str) -> list[Any]:
    return [row.values if isinstance(row, Row) else row for row in read(folder, name, content)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES),
        ("a.ndjson", LINES.replace("\n", "\r\n")),
        ("a.JSONL", b"\xef\xbb\xbf" + LINES.replace("\n", "\n\n").encode()),
        ("a.jsonl", "\n \n" + LINES.removesuffix("\n")),
        ("a.jsonl.gz", gz(LINES.encode())),
        ("a.Jsonl.ZST", zstd(LINES.encode())),
        ("a.jsonl.zst", zstd(LINES[:20].encode()) + zstd(LINES[20:].encode())),
        ("a.jsonl", json.dumps(ROWS)),
        ("a.json", json.dumps(ROWS, indent=1)),
        ("a.json", b"\xef\xbb\xbf" + json.dumps(ROWS).encode()),
        ("a.json", f"[{','.join(map(json.dumps, ROWS))},\n]"),
        ("a.json", LINES),
        ("a.json", PRETTY),
        ("a.jsonl", "\n" + PRETTY),
        ("a.json", json.dumps({"data": ROWS})),
        ("a.json", json.dumps({"version": 1.5, "data": ROWS, "more": {"a": [1]}}, indent=1)),
        ("a.json", json.dumps({"rows": ROWS[:2], "train": ROWS[2:]})),
        ("a.json.gz", gz(json.dumps(ROWS).encode())),
        ("a.csv", table_of(",")),
        ("a.csv", b"\xef\xbb\xbf" + table_of(",").replace(b"\r\n", b"\n").removesuffix(b"\n")),
        ("a.tsv", table_of("\t")),
        ("a.csv.gz", gz(table_of(","))),
        ("a.tsv.zst", zstd(table_of("\t"))),
        ("a.parquet", parquet_of()),
        ("a.PARQUET.gz", gz(parquet_of())),
        ("a.arrow", arrow_of(ipc.new_file)),
        ("a.arrow", arrow_of(ipc.new_stream)),
        ("a.arrow.zst", zstd(arrow_of(ipc.new_stream))),
    ],
)
def test_rows_are_the_same_whatever_the_file(tmp_path: Path, name: str, content: bytes | str) -> None:
    assert values(tmp_path, name, content) == ROWS


@pytest.mark.parametrize(
    ("name", "content", "places"),
    [
        ("a.jsonl", '{"a": 1}\n\n{"a": 2}\n', ["a.jsonl:1", "a.jsonl:3"]),
        ("a.json", '[{"a": 1},\n{"a": 2}]', ["a.json: row 1", "a.json: row 2"]),
        ("a.json", '\n{\n"a": 1}\n{\n"a": 2\n}', ["a.json:2", "a.json:4"]),
        ("a.json", '{"train": [{}], "dev": [{}]}', ["a.json: row 1 of 'train'", "a.json: row 1 of 'dev'"]),
        ("a.csv", 'a,b\n"x\ny",z\n\nx,y\n', ["a.csv:2", "a.csv:5"]),
        ("a.arrow", arrow_of(ipc.new_stream), ["a.arrow: row 1", "a.arrow: row 2", "a.arrow: row 3"]),
        ("a.parquet", parquet_of(), ["a.parquet: row 1", "a.parquet: row 2", "a.parquet: row 3"]),
    ],
)
def test_a_row_knows_its_place(tmp_path: Path, name: str, content: bytes | str, places: list[str]) -> None:
    assert [row.where for row in read(tmp_path, name, content)] == places


GOOD = '{"a": "b"}\n'


@pytest.mark.parametrize(
    ("name", "content", "place", "what"),
    [
        ("a.jsonl", '{"a": \n', 2, "invalid JSON: Expecting value"),
        ("a.jsonl", '{"a": "cut o', 2, "invalid JSON: Unterminated string starting at (column 7)"),
        ("a.jsonl", "[1]\n", 2, "a row must be a JSON object, not list"),
        ("a.jsonl", "null\n", 2, "a row must be a JSON object, not NoneType"),
        ("a.jsonl", b'{"a": "caf\xe9"}\n', 2, "not UTF-8: invalid continuation byte at byte 10"),
        ("a.jsonl", '{"a":' + "[" * 200_000 + "\n", 2, "nested too deeply"),
        ("a.csv", "1,2,3\n", 3, "3 cells under a header of 2"),
        ("a.csv", "1\n", 3, "1 cells under a header of 2"),
        ("a.csv", b"caf\xe9,2\n", 3, "not UTF-8: invalid continuation byte"),
        ("a.csv", '"a "quote" here",2\n', 3, "a quote within quotes is written twice"),
        ("a.csv", '"cut o', 3, "the row is cut off within quotes"),
    ],
)
def test_a_bad_row_among_good_ones_is_told_and_the_next_is_read(
    tmp_path: Path, name: str, content: bytes | str, place: int, what: str
) -> None:
    bad = content if isinstance(content, bytes) else content.encode()
    start = GOOD.encode() if name == "a.jsonl" else b"a,c\nb,\n"
    end = start if name == "a.jsonl" else b"b,\n"
    rows = read(tmp_path, name, start + bad + (end if bad.endswith(b"\n") else b""))
    assert isinstance(rows[0], Row) and isinstance(rows[1], Unreadable)
    assert rows[1].where == f"{name}:{place}" and what in rows[1].what
    assert [row.values for row in rows[2:] if isinstance(row, Row)] == [rows[0].values] * bad.endswith(b"\n")


def test_an_element_of_an_array_that_is_no_object_is_told(tmp_path: Path) -> None:
    rows = read(tmp_path, "a.json", '[{"a": 1}, 12, "x", {"a": 2}]')
    assert rows == [
        Row({"a": 1}, "a.json: row 1"),
        Unreadable("a row must be a JSON object, not int", "a.json: row 2"),
        Unreadable("a row must be a JSON object, not str", "a.json: row 3"),
        Row({"a": 2}, "a.json: row 4"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "[]\n[]\n", r"a\.jsonl:2: invalid JSON: extra data after the array"),
        ("a.json", '[{"a": 1},\n{"a": 2},\n{]', r"a\.json:3: invalid JSON"),
        ("a.jsonl", "prompt,response\na,b\n", r"a\.jsonl:1: invalid JSON.*the file looks like CSV \(name it \.csv\)"),
        ("a.jsonl.gz", gz(LINES.encode())[:-8], r"a\.jsonl\.gz:4: the gzip file is truncated after line 3"),
        ("a.json.gz", gz(json.dumps(ROWS, indent=1).encode())[:-8], r"a\.json\.gz:14: the gzip file is tr"),
        ("a.jsonl.gz", b"plain text", r"a\.jsonl\.gz:1: the gzip file is damaged"),
        ("a.jsonl.gz", LINES, r"damaged.*the file looks like JSON \(take \.gz off its name"),
        ("a.jsonl.zst", zstd(LINES.encode())[:-4], r"a\.jsonl\.zst:1: the zstd file is truncated after line 0"),
        ("a.parquet", LINES, r"a\.parquet: not a readable parquet file.*the file looks like JSON"),
        ("a.arrow", arrow_of(ipc.new_stream)[:-8], r"a\.arrow: row 4: not a readable arrow file: the stream is trun"),
        ("a.arrow", arrow_of(ipc.new_file)[:-1], r"a\.arrow: not a readable arrow file"),
        ("a.csv", "a,b\n1,2\n" + '"x,y\n' + "z,z\n" * 9, r"a\.csv:3: a quote is opened in this row and never closed"),
        ("a.csv", "a,b\n1,2,3\n", r"a\.csv:2: 3 cells under a header of 2"),
        ("a.csv", "a\tb\n1\t2\n", r"a\.csv:1: the header has one column; the file looks like a table with tabs"),
    ],
)
def test_a_broken_file_is_named_with_its_place(tmp_path: Path, name: str, content: bytes | str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, name, content)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json.gz", "a.csv", "a.parquet", "a.arrow"])
def test_of_a_git_lfs_pointer_the_command_is_told_that_fetches_the_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"^{name}: a git-LFS pointer, not the file itself \(git lfs pull\)$"):
        read(tmp_path, name, "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    if name == "a.parquet":
        with pytest.raises(InputError, match="git lfs pull"):
            rows_in_parquet(tmp_path / name, name)


def test_the_cells_of_a_table_are_text_and_empty_ones_none(tmp_path: Path) -> None:
    content = ',prompt,response\n0,"1, ""2""\nand 3",\n1,"",  x \n'
    assert values(tmp_path, "a.csv", content) == [
        {"column 1": "0", "prompt": '1, "2"\nand 3', "response": None},
        {"column 1": "1", "prompt": None, "response": "  x "},
    ]


def test_a_cell_may_be_as_long_as_a_row_and_no_longer(tmp_path: Path) -> None:
    assert len(values(tmp_path, "a.csv", "a\n" + "x" * 2**18 + "\n")[0]["a"]) == 2**18
    with pytest.raises(InputError, match=r"a\.csv:2: the row is longer than 16 MiB"):
        read(tmp_path, "a.csv", 'a\n"' + "x" * (LONGEST_ROW // 2) + "\n" + "x" * (LONGEST_ROW // 2) + '"\n')


def test_splits_in_an_object_hold_their_rows_out(tmp_path: Path) -> None:
    rows = read(tmp_path, "a.json", json.dumps({"train": ROWS[:1], "test": ROWS[1:2], "valid": ROWS[2:], "n": 1}))
    assert [row.held_out for row in rows if isinstance(row, Row)] == [False, True, True]


def test_a_list_of_rows_under_another_key_is_told_and_other_values_are_skipped(tmp_path: Path) -> None:
    text = json.dumps({"version": 1, "train": ROWS[:1], "tags": ["a"], "n": [], "extra": ROWS, "test": ROWS[2:]})
    first, told, last = read(tmp_path, "a.json", text.replace('"extra"', '\n"extra"'))
    assert isinstance(first, Row) and isinstance(last, Row) and last.held_out
    assert isinstance(told, Unreadable) and told.where == "a.json:2"
    assert told.what == (
        "the list of 3 rows under 'extra' is not read: the key is neither a split nor 'data' nor 'rows'"
    )


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ('{"prompt":"x,"response":"r"}', "invalid JSON: Expecting ',' delimiter"),
        ('{"prompt":"x","response":"r}', "invalid JSON: Invalid control character"),
    ],
)
def test_a_mistake_in_a_long_array_is_told_at_its_line(tmp_path: Path, row: str, what: str) -> None:
    rows = ['{"prompt":"x","response":"r"}'] * 300
    rows[100] = row
    with pytest.raises(InputError) as error:
        read(tmp_path, "a.json", "[\n" + ",\n".join(rows) + "\n]")
    assert str(error.value) == f"a.json:102: {what}"


def test_json_lines_with_a_key_data_are_rows_of_their_own(tmp_path: Path) -> None:
    rows = [{"data": [{"role": "user"}]}, {"data": [{"role": "user"}]}]
    assert values(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows))) == rows
    assert values(tmp_path, "a.json", json.dumps({"messages": [{"role": "user"}]}, indent=1)) == [
        {"messages": [{"role": "user"}]}
    ]


def test_a_number_of_an_array_may_lie_across_two_blocks_of_the_file(tmp_path: Path) -> None:
    text = "[{}," + " " * (2**16 - 6) + "123456, {}]"
    rows = read(tmp_path, "a.json", text)
    assert [type(row).__name__ for row in rows] == ["Row", "Unreadable", "Row"]


def test_nested_values_of_arrow_and_parquet_are_lists_and_objects(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}]},
        {"messages": None},
    ]
    assert values(tmp_path, "a.parquet", parquet_of(rows)) == rows  # type: ignore[arg-type]
    assert values(tmp_path, "a.arrow", arrow_of(ipc.new_stream, rows)) == rows  # type: ignore[arg-type]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    out, column = pyarrow.BufferOutputStream(), pyarrow.array(["x"])
    parquet.write_table(pyarrow.Table.from_arrays([column, column], ["a", "a"]), out)
    with pytest.raises(InputError, match="two columns have one name, of a, a"):
        read(tmp_path, "a.parquet", bytes(out.getvalue()))


def test_a_dictionary_of_long_texts_is_read_a_few_rows_at_a_time(tmp_path: Path) -> None:
    from juicer.sources.files.arrow import _check_parquet

    text = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 1000, pyarrow.int32()), ["x" * 2**22])
    for compression in ("none", "zstd"):
        parquet.write_table(pyarrow.table({"a": text}), tmp_path / "a.parquet", compression=compression)
        with (tmp_path / "a.parquet").open("rb") as file:
            assert _check_parquet(parquet.read_metadata(file), file, 2**30, "a.parquet") == 15


def test_rows_of_a_folder_are_marked_and_named_as_the_source_is_written(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/test.jsonl").write_text(GOOD)
    Path("data/train.jsonl").write_text(GOOD + "x\n")
    for source in ("data", "data/", "data/*.jsonl", "./data/*"):
        shown = source.removesuffix("/").removesuffix("/*.jsonl").removesuffix("/*")
        read = [(file.word, row) for file, rows in rows_of_source(source) for row in rows]
        assert [word for word, _ in read] == ["test", None, None]
        assert [row for _, row in read][:2] == [
            Row({"a": "b"}, f"{shown}/test.jsonl:1", held_out=True),
            Row({"a": "b"}, f"{shown}/train.jsonl:1"),
        ]
        assert read[2][1].where == f"{shown}/train.jsonl:2"


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_list_of_messages_is_a_dialogue_without_a_key(tmp_path: Path, name: str) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello" * 5000}]
    lines, array = (json.dumps(turns) + "\n") * 2, json.dumps([turns, turns], indent=1)
    for text in (lines, array):
        (tmp_path / name).write_text(text)
        ((_, rows),) = rows_of_source(str(tmp_path / name))
        assert [row.values for row in rows if isinstance(row, Row)] == [{"messages": turns}] * 2
