"""dvc.lock is written by the entry with the bytes that DVC gives it by writing the whole file."""

import errno
import json
from collections import OrderedDict
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dvc.utils.serialize import modify_yaml
from dvc.utils.serialize._yaml import _get_yaml
from ruamel.yaml import YAML

from dev.reference import as_lock
from juicer.running import dvc_patches, lock_text
from juicer.running.dvc_patches import write_entries
from juicer.running.lock_text import NotPlain, blocks_of, joined

ODD: dict[str, Any] = {
    "quoted": [
        "yes: no",
        "",
        "1",
        "1e-5",
        "010",
        "null",
        "~",
        "2020-01-01",
        "*a",
        "- a",
        "it's",
        'say "x"',
        "a\\b",
        "@k",
    ],
    "long": ["word " * 60, "x" * 300, "'a' " * 40, "https://x.y/" + "a/" * 100, "a  b   c " * 30],
    "lines": ["a\nb\n\n c\n", "a\nb", "\n a\n", ("word " * 40 + "\n") * 3, "trailing \n", " lead", "a\tb", "a\r\nb"],
    "unicode": ["héllo ∀ 漢字 🎉", "漢字 " * 60, "a\x07b", "\ufeffx", "a\u2028b", "next\x85line"],
    "numbers": [1e-05, 3e-4, 1e22, 1.5, float("inf"), -0.0, 10**20, True, None],
    "nested": [[1, [2, None]], [], {}, {"a": [{"b": 1, "c": [1, 2]}]}],
    "comments": ["a # b", "say # it " * 30],
    "anchored": ["&b", "<<"],
}
PLAIN = {"quoted", "long", "lines", "numbers", "nested"}
"""Kinds that are written by the entry; the others are left to DVC, for one of their values at least."""


def whole(lock: Path, entries: dict[str, Any]) -> None:
    """What `Lockfile.dump_stages` does to the file."""
    with modify_yaml(str(lock)) as data:
        if not data:
            data.update({"schema": "2.0"})
        data["stages"] = data.get("stages", {})
        data["stages"].update(entries)


def by_entry(lock: Path, entries: dict[str, Any]) -> None:
    """What is done in its place."""
    try:
        write_entries(lock, entries, lambda line: None)
    except NotPlain:
        whole(lock, entries)


def entry(**params: Any) -> "OrderedDict[str, Any]":
    """As DVC makes it: ordered mappings, and the values of the parameters as they are in params.yaml."""
    files = [{"path": "data/raw", "hash": "md5", "md5": "0" * 32 + ".dir", "size": 3, "nfiles": 2}]
    listed = OrderedDict({"params.yaml": OrderedDict(sorted(params.items()))})
    # Without what is shared between them, which DVC would write once.
    return deepcopy(OrderedDict(cmd="python -m tasks.sft --out @key", deps=files, params=listed, outs=deepcopy(files)))


def test_the_lock_of_the_reference_run_consists_of_blocks_and_each_is_what_dvc_writes() -> None:
    text = as_lock()
    blocks, values = blocks_of(text), YAML(typ="safe").load(text)["stages"]
    assert joined(blocks.values()) == text
    assert list(blocks) == list(values)
    names = list(values)[::9]
    assert [lock_text.block_of(name, values[name], _get_yaml()) for name in names] == [blocks[name] for name in names]


@pytest.mark.parametrize("kind", ODD)
def test_an_entry_of_odd_values_has_the_bytes_of_dvc(kind: str, tmp_path: Path) -> None:
    ours, dvcs = tmp_path / "ours.lock", tmp_path / "dvcs.lock"
    for number, value in enumerate(ODD[kind]):
        entries = {f"stage@{number}": entry(value=value, listed=[deepcopy(value)], nested={"deep": deepcopy(value)})}
        by_entry(ours, entries)
        whole(dvcs, entries)
        assert ours.read_bytes() == dvcs.read_bytes(), value
    if kind in PLAIN:
        blocks_of(ours.read_text(encoding="utf-8"))
    again = {"stage@0": entry(value="changed")}
    by_entry(ours, again)
    whole(dvcs, again)
    assert ours.read_bytes() == dvcs.read_bytes()


@pytest.mark.parametrize(
    "text",
    [
        "schema: '2.0'\nstages: {}\n",
        "schema: '2.0'\nstages:\n  a:\n    cmd: x\ndatasets: []\n",
        "schema: '2.0'\nstages:\n  'a b':\n    cmd: x\n",
        "schema: '2.0'\nstages:\n  a:\n    cmd: x  # why\n",
        "schema: '2.0'\nstages:\n  a: &one\n    cmd: x\n",
        "schema: '2.0'\nstages:\n  a:\n    cmd: x\n  a:\n    cmd: y\n",
        "schema: '2.0'\nstages:\n  a:\n    cmd: x",
        "schema: '2.0'\nstages:\n  a:\n",
        "stages:\n  a:\n    cmd: x\nschema: '2.0'\n",
        "<<<<<<< HEAD\n",
    ],
)
def test_what_dvc_does_not_write_for_stages_alone_is_left_to_dvc(text: str, tmp_path: Path) -> None:
    lock = tmp_path / "dvc.lock"
    lock.write_text(text)
    with pytest.raises(NotPlain):
        write_entries(lock, {"b": entry()}, print)
    assert lock.read_text() == text


def test_a_full_disk_is_an_error_and_dvc_does_not_empty_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    whole_file = list[str]()
    dump_stages = dvc_patches.by_entry(lambda *given, **options: whole_file.append("dumped"))
    monkeypatch.setattr(lock_text, "replace_lock", full)
    monkeypatch.setattr(dvc_patches, "_entries", lambda stages, options: {"a": entry()})
    lock = SimpleNamespace(path=str(tmp_path / "dvc.lock"), relpath="dvc.lock")
    with pytest.raises(OSError, match="No space left"):
        dump_stages(lock, ["a"])
    dump_stages(lock, [])
    assert not whole_file and not (tmp_path / "dvc.lock").exists()


def test_the_lock_is_replaced_where_dvc_s_temporary_files_are_on_another_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, rename = tmp_path / "dvc.lock", Path.replace

    def between_disks(path: Path, to: Path) -> Path:
        if path.parent != Path(to).parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(path, to)

    monkeypatch.setattr(Path, "replace", between_disks)
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    lock_text.replace_lock(lock, "text")
    assert lock.read_text() == "text"


def test_only_a_difference_counts_as_a_change(tmp_path: Path) -> None:
    lock, said = tmp_path / "dvc.lock", list[str]()
    assert write_entries(lock, {"a": entry(rate=1e-05)}, said.append)
    assert said == ["Generating lock file '%s'", "Updating lock file '%s'"]
    assert not write_entries(lock, {"a": entry(rate=1e-05)}, said.append)
    assert write_entries(lock, {"a": entry(rate=2e-05)}, said.append)
    assert said[2:] == ["Updating lock file '%s'"]


def test_new_entries_come_in_the_order_of_dvc_repro_even_after_a_kill(tmp_path: Path) -> None:
    lock, record = tmp_path / "dvc.lock", tmp_path / "order.json"
    write_entries(lock, {"old": entry()}, lambda line: None)
    opened = lock_text.order_of_lock(["old", "a", "b", "c"], lock, record)
    opened.__enter__()  # is killed: the block never ends
    write_entries(lock, {"c": entry(x=3)}, lambda line: None)
    assert json.loads(record.read_text()) == ["old"]
    with lock_text.order_of_lock(["old", "a", "b", "c"], lock, record):
        write_entries(lock, {"b": entry(x=2)}, lambda line: None)
        write_entries(lock, {"a": entry(x=1)}, lambda line: None)
        assert list(blocks_of(lock.read_text())) == ["old", "c", "b", "a"]
    assert list(blocks_of(lock.read_text())) == ["old", "a", "b", "c"]
    assert not record.exists()


def test_what_another_process_wrote_in_between_is_kept_and_a_known_text_is_not_cut_again(tmp_path, monkeypatch):
    lock, known = tmp_path / "dvc.lock", lock_text.Known()
    entry = {"cmd": "a", "outs": [{"path": "x", "md5": "0" * 32}]}
    write_entries(lock, {"one": entry}, lambda line: None, known)
    whole(lock, {"other": entry})
    write_entries(lock, {"two": entry}, lambda line: None, known)
    assert list(blocks_of(lock.read_text())) == ["one", "other", "two"]
    text = lock.read_text()
    monkeypatch.setattr(lock_text, "blocks_of", lambda text: pytest.fail("cut again"))
    assert list(known.blocks_of(text)) == ["one", "other", "two"]
