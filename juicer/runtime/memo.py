"""Long work in pieces: those that an interrupted run has done are not done again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from juicer.runtime.checkpoints import Checkpoint

T = TypeVar("T")


class Memo(Protocol):
    """Gives the result of a piece of work, plain JSON: what it was in the interrupted run, else by doing it."""

    def __call__(self, work: Callable[[], T]) -> T:
        """Do `work` unless its result is known."""
        ...


def no_memo(work: Callable[[], T]) -> T:
    """The `Memo` without a checkpoint."""
    return work()


class CheckpointedMemo:
    """An `Memo` with a checkpoint: results of pieces of work, in the order they are always done in.

    Of several processes each has its own, so a piece of work is one that a process does without the others.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._place = 0
        latest = checkpoint.latest()
        self._results: list[Any] = []
        if latest is not None:
            self._results = json.loads((latest / "results.json").read_text(encoding="utf-8"))

    def __call__(self, work: Callable[[], T]) -> T:
        """Do a piece of work, unless its result is there from the interrupted run."""
        self._place += 1
        if self._place <= len(self._results):
            known: T = self._results[self._place - 1]
            return known
        result = work()
        self._results.append(result)
        if self._checkpoint.due():
            self._checkpoint.save(self._write)
        return result

    def _write(self, folder: Path) -> None:
        (folder / "results.json").write_text(json.dumps(self._results), encoding="utf-8")
