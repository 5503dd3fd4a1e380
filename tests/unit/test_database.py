"""MLflow's database: whole or absent, replaced only if it is broken, and portable with its project."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from juicer.registry import database
from juicer.registry.database import fault_of, make_portable, prepare
from juicer.runtime.errors import InputError

# MLflow's own use of SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
STORE = "sqlite:///mlflow.db"


@pytest.fixture
def store(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sound store in the working directory; another one is made in no time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(database, "PATIENCE", 0.2)
    monkeypatch.setattr(database, "_make", lambda path: shutil.copy(empty_store, path))
    shutil.copy(empty_store, "mlflow.db")
    return tmp_path / "mlflow.db"


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as opened, opened:
        for each in statements:
            opened.execute(each)


def half_made(path: Path) -> None:
    change(path, "DELETE FROM experiments", "UPDATE alembic_version SET version_num = '90e64c465722'")


def malformed(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 40_000)


BROKEN = {
    "it is empty": lambda path: path.write_bytes(b""),
    "it is not a database": lambda path: path.write_bytes(b"\0" * 8192),
    "it is malformed": malformed,
    "its tables are incomplete": half_made,
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_store_is_kept_under_another_name_and_replaced_with_one_line(
    fault: str, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    BROKEN[fault](store)
    before = store.read_bytes()
    prepare(STORE)
    assert fault_of(store) == ""
    (kept,) = store.parent.glob("mlflow.db.broken-*")
    assert kept.read_bytes() == before
    said = capsys.readouterr().err
    assert f"mlflow.db was broken ({fault}); it is kept as {kept.name}" in said
    assert "(champion)" in said
    assert said.count("\n") == 1


def test_a_sound_store_is_left_alone(store: Path) -> None:
    change(store, "INSERT INTO registered_models (name, workspace) VALUES ('mine', 'default')")
    prepare(STORE)
    assert [path.name for path in store.parent.glob("mlflow.db*")] == ["mlflow.db"]


@pytest.mark.parametrize(
    ("statement", "line"),
    [
        ("UPDATE alembic_version SET version_num = 'from2030'", "tables of another MLflow .*from2030"),
        ("UPDATE alembic_version SET version_num = '90e64c465722'", "tables of another MLflow .*mlflow db upgrade"),
    ],
    ids=["newer", "older"],
)
def test_a_store_of_another_mlflow_is_refused_and_stays(statement: str, line: str, store: Path) -> None:
    change(store, statement, "DROP TABLE job_locks")
    before = store.read_bytes()
    with pytest.raises(InputError, match=line):
        prepare(STORE)
    assert store.read_bytes() == before


def test_a_store_that_another_process_has_locked_is_refused_and_stays(store: Path) -> None:
    half_made(store)
    with closing(sqlite3.connect(store)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(InputError, match="another process has locked MLflow's database"):
            prepare(STORE)
    assert not list(store.parent.glob("*broken*"))


def test_a_folder_or_another_programs_database_in_its_place_is_refused_at_once(store: Path) -> None:
    store.unlink()
    change(store, "CREATE TABLE flow_run (id)")
    with pytest.raises(InputError, match="of another program"):
        prepare(STORE)
    store.unlink()
    store.mkdir()
    with pytest.raises(InputError, match="a folder is in the place of MLflow's database"):
        prepare(STORE)
    Path("README.md").write_text("text")
    with pytest.raises(InputError, match="cannot be opened: file is not a database"):
        prepare("sqlite:///README.md")
    assert Path("README.md").read_text() == "text"


def places(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as opened:
        rows = opened.execute("SELECT artifact_location FROM experiments UNION SELECT artifact_uri FROM runs")
        return [place for (place,) in rows]


def lies_in(path: Path, root: str) -> None:
    run = f"INSERT INTO runs (run_uuid, artifact_uri) VALUES ('abc', '{root}/mlruns/0/abc/artifacts')"
    change(path, f"UPDATE experiments SET artifact_location = '{root}/mlruns/0'", run)


def test_places_in_this_project_and_where_it_was_before_become_relative(store: Path, tmp_path: Path) -> None:
    (tmp_path / "original").mkdir()
    (tmp_path / "original/dvc.yaml").touch()
    for root in (str(tmp_path), f"{tmp_path}/original", "/no/longer/there"):
        change(store, "DELETE FROM runs")
        lies_in(store, root)
        make_portable(store)
        assert places(store) == ["mlruns/0", "mlruns/0/abc/artifacts"]


def test_places_that_were_chosen_for_artifacts_stay(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").mkdir()
    lies_in(store, f"{tmp_path}/disk")
    make_portable(store)
    assert f"{tmp_path}/disk/mlruns/0" in places(store)
    change(store, "UPDATE experiments SET artifact_location = 's3://bucket/mlruns/0'")
    make_portable(store)
    assert "s3://bucket/mlruns/0" in places(store)
    monkeypatch.chdir(tmp_path / "disk")
    lies = places(store)
    make_portable(store)
    assert places(store) == lies, "several projects may share a store outside of them"
