"""Move the aliases champion and previous together, one process at a time, even if a process or MLflow fails midway.

MLflow moves one alias per request. The move is therefore first written to a journal (a tag of the registered model).
Then `previous` moves, then `champion`, which is the alias that is served; then the list of earlier champions is updated
and the run that records the decision is ended. The next process to move aliases repairs an interrupted move: it rolls
the move back if champion had not moved, and completes it, list and record included, if it had. The aliases alone do not
tell which (tests/unit/test_aliases.py). The lock is a registered model with a reserved name: MLflow creates a name only
once, on any store and from any machine.
"""

import contextlib
import fcntl
import itertools
import json
import os
import socket
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psutil

from juicer.registry.database import sqlite_file
from juicer.registry.store import connect, every_page
from juicer.runtime.errors import InputError

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION, PREVIOUS = "champion", "previous"
JOURNAL = "juicer.aliases_moving"
EARLIER = "juicer.earlier_champions"
"""Tag of the registered model: the versions that were champion before this one, oldest first."""
LONGEST = 500
"""Maximum length of that list: MLflow's SQL stores limit a tag to 5000 characters."""
MOVED, NOT_MOVED = "moved", "not moved"
PATIENCE = 60.0
"""Seconds to wait for another process that holds the lock."""
RETRIES, PAUSE = 3, 1.0
"""How many times, and after how many seconds, a request is retried when the server cannot be reached."""

Places = dict[str, str]
"""Alias to version number; an alias that is not set has no entry."""


def aliases_set(uri: str, name: str) -> list[str]:
    """The aliases of a registered model, in order; none without such a store or model.

    A SQLite store is asked directly, because importing MLflow takes seconds; one that does not exist is not made.

    Raises:
        InputError: the store cannot be read.
    """
    database = sqlite_file(uri)
    if database is None:
        with connect(uri) as client:
            held = [each for each in every_page(client.search_registered_models) if each.name == name]
            return sorted(alias for each in held for alias in each.aliases)
    if not database.is_file():
        return []
    try:
        with contextlib.closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as store:
            rows = store.execute("SELECT alias FROM registered_model_aliases WHERE name = ?", (name,)).fetchall()
    except sqlite3.Error as error:
        raise InputError(f"MLflow's store fails: {error}", where=str(database)) from error
    return sorted(str(alias) for (alias,) in rows)


class Aliases:
    """The aliases of one registered model."""

    def __init__(self, client: "MlflowClient", name: str) -> None:
        self._client, self._name = client, name
        self._lock = f"{name}.aliases-moving"

    def now(self) -> Places:
        """Where champion and previous point. During a move, where they pointed before it or will point after it."""
        places, journal = self._read()
        return places if journal is None else _settled(places, journal)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock. An interrupted move of an earlier process is repaired first.

        Raises:
            InputError: another process has held the lock for longer than `PATIENCE`.
        """
        token = self._acquire()
        try:
            self._recover()
            yield
        finally:
            self._release(token)

    def earlier(self) -> list[str]:
        """The versions that were champion before this one, oldest first; the last is `previous`. Needs the lock."""
        model = self._client.get_registered_model(self._name)
        if PREVIOUS not in model.aliases:
            return []
        versions = every_page(self._client.search_model_versions, filter_string=f"name = '{self._name}'")
        existing = {str(version.version) for version in versions}
        kept = [number for number in json.loads(model.tags.get(EARLIER, "[]")) if number in existing]
        if kept[-1:] != [previous := str(model.aliases[PREVIOUS])]:
            kept = [previous]  # somebody has set the aliases by hand, and MLflow keeps no history of them
        # Champion 2, then 1, then 2 again: once version 1 is deleted, 2 is listed once.
        return [number for number, _ in itertools.groupby(kept)]

    def move(self, after: Places, earlier: list[str], audit: str | None = None) -> None:
        """Point both aliases to where `after` says; if MLflow fails, champion stays where it was.

        Args:
            after: where the aliases are to point.
            earlier: the new list of earlier champions.
            audit: id of the run that records the decision; it is ended here.

        Raises:
            InputError: MLflow failed.
        """
        from mlflow.exceptions import MlflowException

        journal = {"before": self.now(), "after": after, "earlier": earlier[-LONGEST:], "audit": audit}
        self._client.set_registered_model_tag(self._name, JOURNAL, json.dumps(journal))
        try:
            self._finish(after, journal)
        except MlflowException as error:
            settled = self._settle()
            if settled == after:
                return
            what, do = "MLflow failed while the aliases moved; champion has not moved", "run it again"
            if settled is None:
                what = "MLflow went away while the aliases moved"
                do = "run it again: that takes back what this left, or completes it if champion had moved"
            raise InputError(what, where=self._name, do=do) from error

    def unlock(self) -> None:
        """Remove the lock of a process that has died."""
        self._delete_lock()

    def _point(self, places: Places) -> None:
        for alias in (PREVIOUS, CHAMPION):
            if alias in places:
                self._client.set_registered_model_alias(self._name, alias, places[alias])
            else:
                self._client.delete_registered_model_alias(self._name, alias)

    def _finish(self, places: Places, journal: dict[str, Any]) -> None:
        """Complete a move or roll it back; idempotent. The journal is deleted last."""
        self._point(places)
        moved = places == journal["after"]
        if moved and "earlier" in journal:
            self._client.set_registered_model_tag(self._name, EARLIER, json.dumps(journal["earlier"]))
        if journal.get("audit"):
            self._end_audit(journal["audit"], places, moved=moved)
        self._client.delete_registered_model_tag(self._name, JOURNAL)

    def _end_audit(self, run: str, places: Places, *, moved: bool) -> None:
        from mlflow.exceptions import MlflowException

        tags = {f"{alias}_after": places.get(alias, "none") for alias in (CHAMPION, PREVIOUS)} | {"outcome": MOVED}
        try:
            for key, value in tags.items() if moved else ():
                self._client.set_tag(run, key, value)
            self._client.set_terminated(run, "FINISHED" if moved else "FAILED")
        except MlflowException as error:
            # The run was deleted; the move does not depend on it.
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise

    def _settle(self) -> Places | None:
        """Repair an interrupted move, with retries; None if the server stays unreachable."""
        from mlflow.exceptions import MlflowException

        for _ in range(RETRIES):
            try:
                self._recover()
                return self.now()
            except MlflowException:
                time.sleep(PAUSE)
        return None

    def _recover(self) -> None:
        places, journal = self._read()
        if journal is not None:
            self._finish(_settled(places, journal), journal)

    def _read(self) -> tuple[Places, dict[str, Any] | None]:
        """Where the aliases point, and the journal of a move that has not ended."""
        model = self._client.get_registered_model(self._name)
        places = {alias: str(model.aliases[alias]) for alias in (CHAMPION, PREVIOUS) if alias in model.aliases}
        return places, json.loads(model.tags[JOURNAL]) if JOURNAL in model.tags else None

    def _acquire(self) -> str:
        from mlflow.exceptions import MlflowException

        token = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex}"
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self._client.create_registered_model(
                    self._lock, {"holder": token}, "There while aliases move; see docs/registry.md."
                )
                return token
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            holder = self._holder()
            if holder is not None and _dead(holder):
                self._bury()
            elif time.monotonic() > deadline:
                who = (holder or "somebody").rsplit(":", 1)[0]
                do = f"if that process is dead: juicer promote --unlock {self._name}"
                raise InputError(f"{who} has been moving the aliases for a minute", where=self._name, do=do)
            else:
                time.sleep(0.2)

    def _bury(self) -> None:
        """Delete the lock of a dead process, unless another process has already taken it over."""
        with _alone_on_this_machine():
            holder = self._holder()
            if holder is not None and _dead(holder):
                self._delete_lock()

    def _release(self, token: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            if self._holder() == token:
                self._delete_lock()
        except MlflowException:
            return  # the body has reported that the server failed; the next process sees that this one is dead

    def _holder(self) -> str | None:
        from mlflow.exceptions import MlflowException

        try:
            tags: dict[str, str] = self._client.get_registered_model(self._lock).tags
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return tags.get("holder")

    def _delete_lock(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.delete_registered_model(self._lock)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise


def _settled(places: Places, journal: dict[str, Any]) -> Places:
    """How an unfinished move ends: champion moves last, so it decides."""
    moved = places.get(CHAMPION) == journal["after"].get(CHAMPION)
    settled: Places = journal["after" if moved else "before"]
    return settled


@contextmanager
def _alone_on_this_machine() -> Iterator[None]:
    """Exclude the other processes of this machine, which alone can tell that a holder is dead."""
    # The root folder exists everywhere and every user may lock it; a lock file in /tmp would belong to one of them.
    root = os.open("/", os.O_RDONLY)
    try:
        fcntl.flock(root, fcntl.LOCK_EX)
        yield
    finally:
        os.close(root)


def _dead(holder: str) -> bool:
    """Whether the holder was a process of this machine that no longer exists."""
    host, process, _ = holder.split(":")
    return host == socket.gethostname() and not psutil.pid_exists(int(process))
