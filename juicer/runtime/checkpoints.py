"""The interface to checkpoints for the code that trains; `juicer.stages.checkpoint` implements it."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol


class Checkpoint(Protocol):
    """Stores the state of one piece of work, so that an interrupted run can resume."""

    def latest(self) -> Path | None:
        """The folder of the last complete state of exactly this work; None to start from the beginning."""
        ...

    def due(self) -> bool:
        """Whether to save the state now, because the interval has passed or the run was asked to end.

        Processes that train together all call it after the same step, and all get the same answer.
        """
        ...

    def save(self, write: Callable[[Path], None]) -> None:
        """Save what `write` writes into the folder passed to it. Does not return if the run was asked to end.

        Processes that train together all call it after the same step; those of one machine share a folder.
        """
        ...
