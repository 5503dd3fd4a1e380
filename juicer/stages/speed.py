"""How fast a stage trains. Its figures are among the costs: outside the versioned outputs."""

import time
from collections.abc import Callable


class Speed:
    """Counts response tokens and the seconds between two reports of them. An `Observer` (juicer/runtime/context.py).

    What comes before the first report, loading and the like, is no training. Tokens of an interrupted run that this
    one continues do not count either.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._last: float | None = None
        self._tokens = self._seconds = 0.0
        self._peak_share: float | None = None

    def begin(self, peak_share: float | None) -> None:
        """A piece of training begins.

        Args:
            peak_share: share of all processes' peak that it uses at one response token per second, if known.
        """
        self._last, self._peak_share = None, peak_share

    def on_metrics(self, step: int, values: dict[str, float]) -> None:
        """Curves say nothing of speed."""

    def on_tokens(self, count: float) -> None:
        """Receive the number of response tokens since the last call."""
        now = self._clock()
        if self._last is not None:
            self._tokens, self._seconds = self._tokens + count, self._seconds + now - self._last
        self._last = now

    def costs(self) -> dict[str, float]:
        """Response tokens trained on per second and, where the peak is known, MFU; {} where neither is known."""
        if not self._seconds:
            return {}
        rate = self._tokens / self._seconds
        share = {} if self._peak_share is None else {"mfu": round(rate * self._peak_share, 4)}
        return {"training_tokens_per_second": round(rate, 1), **share}
