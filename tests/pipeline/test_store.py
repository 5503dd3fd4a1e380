"""MLflow's SQLite store beside other processes, and in a project that is copied or moved."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from juicer.registry import database
from juicer.registry.database import fault_of, prepare
from juicer.registry.ensure import experiment_of
from juicer.registry.store import connect
from juicer.runtime.errors import InputError
from tests.conftest import ROOT

# MLflow's own use of SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


def test_a_broken_store_that_another_process_has_open_is_refused_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "PATIENCE", 0.2)
    store = tmp_path / "mlflow.db"
    store.touch()
    with store.open("rb") as file, subprocess.Popen(["sleep", "60"], stdin=file) as other:
        with pytest.raises(InputError, match=rf"and process {other.pid} \(sleep\) has it open"):
            prepare(f"sqlite:///{store}")
        other.kill()
    assert not list(tmp_path.glob("*broken*"))


def test_a_process_that_is_killed_while_it_makes_the_store_leaves_none(tmp_path: Path) -> None:
    code = "from juicer.registry.database import prepare; prepare('sqlite:///mlflow.db')"
    making, environment = tmp_path / "mlflow.db.making", {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL
    ) as process:
        while not (making.exists() and making.stat().st_size > 100_000):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert fault_of(making) == "its tables are incomplete"
    assert not (tmp_path / "mlflow.db").exists()


def test_one_process_has_a_store_in_each_folder_that_it_enters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        with connect("sqlite:///mlflow.db") as client:
            client.create_run(experiment_of(client, name))
    for name in ("one", "two"):
        monkeypatch.chdir(tmp_path / name)
        assert fault_of(Path("mlflow.db")) == ""
        with connect("sqlite:///mlflow.db") as client:
            assert {each.name for each in client.search_experiments()} == {"Default", name}
            assert "MLFLOW_TRACKING_URI" not in os.environ, "else what is started elsewhere would write here"


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.glob("mlruns/**/*") if path.is_file()}


def test_a_copy_and_a_moved_project_have_their_old_artifacts_and_write_new_ones_in_their_own_folder(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, copy, moved = (tmp_path / name for name in ("original", "copy", "moved"))
    original.mkdir()
    shutil.copy(empty_store, original / "mlflow.db")
    monkeypatch.chdir(original)
    with connect(f"sqlite:///{original}/mlflow.db") as client:
        run = client.create_run(experiment_of(client, "quickstart")).info.run_id
        client.log_text(run, "old", "old.txt")
    shutil.copytree(original, copy)
    before = files(original)
    monkeypatch.chdir(copy)
    with connect(f"sqlite:///{copy}/mlflow.db") as client:
        assert Path(client.download_artifacts(run, "old.txt")).read_text() == "old"
        client.log_text(run, "new", "new.txt")
        client.log_text(client.create_run("1").info.run_id, "new", "new.txt")
    assert files(original) == before
    assert len(files(copy)) == 3
    copy.rename(moved)
    monkeypatch.chdir(moved)
    with connect(f"sqlite:///{moved}/mlflow.db") as client:
        assert Path(client.download_artifacts(run, "new.txt")).read_text() == "new"
        client.log_text(run, "newer", "newer.txt")
    assert not copy.exists()
