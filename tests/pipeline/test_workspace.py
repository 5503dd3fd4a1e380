"""The folder that a flow works in, and what a flow that was killed leaves there."""

import json
from pathlib import Path

import pytest
import yaml

from flows.workspace import LOCK, ORDER, order_of_lock
from tests.tiny_graph import make


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(make(tmp_path))
    write("old")
    return tmp_path


def write(*stages: str) -> None:
    LOCK.write_text(json.dumps({"schema": "2.0", "stages": {name: {"cmd": "x"} for name in stages}}))


def entries() -> list[str]:
    return list(yaml.safe_load(LOCK.read_text())["stages"])


@pytest.mark.parametrize("half", ["", '["old", "qu', "\xff"])
def test_half_a_note_of_the_order_of_dvc_lock_stops_nobody(folder, half):
    ORDER.parent.mkdir(exist_ok=True)
    ORDER.write_text(half, encoding="latin-1")
    with order_of_lock(["first", "slow"]):
        write("old", "slow", "first")
    assert entries() == ["old", "first", "slow"]
    assert not ORDER.exists()


def test_a_run_that_was_killed_is_mended_by_the_next(folder):
    with pytest.raises(KeyboardInterrupt), order_of_lock(["first", "slow"]):
        write("old", "slow")
        noted = ORDER.read_bytes()
        raise KeyboardInterrupt
    ORDER.write_bytes(noted)  # as if it had been killed rather than interrupted
    with order_of_lock(["first", "slow"]):
        write("old", "slow", "first")
    assert entries() == ["old", "first", "slow"]
    assert [path.name for path in ORDER.parent.iterdir() if "order" in path.name] == []
