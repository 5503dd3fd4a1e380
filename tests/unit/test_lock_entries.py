"""The entries of dvc.lock are cut out of its text as a parser would give them; a damaged file gives none."""

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from dev.reference import as_lock
from juicer.stages.dvc_files import DvcLock, _is_whole
from juicer.stages.lock_entries import Entries

TEXT = as_lock()


def parsed(text: str) -> dict:
    """The entries as YAML has them, of files only path and md5."""
    entries = YAML(typ="safe").load(text)["stages"]
    for entry in entries.values():
        for kind in {"deps", "outs"} & entry.keys():
            entry[kind] = [{"path": each["path"], "md5": each["md5"]} for each in entry[kind]]
    return entries


def test_every_entry_is_what_a_parser_makes_of_it():
    entries = Entries.of(TEXT)
    expected = parsed(TEXT)
    assert list(entries) == list(expected)
    assert dict(entries) == expected
    for name, entry in expected.items():
        assert entries.files(name, "deps") == [(each["path"], each["md5"]) for each in entry.get("deps", [])]


ODD = """schema: '2.0'
stages:
  odd@a b:
    cmd: python -m work --text 'a
      b' --out out
    deps:
    - path: 'a: b'
      hash: md5
      md5: 0123456789abcdef0123456789abcdef
      size: 1
    - path: with # sharp and a very long name that goes on and on until
        the line is broken
      hash: md5
      md5: 0123456789abcdef0123456789abcdef.dir
      size: 1
    params:
      other.yaml:
        seed: 1e-4
      params.yaml:
        words: "a\\n\\n  deps:"
    outs:
    - path: out
      hash: md5
      md5: 0123456789abcdef0123456789abcdef
"""


def test_what_is_not_as_usual_is_left_to_the_parser():
    text = ODD.replace("with # sharp", "with sharp")
    entries = Entries.of(text)
    entry = parsed(text)["odd@a b"]
    assert entries["odd@a b"]["cmd"] == entry["cmd"] and entries["odd@a b"]["params"] == entry["params"]
    assert entries.files("odd@a b", "deps") == [(each["path"], each["md5"]) for each in entry["deps"]]
    assert entries.files("odd@a b", "outs") == [("out", "0123456789abcdef0123456789abcdef")]


def test_a_parameter_that_is_a_list_is_read_and_so_are_those_of_another_file():
    lists = "      params.yaml:\n        tasks:\n        - arc\n        - a: 1\n        -\n"
    text = re.sub(r"    params:\n(?:      .*\n)+", f"    params:\n{lists}", ODD.replace("with # sharp", "with sharp"))
    for each in (text, text.replace(lists, f"{lists}      other.yaml:\n        seed: 1\n")):
        params = Entries.of(each)["odd@a b"]["params"]
        assert params == parsed(each)["odd@a b"]["params"]
        assert params["params.yaml"]["tasks"] == ["arc", {"a": 1}, None]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: text.rindex("md5: ") + 12],
        lambda text: text[: text.rindex("cmd: ")],
        lambda text: text[:2000] + "\0" * 4096 + text[6096:],
        lambda text: text.replace("  sft:\n", "<<<<<<< HEAD\n  sft:\n"),
    ],
)
def test_a_file_that_is_empty_cut_or_overwritten_is_not_whole(damage):
    assert _is_whole(TEXT)
    assert not _is_whole(damage(TEXT))


def test_a_part_is_cut_out_of_the_text_and_reads_as_the_same(tmp_path):
    lock = DvcLock.of(TEXT, Path("dvc.lock"))
    names = lock.upstream("sft")
    (tmp_path / "dvc.lock").write_text(lock.part(names))
    part = DvcLock.read(tmp_path / "dvc.lock")
    assert {name: part.stages[name] for name in part.stages} == {name: lock.stages[name] for name in names}
    assert part.md5("models/sft") == lock.md5("models/sft")
