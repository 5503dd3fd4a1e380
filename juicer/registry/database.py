"""MLflow's store in a SQLite file: made whole or not at all, set aside if it is broken, and portable with its project.

MLflow makes its tables in hundreds of steps, and cannot go on where an interrupted process left them.
"""

import contextlib
import os
import re
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from juicer.runtime.errors import InputError
from juicer.runtime.files import remove

ARTIFACTS = "mlruns"
"""Folder of the artifacts in the project, MLflow's default for a SQLite store."""
LOCATIONS = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}
"""The columns of MLflow's tables that say where artifacts are."""
FIRST_TABLES = {"experiments", "runs", "tags", "metrics", "params"}
"""What MLflow makes before all else; a database that has none of them is another program's."""
SUFFIXES = {".db", ".sqlite", ".sqlite3"}
COMPANIONS = ("-journal", "-wal", "-shm")
"""What SQLite appends to the name of a database for files of its own."""
PATIENCE = 20.0
"""Seconds to wait for another process that uses the database."""
CHECKED_BYTES = 2**26
"""Size up to which every page is checked, which takes 0.1 s; in larger databases only the tables are looked at."""


def sqlite_file(uri: str) -> Path | None:
    """The database's file, None if `uri` is not SQLite."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


@contextlib.contextmanager
def locked(uri: str) -> Iterator[None]:
    """Allow one writer at a time: two processes that create or migrate a SQLite file at once corrupt it.

    A process that holds the lock may take it again.
    """
    from filelock import FileLock, Timeout

    database = sqlite_file(uri)
    lock = database.with_name(f"{database.name}.lock") if database else Path(".juicer/register.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock.absolute(), timeout=120, is_singleton=True):
            yield
    except Timeout as error:
        do = "wait for it to finish, or end it, then run again"
        raise InputError(
            "another process has been writing to MLflow for two minutes", where=str(lock), do=do
        ) from error


def prepare(uri: str) -> None:
    """Make the SQLite store at `uri` if there is none, and replace a broken one, which is kept and named in a warning.

    Raises:
        InputError: it cannot be used, and is not for this function to replace: it is locked by another process, has the
            tables of another MLflow or of another program, or is a folder.
    """
    database = sqlite_file(uri)
    if database is None:
        raise ValueError(uri)
    if not database.exists() or fault_of(database):
        with locked(uri):
            # Another process may have made or replaced it in the meantime.
            if not database.exists():
                _make(database)
            elif fault := _lasting_fault(database):
                aside = _set_aside(database)
                _make(database)
                _warn(database, fault, aside)
    make_portable(database)


def fault_of(database: Path) -> str:
    """What is broken about the store, in words; empty if it is sound.

    Raises:
        InputError: as for `prepare`.
    """
    if database.is_dir():
        do = "move it away, or name another file: register.tracking_uri"
        raise InputError("a folder is in the place of MLflow's database", where=str(database), do=do)
    if database.stat().st_size == 0:
        return "it is empty"
    try:
        with contextlib.closing(_open(database)) as store:
            if database.stat().st_size <= CHECKED_BYTES:
                (verdict,) = store.execute("PRAGMA quick_check(1)").fetchone()
                if verdict != "ok":
                    return "it is malformed"
            return _fault_of_tables(store, database)
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_CORRUPT:
            return "it is malformed"
        if code == sqlite3.SQLITE_NOTADB and database.suffix in SUFFIXES:
            return "it is not a database"
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            what, do = "another process has locked MLflow's database", "wait for it to finish, then run again"
        else:
            what, do = f"MLflow's database cannot be opened: {error}", "see register.tracking_uri"
        raise InputError(what, where=str(database), do=do) from error


def _open(database: Path) -> sqlite3.Connection:
    # Not read-only: what a killed process left half written is rolled back now.
    return sqlite3.connect(f"{database.absolute().as_uri()}?mode=rw", uri=True, timeout=PATIENCE)


def _fault_of_tables(store: sqlite3.Connection, database: Path) -> str:
    tables = {str(name) for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables - {"alembic_version"} and not tables & FIRST_TABLES:
        do = "name another file: register.tracking_uri"
        raise InputError("the database is of another program than MLflow", where=str(database), do=do)
    # MLflow adds a first experiment once it has made all tables, and none of its versions has a store without one.
    whole = "experiments" in tables and store.execute("SELECT 1 FROM experiments LIMIT 1").fetchone()
    has_revision = "alembic_version" in tables
    revision = store.execute("SELECT version_num FROM alembic_version").fetchone() if has_revision else None
    from mlflow.store.db.base_sql_model import Base
    from mlflow.store.db.utils import _get_latest_schema_revision

    found, newest = revision[0] if revision else "none", _get_latest_schema_revision()
    if whole and found != newest:
        what = f"the database has the tables of another MLflow (schema {found}; this one has {newest})"
        do = f"use that MLflow; or, if it is older, copy the file, then run: mlflow db upgrade sqlite:///{database}"
        raise InputError(what, where=str(database), do=do)
    return "its tables are incomplete" if found != newest or set(Base.metadata.tables) - tables else ""


def _lasting_fault(database: Path) -> str:
    """The fault, once no other process has the database open: MLflow's server may be making its tables."""
    deadline = time.monotonic() + PATIENCE
    while fault := fault_of(database):
        user = _user_of(database)
        if user is None:
            return fault
        if time.monotonic() > deadline:
            do = "end it, then run again"
            raise InputError(
                f"MLflow's database is broken ({fault}), and {user} has it open", where=str(database), do=do
            )
        time.sleep(0.5)
    return ""


def _user_of(database: Path) -> str | None:
    """Another process of this machine that has the database open, None if there is none that can be seen."""
    wanted = str(database.resolve())
    for process in psutil.process_iter(["name"]):
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and any(file.path == wanted for file in process.open_files()):
                return f"process {process.pid} ({process.name()})"
    return None


def _make(database: Path) -> None:
    """Make the tables in a file beside it, then rename that; the caller holds the lock."""
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    database.parent.mkdir(parents=True, exist_ok=True)
    making = database.with_name(f"{database.name}.making")
    _remove(making)
    try:
        # MLflow caches its connections by this address: a relative one would stay that of the first folder.
        store = SqlAlchemyStore(f"sqlite:///{making.absolute()}", ARTIFACTS)
        store.engine.dispose()
        # A journal without its database is not of this one, and would be played back into it.
        _remove(database)
        making.replace(database)
    finally:
        _remove(making)


def _remove(database: Path) -> None:
    for each in (database, *_companions(database)):
        remove(each)


def _companions(database: Path) -> list[Path]:
    return [database.with_name(f"{database.name}{end}") for end in COMPANIONS]


def _set_aside(database: Path) -> Path:
    """Rename the database, and what SQLite keeps beside it; returns its new name."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    aside = database.with_name(f"{database.name}.broken-{time.strftime('%Y%m%d-%H%M%S')}")
    for companion, end in zip(_companions(database), COMPANIONS, strict=True):
        if companion.exists():
            companion.rename(f"{aside}{end}")
    database.rename(aside)
    for engine in SqlAlchemyStore._engine_map.values():
        engine.dispose()  # MLflow in this process may still have the old file open
    return aside


def _warn(database: Path, fault: str, aside: Path) -> None:
    what = f"{database} was broken ({fault}); it is kept as {aside.name}, and a new one is filled from the record"
    lost = "aliases and decisions of promotions (champion), evaluations on demand and the runs of other recipes"
    print(f"warning: {what}: {lost} are not in it", file=sys.stderr, flush=True)


def make_portable(database: Path) -> None:
    """Make the places of artifacts relative to the project, as far as they lie in it or in the folder that it was in.

    MLflow writes whole paths: after a move they would be lost, and a copy of the project would write into the original.
    Nothing changes for a database outside the working directory, which several projects may share.
    """
    here = Path.cwd()
    if not database.resolve().is_relative_to(here):
        return
    with contextlib.closing(_open(database)) as store, store:
        rows = store.execute("SELECT experiment_id, artifact_location FROM experiments").fetchall()
        found = [re.fullmatch(rf"(?:file://)?(/.*)/{ARTIFACTS}/{number}", place or "") for number, place in rows]
        for root in {Path(each[1]) for each in found if each}:
            if _was_here(root, database, here):
                _make_relative(store, root)


def _was_here(root: Path, database: Path, here: Path) -> bool:
    """Whether the project was in `root` before it was moved or copied; else that is a place chosen for artifacts."""
    marks = (root / database.resolve().relative_to(here), root / "dvc.yaml", here / ARTIFACTS)
    return root == here or not root.exists() or any(mark.exists() for mark in marks)


def _make_relative(store: sqlite3.Connection, root: Path) -> None:
    for start in (f"{root}/", f"file://{root}/"):
        for table, columns in LOCATIONS.items():
            for column in columns:
                store.execute(
                    f"UPDATE {table} SET {column} = substr({column}, ?) WHERE substr({column}, 1, ?) = ?",  # noqa: S608
                    (len(start) + 1, len(start) + len(ARTIFACTS) + 1, f"{start}{ARTIFACTS}/"),
                )
