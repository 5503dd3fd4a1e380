"""What long work tells of itself while it runs, to whoever watches. No result depends on whether anybody does."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Observer(Protocol):
    """Somebody who wants to see work grow. What it does with that must neither fail nor take time."""

    def point(self, step: int, values: dict[str, float]) -> None:
        """One point of each named curve, after an optimiser step."""
        ...

    def tokens(self, count: float) -> None:
        """So many response tokens were sampled, or trained on, since the last call."""
        ...


_OBSERVERS: ContextVar[tuple[Observer, ...]] = ContextVar("watchers", default=())


@contextmanager
def observed_by(watcher: Observer) -> Iterator[None]:
    """Let somebody watch the work in the block."""
    before = _OBSERVERS.set((*_OBSERVERS.get(), watcher))
    try:
        yield
    finally:
        _OBSERVERS.reset(before)


def emit_metrics(step: int, **values: float) -> None:
    """Show one point of each named curve to those who watch."""
    for watcher in _OBSERVERS.get():
        watcher.point(step, values)


def emit_tokens(count: float) -> None:
    """Let those who watch count response tokens, of all processes together."""
    for watcher in _OBSERVERS.get():
        watcher.tokens(count)
