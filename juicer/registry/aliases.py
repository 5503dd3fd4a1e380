"""Moving the aliases champion and previous together, one mover at a time, whatever goes down in between.

MLflow moves one alias per request. So the move is written down first (a tag of the registered model), `previous` moves
next and then `champion`, which is what is served. After it come the list of the champions before and the end of the
run that records the decision. A move that was cut short is put right by whoever moves next: taken back if champion had
not moved, completed, with list and record, if it had. A mover holds a lock: a registered model of a certain name, which
MLflow creates once only, on any store and from any machine.
"""

import fcntl
import itertools
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psutil

from juicer.registry.store import every_page
from juicer.runtime.errors import InputError

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION, PREVIOUS = "champion", "previous"
JOURNAL = "juicer.aliases_moving"
EARLIER = "juicer.earlier_champions"
"""Tag of the registered model: the versions that were champion before this one, oldest first."""
LONGEST = 500
"""Versions in that list; a tag of SQLite's or Postgres' stores ends at 5000 characters."""
REPLACED = "promotion.replaced"
"""Tag of a version in which older code noted the champion that it took the place of, the last time only."""
MOVED, NOT_MOVED = "moved", "not moved"
PATIENCE = 60.0
"""Seconds to wait for another mover."""
RETRIES, PAUSE = 3, 1.0
"""How often, and after how many seconds, a server that went away is asked again."""

Places = dict[str, str]
"""Alias to version number; an alias that is not there points nowhere."""


class Aliases:
    """The aliases of one registered model."""

    def __init__(self, client: "MlflowClient", name: str) -> None:
        self._client, self._name = client, name
        self._lock = f"{name}.aliases-moving"

    def now(self) -> Places:
        """Where champion and previous point. In the middle of a move: where they did before it, or will after it."""
        places, journal = self._read()
        return places if journal is None else _settled(places, journal)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only mover. What an earlier one left unfinished is put right first.

        Raises:
            InputError: another one does not finish.
        """
        token = self._acquire()
        try:
            self._recover()
            yield
        finally:
            self._release(token)

    def earlier(self) -> list[str]:
        """The versions that were champion before this one, oldest first; the last is `previous`. For the only mover."""
        model = self._client.get_registered_model(self._name)
        if PREVIOUS not in model.aliases:
            return []
        query, previous = f"name = '{self._name}'", str(model.aliases[PREVIOUS])
        there = every_page(self._client.search_model_versions, filter_string=query)
        tags = {str(version.version): version.tags for version in there}
        kept = [number for number in json.loads(model.tags.get(EARLIER, "[]")) if number in tags]
        if kept[-1:] != [previous]:
            kept = _noted(previous, tags)
        # Where a version between two terms of another one was deleted, they are one term.
        return [number for number, _ in itertools.groupby(kept)]

    def move(self, after: Places, earlier: list[str], audit: str | None = None) -> None:
        """Point both aliases to where `after` says, or, if MLflow goes away, leave champion as it was.

        Args:
            after: where they will point.
            earlier: what the list of earlier champions will be.
            audit: id of the run that records the decision; it is ended here.

        Raises:
            InputError: MLflow went away.
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
        """Take the lock from a mover that is dead."""
        self._delete_lock()

    def _point(self, places: Places) -> None:
        for alias in (PREVIOUS, CHAMPION):
            if alias in places:
                self._client.set_registered_model_alias(self._name, alias, places[alias])
            else:
                self._client.delete_registered_model_alias(self._name, alias)

    def _finish(self, places: Places, journal: dict[str, Any]) -> None:
        """Bring a move to its end, whichever it is; again, it stays the same. The journal goes last."""
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
            # Somebody deleted the run; no move waits for it.
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise

    def _settle(self) -> Places | None:
        """Put an unfinished move right while the server may be coming back; None if it does not."""
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
        """Where the aliases point, and what is written down of a move that has not ended."""
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
        """Delete a dead holder's lock, unless a quicker one did and the lock is a new one."""
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
            return  # the server is gone, which the body has reported; the next mover finds this process dead

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
    """What a move that has not ended comes to: champion moves after previous, so it tells."""
    moved = places.get(CHAMPION) == journal["after"].get(CHAMPION)
    settled: Places = journal["after" if moved else "before"]
    return settled


def _noted(previous: str, tags: dict[str, dict[str, str]]) -> list[str]:
    """The list of earlier champions as older code noted it; it ends where it would go in circles."""
    found = [previous]
    while (before := tags[found[-1]].get(REPLACED)) in tags and before not in found:
        found.append(before)
    return found[::-1]


@contextmanager
def _alone_on_this_machine() -> Iterator[None]:
    """Enough for taking from the dead: only their own machine can tell. The system ends it with the process."""
    root = os.open("/", os.O_RDONLY)  # the one thing that every process sees and nobody has to make
    try:
        fcntl.flock(root, fcntl.LOCK_EX)
        yield
    finally:
        os.close(root)


def _dead(holder: str) -> bool:
    """Whether the holder was a process of this machine that is gone."""
    host, process, _ = holder.split(":")
    return host == socket.gethostname() and not psutil.pid_exists(int(process))
