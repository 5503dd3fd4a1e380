"""What a stage reads is hashed as DVC hashes it, and compared with what is there when the stage ends."""

import json
import os
import sqlite3
from pathlib import Path

import pytest

from juicer.runtime.errors import InputError
from juicer.runtime.files import read_yaml
from juicer.stages import finished, recorded
from juicer.stages.attempts import alone
from juicer.stages.cancellation import check_started
from juicer.stages.dvc_files import DvcLock
from juicer.stages.hashes import SMALL, TABLE, md5_of
from juicer.stages.pipeline import Declared, declared_of, declared_stages, pipeline
from juicer.stages.reading import Reading, Watch, check_made, loaded_modules, process_started

ROOT = Path(__file__).resolve().parents[2]
LISTED = Declared(inputs=("data", "code.py"), parameters=("seed", "sft.epochs"), outputs=("out",))
VALUES = {"seed": 1, "sft": {"epochs": 2.0}}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A project with an input folder and a module."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/rows").write_text("rows")
    (tmp_path / "code.py").write_text("pass")
    (tmp_path / "params.yaml").write_text(json.dumps(VALUES))
    return tmp_path


@pytest.fixture
def watch(folder):
    return Watch.begin("sft", LISTED, Path("params.yaml"), VALUES)


@pytest.mark.parametrize("path", ["juicer", "juicer/stages", "juicer/scorers", "tasks/sft.py", "docs", "recipes"])
def test_a_hash_is_the_one_that_dvc_gives(path, monkeypatch):
    from dvc.fs import LocalFileSystem
    from dvc.ignore import DvcIgnoreFilter
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.db import HashFileDB

    disk = LocalFileSystem()
    ignore = DvcIgnoreFilter(disk, str(ROOT))
    _, _, built = build(HashFileDB(disk, "nowhere"), str(ROOT / path), disk, "md5", dry_run=True, ignore=ignore)
    monkeypatch.chdir(ROOT)
    assert md5_of(Path(path)) == built.hash_info.value


def test_a_large_file_is_read_again_only_after_a_change(folder, monkeypatch):
    file = folder / "large"
    file.write_bytes(b"a" * SMALL)
    first = md5_of(file, remember=True)
    monkeypatch.setattr("juicer.stages.hashes.md5_of_file", lambda path: pytest.fail("read again"))
    assert md5_of(file, remember=True) == first
    monkeypatch.undo()
    file.write_bytes(b"b" * SMALL)
    assert md5_of(folder / "large", remember=True) != first


def test_a_damaged_table_of_hashes_costs_time_only(folder):
    file = folder / "large"
    file.write_bytes(b"a" * SMALL)
    expected = md5_of(file)
    (folder / TABLE).parent.mkdir()
    (folder / TABLE).write_text("not a database, but long enough to be looked at as one" * 20)
    with pytest.raises(sqlite3.DatabaseError):
        sqlite3.connect(TABLE).execute("SELECT 1 FROM files")
    assert md5_of(file, remember=True) == expected


def test_dvc_yaml_is_resolved_as_dvc_resolves_it(monkeypatch):
    monkeypatch.chdir(ROOT)
    params = read_yaml(Path("params.yaml"))
    expected = {each.name: tuple(map(sorted, (each.inputs, each.parameters, each.outputs))) for each in pipeline(ROOT)}
    found = {
        name: tuple(map(sorted, (each.inputs, each.parameters, each.outputs)))
        for name, each in declared_stages(params).items()
    }
    assert found == expected
    assert declared_of("sft", params).outputs == ("models/sft",)
    assert declared_of("irft_train@r99", params) is None


def test_nothing_has_changed_where_nothing_was_touched(watch):
    assert watch.change().what == ()
    assert not watch.change().doubtful


CHANGES = {
    "seed (read: 1)": lambda: Path("params.yaml").write_text(json.dumps({**VALUES, "seed": 2})),
    "sft.epochs (read: 2.0)": lambda: Path("params.yaml").write_text(json.dumps({**VALUES, "sft": {}})),
    "data": lambda: Path("data/rows").write_text("other"),
    "code.py": lambda: Path("code.py").write_text("1"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_named(watch, what):
    CHANGES[what]()
    assert watch.change().what == (what,)


def test_an_added_or_removed_file_of_an_input_is_a_change(watch):
    Path("data/more").touch()
    assert watch.change().what == ("data",)
    Path("data/more").unlink()
    Path("code.py").unlink()
    assert watch.change().what == ("code.py",)


def test_parameters_that_cannot_be_read_now_have_changed(watch):
    Path("params.yaml").write_text("seed: [")
    assert watch.change().what == ("seed (read: 1)", "sft.epochs (read: 2.0)")


def test_only_a_change_of_parameters_or_of_loaded_modules_leaves_no_doubt_about_the_work(watch):
    CHANGES["seed (read: 1)"]()
    assert not watch.change().doubtful
    watch._loaded.add(Path("code.py"))
    CHANGES["code.py"]()
    assert not watch.change().doubtful
    CHANGES["data"]()
    assert watch.change().doubtful


def test_an_input_that_was_changed_and_changed_back_is_in_doubt(watch):
    Path("data/rows").write_text("other")
    Path("data/rows").write_text("rows")
    os.utime("data/rows", ns=(1, 1))
    assert watch.change().what == ("data/rows (changed and changed back)",)
    assert watch.change().doubtful


def test_a_module_that_was_loaded_before_it_changed_may_change_back(watch):
    watch._loaded.add(Path("code.py"))
    Path("code.py").write_text("1")
    Path("code.py").write_text("pass")
    os.utime("code.py", ns=(1, 1))
    assert watch.change().what == ()


def test_a_module_that_changed_while_the_process_started_is_refused(folder, monkeypatch):
    monkeypatch.setattr("juicer.stages.reading.loaded_modules", lambda: {Path("code.py")})
    with pytest.raises(InputError, match=r"^code\.py: the file changed while this stage started \(run it again\)$"):
        Watch.begin("sft", LISTED, Path("params.yaml"), VALUES)
    monkeypatch.setattr("juicer.stages.reading.process_started", lambda: Path("code.py").stat().st_ctime + 1)
    assert Watch.begin("sft", LISTED, Path("params.yaml"), VALUES).reading.params == {"seed": 1, "sft.epochs": 2.0}


def test_loaded_modules_are_known_by_their_place_in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert Path("juicer/stages/reading.py") in loaded_modules()


def test_the_start_of_a_process_is_known_to_a_fraction_of_a_second():
    import psutil

    assert process_started() == pytest.approx(psutil.Process().create_time(), abs=2)


LOCK = """
stages:
  curate: {cmd: a, outs: [{path: data, md5: X}]}
  gone: {cmd: a, outs: [{path: code.py, md5: Y}]}
"""


def test_an_input_that_is_not_what_the_stage_before_made_is_refused(folder):
    Path("dvc.lock").write_text(LOCK)
    Path("dvc.yaml").write_text("stages: {curate: {cmd: a, outs: [data]}}")
    lock = DvcLock.read(Path("dvc.lock"))
    check_made({"data": "X", "code.py": "Z"}, lock)  # dvc.yaml no longer has the stage that made code.py
    with pytest.raises(InputError, match=r"^data: its md5 is Z, but curate made X: .*\(juicer run makes it again\)"):
        check_made({"data": "Z"}, lock)


READING = Reading(stage="sft", params={"seed": 1}, inputs={"data": "X"})


@pytest.mark.parametrize(("seed", "data", "wrong"), [(1, "X", None), (2, "X", ["seed (read: 1)"]), (1, "Y", ["data"])])
def test_dvc_lock_is_compared_with_what_a_stage_read(folder, seed, data, wrong):
    recorded.expect(READING, {"models/sft": "M"})
    entry = {"params": {"params.yaml": {"seed": seed}}, "deps": [{"path": "data", "md5": data}]}
    lock = DvcLock(Path("dvc.lock"), {"sft": {**entry, "outs": [{"path": "models/sft", "md5": "M"}]}}, {})
    assert recorded.compare(lock) == ({"sft": wrong} if wrong else {})
    assert Path(".juicer/read/sft.json").exists() == (wrong is not None)
    other = DvcLock(Path("dvc.lock"), {"sft": {**entry, "outs": [{"path": "models/sft", "md5": "N"}]}}, {})
    assert recorded.compare(other) == {}


def test_a_finished_output_is_found_by_what_was_read_and_only_while_it_is_whole(folder):
    (folder / "out").mkdir()
    (folder / "out/weights").write_text("weights")
    finished.keep("sft", "digest", folder / "out")
    assert finished.find("sft", "another") is None
    kept = finished.find("sft", "digest")
    assert (kept.output / "weights").read_text() == "weights"
    (kept.output / "weights").write_text("damaged")
    assert finished.find("sft", "digest") is None


def test_a_stage_waits_for_another_process_that_runs_it_and_then_refuses(folder, monkeypatch, capsys):
    monkeypatch.setattr("juicer.stages.attempts.SECONDS_TO_END", 0.1)
    with (
        alone("sft"),
        alone("irft_train@r1"),
        pytest.raises(InputError, match="sft: another process has been running this stage here"),
        alone("sft"),
    ):
        pytest.fail("both run")
    assert capsys.readouterr().out == "sft: waiting for another process that runs this stage here\n"
    with alone("sft"):
        pass


@pytest.mark.parametrize(
    ("in_use", "ended"),
    [
        (None, False),
        ('{"write": {"models/sft": {"pid": PARENT, "cmd": "dvc"}}, "read": {}}', False),
        ('{"write": {}, "read": {"data": [{"pid": PARENT, "cmd": "dvc"}]}}', False),
        ('{"write": {"models/sft": {"pid": 4194305, "cmd": "dvc"}}, "read": {}}', True),
        ("", True),
        ("[]", True),
    ],
)
def test_a_stage_knows_whether_the_dvc_that_started_it_has_ended(folder, monkeypatch, in_use, ended):
    monkeypatch.setenv("DVC_STAGE", "sft")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr("juicer.stages.cancellation.SECONDS_TO_WRITE", 0.0)
    if in_use is not None:
        Path(".dvc/tmp").mkdir(parents=True)
        Path(".dvc/tmp/rwlock").write_text(in_use.replace("PARENT", str(os.getppid())))
    if ended:
        with pytest.raises(InputError, match=r"^sft: the DVC that started this stage has ended"):
            check_started()
    else:
        check_started()


def test_a_stage_looks_again_if_dvc_is_writing_which_files_are_in_use(monkeypatch):
    monkeypatch.setenv("DVC_STAGE", "sft")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    found = iter([set[int](), set[int](), {os.getppid()}])
    monkeypatch.setattr("juicer.stages.cancellation.dvc_processes", lambda: next(found))
    check_started()
    assert next(found, None) is None
