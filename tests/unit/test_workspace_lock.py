"""One folder has one writer: who comes second waits or is refused with a line, and changes nothing."""

import json
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from juicer import cli
from juicer.runtime.errors import InputError
from juicer.stages import workspace
from juicer.stages.dvc_files import KEPT, LOCK, keep_lock, mend_lock
from juicer.stages.workspace import HOLDER, TOKEN, hold, holder, share

OUT = "    outs:\n    - path: models/sft\n      hash: md5\n      md5: 0123456789abcdef0123456789abcdef.dir\n"
WHOLE = f"schema: '2.0'\nstages:\n  sft:\n    cmd: a\n{OUT}"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(TOKEN, raising=False)
    monkeypatch.setenv("DVC_STAGE", "sft")
    monkeypatch.setattr(workspace, "SECONDS", 0.01)
    monkeypatch.setattr(workspace, "LOOKING", 0.1)
    return tmp_path


@pytest.fixture
def somebody_else(monkeypatch):
    """Another command holds the folder."""
    with hold():
        token = os.environ.pop(TOKEN)
        yield
        os.environ[TOKEN] = token


def test_the_second_is_refused_with_the_name_of_the_first(somebody_else):
    with pytest.raises(InputError, match=rf"\(process {os.getpid()}, since 20.*\) is working in this folder"), hold():
        pytest.fail("both work")
    with pytest.raises(InputError, match="is working in this folder"), share():
        pytest.fail("a stage works beside")


def test_the_second_waits_and_says_for_whom_once(monkeypatch):
    said, got = [], threading.Event()

    def second():
        with hold(wait=True, say=said.append):
            got.set()

    with hold():
        token = os.environ.pop(TOKEN)
        thread = threading.Thread(target=second)
        thread.start()
        while not said:
            time.sleep(0.01)
        assert not got.wait(0.2)
        os.environ[TOKEN] = token
    thread.join(10)
    assert got.is_set()
    assert len(said) == 1 and said[0].startswith("waiting for ") and f"process {os.getpid()}" in said[0]


def test_what_the_holder_starts_works_in_the_folder_too():
    with hold() as held:
        assert holder().token == held.environment[TOKEN] == os.environ[TOKEN]
        with share(), hold() as inner:
            assert inner.environment == held.environment
    assert TOKEN not in os.environ
    with share(), share():
        pass


def test_a_token_of_a_holder_that_has_ended_is_worth_nothing(monkeypatch):
    with hold() as held:
        pass
    monkeypatch.setenv(TOKEN, held.environment[TOKEN])
    with share():
        monkeypatch.delenv(TOKEN)
        with pytest.raises(InputError, match="a stage that dvc repro started is working in this folder"), hold():
            pytest.fail("beside a stage")


def test_a_stage_begins_once_a_command_that_looked_for_its_turn_lets_go(somebody_else, monkeypatch):
    monkeypatch.setattr(workspace, "LOOKING", 10)
    tries = iter([False, False, True])
    monkeypatch.setattr(workspace, "_lock", lambda file, kind: next(tries))
    with share():
        assert next(tries, None) is None


def test_what_a_killed_holder_has_started_is_named_by_it(somebody_else):
    HOLDER.write_text(holder().model_copy(update={"process": 2**22 + 1}).model_dump_json())
    with pytest.raises(InputError, match=r"what .* had started before it was killed is working in this folder"), hold():
        pytest.fail("both work")


def test_a_damaged_note_about_the_holder_names_nobody_and_stops_nobody(somebody_else):
    HOLDER.write_text("{")
    with pytest.raises(InputError, match="is working in this folder"), hold():
        pytest.fail("both work")


def test_a_dvc_repro_that_was_started_by_hand_is_waited_for(monkeypatch):
    workspace.DVC_IN_USE.parent.mkdir(parents=True)
    uses = {"write": {"models/sft": {"pid": os.getpid(), "cmd": "dvc repro"}}, "read": {}}
    workspace.DVC_IN_USE.write_text(json.dumps(uses))
    monkeypatch.setattr("psutil.Process.cmdline", lambda self: [sys.executable, "/bin/dvc", "repro"])
    with pytest.raises(InputError, match=rf"dvc \(process {os.getpid()}\) is working in this folder"), hold():
        pytest.fail("both work")
    with share():
        pass
    monkeypatch.undo()
    with hold():  # the number belongs to something else now
        pass


@pytest.mark.parametrize(
    "damaged",
    [
        "", "schema: '2.0'\nstages:\n  sft: {cmd", "stages: 3\n", "- a\n", "schema: '2.0'\nstages:\n  sft:\n",
        WHOLE[:-8], WHOLE[:-45], WHOLE[:-60],
    ],
)  # fmt: skip
def test_a_dvc_lock_that_was_cut_short_comes_back(damaged):
    LOCK.write_text(WHOLE)
    keep_lock()
    LOCK.write_text(damaged)
    keep_lock()
    assert mend_lock() == "dvc.lock was cut short; it is as it was when the last stage began"
    assert LOCK.read_text() == WHOLE
    assert mend_lock() is None


def test_without_a_copy_of_dvc_lock_nothing_is_left_in_the_way():
    LOCK.write_text("")
    assert "there is no copy" in mend_lock()
    assert not LOCK.exists() and mend_lock() is None
    assert not KEPT.exists()


def test_activation_in_a_folder_in_use_changes_nothing(somebody_else, capsys, folder):
    (folder / "recipes").mkdir()
    (folder / "tasks").mkdir()
    (folder / "dvc.yaml").touch()
    for path in ("recipes/quickstart.yaml", "params.yaml"):
        (folder / path).write_text((Path(__file__).parents[2] / path).read_text())
    before = (folder / "params.yaml").read_bytes()
    with pytest.raises(SystemExit) as ended:
        cli.app(["use", "quickstart", "seed=5"], prog_name="juicer")
    assert ended.value.code == 1
    assert "is working in this folder" in capsys.readouterr().err
    assert (folder / "params.yaml").read_bytes() == before
