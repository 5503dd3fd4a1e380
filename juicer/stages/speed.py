"""Training speed of a stage. It is recorded with the costs, outside the versioned outputs."""

import time
from collections.abc import Callable


class Speed:
    """Counts response tokens and the seconds between two reports of them. An `Observer` (juicer/runtime/context.py).

    The time before the first report, e.g. for loading, is not counted. Neither are the tokens of an interrupted run
    from which this one resumes.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._last: float | None = None
        self._tokens = self._seconds = 0.0
        self._peak_share: float | None = None

    def begin(self, peak_share: float | None) -> None:
        """Start to measure a piece of training.

        Args:
            peak_share: share of the peak of all processes that one response token per second takes, if known.
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
        """Response tokens per second of training and, if the peak is known, MFU; {} if nothing was trained."""
        if not self._seconds:
            return {}
        rate = self._tokens / self._seconds
        share = {} if self._peak_share is None else {"mfu": round(rate * self._peak_share, 4)}
        return {"training_tokens_per_second": round(rate, 1), **share}
