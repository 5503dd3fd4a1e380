"""Timings that can be trusted on a machine that does other things too: alternating repeats, medians, two clocks."""

import math
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Timings:
    """Seconds of the repeats of one piece of work."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Of all threads of the process; other work on the cores hardly changes them."""

    def time(self, work: Callable[[], Any]) -> Any:
        """Do `work`, add what it took; returns its result."""
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        self.add(time.perf_counter() - wall, time.process_time() - cpu)
        return result

    def add(self, wall: float, cpu: float) -> None:
        """One more repeat."""
        self.wall.append(round(wall, 4))
        self.cpu.append(round(cpu, 4))

    def median(self, clock: str) -> float:
        return statistics.median(getattr(self, clock))


def total(parts: Sequence[Timings]) -> Timings:
    """What the parts took together, repeat by repeat."""
    return Timings(*([round(sum(each), 4) for each in zip(*columns, strict=True)] for columns in _columns(parts)))


def _columns(parts: Sequence[Timings]) -> tuple[list[list[float]], list[list[float]]]:
    return [part.wall for part in parts], [part.cpu for part in parts]


def ratio(
    ours: Timings, baselines: Mapping[str, Timings], goal: float | None, judged: Collection[str] | None = None
) -> dict[str, Any]:
    """How many times faster than each baseline, by the medians of both clocks, and all raw timings.

    Args:
        judged: the baselines whose fastest gives `ratio`, which the goal is for; without them it is the first.
    """
    against = {name: each for name, each in baselines.items() if judged is None or name in judged}
    judge = next(iter(against)) if judged is None else fastest(against)
    best = fastest(baselines)
    result: dict[str, Any] = {"goal": goal, "against": judge, "best": best}
    for name, baseline in baselines.items():
        for clock in ("cpu", "wall"):
            result[f"{name}_{clock}"] = round(baseline.median(clock) / ours.median(clock), 3)
    result |= {"ratio": result[f"{judge}_cpu"], "ratio_to_best": result[f"{best}_cpu"]}
    return result | {"seconds": {"ours": asdict(ours), **{name: asdict(each) for name, each in baselines.items()}}}


def fastest(ways: Mapping[str, Timings]) -> str:
    """The name of the one that took the least processor time."""
    return min(ways, key=lambda name: ways[name].median("cpu"))


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The slope of the line through (log size, log seconds) by least squares: 1 is linear growth."""
    x, y = [math.log(size) for size in sizes], [math.log(second) for second in seconds]
    return statistics.linear_regression(x, y).slope
