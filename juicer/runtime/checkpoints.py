"""Where long work keeps its state, as the work sees it; `juicer.stages.checkpoint` is where it is kept."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol


class Checkpoint(Protocol):
    """Where the state of one piece of work is kept."""

    def latest(self) -> Path | None:
        """The folder of the last state that is complete and belongs to this very work; None to start at the start."""
        ...

    def due(self) -> bool:
        """Whether the state should be saved now: some time has passed, or the run is to end.

        Processes that train together all ask after the same step, and all get the same answer.
        """
        ...

    def save(self, write: Callable[[Path], None]) -> None:
        """Keep what `write` puts into the folder that it is given. Does not return if the run is to end.

        Processes that train together all call it after the same step; those of one machine write to one folder.
        """
        ...
