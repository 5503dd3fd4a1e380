"""How a piece of long work runs, as opposed to what it computes: the one argument that carries all of that."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from juicer.runtime.checkpoints import Checkpoint
from juicer.runtime.memo import Memo, no_memo
from juicer.runtime.processes import SINGLE_PROCESS, Processes

Progress = Callable[[int], None]
"""Called with the number of units (steps, responses) that this process has just finished."""


class Observer(Protocol):
    """Receives metrics and token counts while work runs. It must neither fail nor take noticeable time."""

    def on_metrics(self, step: int, values: dict[str, float]) -> None:
        """Receive one point of each named curve, after an optimiser step."""
        ...

    def on_tokens(self, count: float) -> None:
        """Receive the number of response tokens sampled, or trained on, since the last call."""
        ...


def no_progress(units: int) -> None:
    """The `Progress` that shows nothing."""


def no_steps(done: int, total: int) -> None:
    """The `WorkContext.steps` that tells nobody."""


def no_note(**facts: float | str) -> None:
    """The `WorkContext.note` that keeps nothing."""


@dataclass(frozen=True)
class Tracking:
    """The trackers beside MLflow that a trainer of transformers logs to by itself."""

    report_to: tuple[str, ...] = ()
    """Their names, as the trainer's `report_to` takes them."""
    run_name: str | None = None


@dataclass(frozen=True)
class WorkContext:
    """Everything that long work needs from its caller besides its inputs. A stage builds it (juicer/stages/stage.py).

    The default is one process without checkpoint, progress bar or observers: what a notebook or a test wants.
    """

    processes: Processes = SINGLE_PROCESS
    """Processes that the work is distributed over. All of them make the same call."""
    checkpoint: Checkpoint | None = None
    """Where training resumes from and saves its state between two steps."""
    memo: Memo = no_memo
    """Returns the results of batches that an interrupted run has already computed."""
    progress: Progress = no_progress
    steps: Callable[[int, int], None] = no_steps
    """Called with how many of how many optimiser steps are done, by a trainer that shows its own bar."""
    note: Callable[..., None] = no_note
    """Called with facts, by name, about how the work is done, which are no part of its result: among the costs."""
    observers: tuple[Observer, ...] = ()
    """Receivers of metrics and token counts."""
    tracking: Tracking = Tracking()

    def emit_metrics(self, step: int, **values: float) -> None:
        """Send one point of each named curve to the observers."""
        for observer in self.observers:
            observer.on_metrics(step, values)

    def emit_tokens(self, count: float) -> None:
        """Send a number of response tokens, summed over all processes, to the observers."""
        for observer in self.observers:
            observer.on_tokens(count)


LOCAL = WorkContext()
"""One process, no checkpoint."""
