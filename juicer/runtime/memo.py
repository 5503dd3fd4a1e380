"""Long work in batches: a resumed run does not repeat the batches that the interrupted run computed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from juicer.runtime.checkpoints import Checkpoint

T = TypeVar("T")


class Memo(Protocol):
    """Returns the result, plain JSON, of a piece of work: recalled from the interrupted run, or computed now."""

    def __call__(self, work: Callable[[], T]) -> T:
        """The result of `work`, which is called only if its result is not known yet."""
        ...


def no_memo(work: Callable[[], T]) -> T:
    """The `Memo` without a checkpoint."""
    return work()


class CheckpointedMemo:
    """A `Memo` that saves results in a checkpoint, in the order of the calls, which must be the same in every run.

    Each of several processes has its own, so the work must not communicate with other processes.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._place = 0
        latest = checkpoint.latest()
        self._results: list[Any] = []
        if latest is not None:
            self._results = json.loads((latest / "results.json").read_text(encoding="utf-8"))

    def __call__(self, work: Callable[[], T]) -> T:
        """See `Memo`."""
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
