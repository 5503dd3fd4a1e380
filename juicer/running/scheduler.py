"""Which stage runs next, and how many at a time: the order of `dvc repro`, with independent stages side by side.

It knows stages by their names only, and no DVC.
"""

import signal
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Work:
    """What there is to do."""

    order: Sequence[str]
    """All stages, as `dvc repro` would take them one after the other."""
    needs: Mapping[str, Sequence[str]]
    """The stages of `order` that have to be done before a stage."""
    light: Collection[str] = ()
    """The stages that take no time beside the others."""


@dataclass
class Outcome:
    """How it went."""

    results: dict[str, Any] = field(default_factory=dict)
    """What `do` returned for each stage that was done, in the order in which they ended."""
    failed: dict[str, Exception] = field(default_factory=dict)
    """The errors of the stages that failed, the first one first."""
    told: signal.Signals | None = None
    """The signal that ended the run early."""


def run(
    work: Work,
    do: Callable[[str], Any],
    *,
    at_a_time: int,
    fits: Callable[[str, Sequence[str]], bool] = lambda stage, running: True,
    stop: Callable[[signal.Signals], object] = lambda number: None,
) -> Outcome:
    """Do all stages, each as soon as those that it needs are done. Call it from the main thread.

    After a failure or a signal no other stage is begun; those that run are waited for.

    Args:
        do: brings one stage up to date; called in a thread, and at most `at_a_time` times at once.
        at_a_time: with 1, the stages are taken in exactly the given order.
        fits: whether a stage can be begun beside the running ones, of which there is at least one.
        stop: called in the main thread with each signal, to end the running stages.
    """
    waiting, running = list(work.order), dict[Future[Any], str]()
    events: SimpleQueue[Future[Any] | signal.Signals] = SimpleQueue()
    outcome = Outcome()
    rank = _ranks(work)
    with _signalled(events.put), ThreadPoolExecutor(at_a_time, thread_name_prefix="stage") as threads:
        while running or waiting:
            ready = [stage for stage in waiting if outcome.results.keys() >= set(work.needs.get(stage, ()))]
            ready = ready if at_a_time == 1 else sorted(ready, key=rank.__getitem__)
            for stage in ready:
                if len(running) < at_a_time and (not running or fits(stage, list(running.values()))):
                    waiting.remove(stage)
                    future = threads.submit(do, stage)
                    running[future] = stage
                    future.add_done_callback(events.put)
            event = events.get()
            if isinstance(event, signal.Signals):
                outcome.told = outcome.told or event
                waiting.clear()
                stop(event)
                continue
            stage = running.pop(event)
            error = event.exception()
            if error is None:
                outcome.results[stage] = event.result()
            elif isinstance(error, Exception):
                outcome.failed[stage] = error
                waiting.clear()
            else:
                raise error
    return outcome


def _ranks(work: Work) -> dict[str, tuple[int, int, int]]:
    """A key by which ready stages are sorted: first those that the longest chain of other stages waits for.

    Light stages make a chain longer only where two would be equal without them.
    """
    behind = dict.fromkeys(work.order, (0, 0))
    for stage in reversed(work.order):
        long, stages = behind[stage]
        for need in work.needs.get(stage, ()):
            behind[need] = max(behind[need], (long + (stage not in work.light), stages + 1))
    return {stage: (-behind[stage][0], -behind[stage][1], place) for place, stage in enumerate(work.order)}


@contextmanager
def _signalled(told: Callable[[signal.Signals], object]) -> Iterator[None]:
    """Call `told` for each signal in the block; those that are ignored stay so."""

    def handle(number: int, frame: FrameType | None) -> None:
        told(signal.Signals(number))

    numbers = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
