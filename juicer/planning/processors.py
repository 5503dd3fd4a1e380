"""This machine's CPU, measured in about a second: an estimate of its speed, not a data sheet."""

import time
from collections.abc import Callable
from functools import cache

import torch

from juicer.runtime.devices import Device
from juicer.runtime.memory import main_memory

SIDE, COPIED = 1024, 2**26
"""Rows of the square matrices that are multiplied, and bytes that are copied, in a measurement."""
SMALL, LARGE = 10e6, 100e6
"""Parameters below which, and from which, the shares of the peak are those of `SHARES`."""
SHARES = (0.35, 0.5, 0.7)
"""Share of that speed which training reaches below SMALL, between, and from LARGE. The first fits one run; the
others are estimates."""
START = 5.0
"""Processor seconds in which a stage starts and loads, of which most are imports."""


def cpu_share(parameters: int) -> float:
    """Share of the speed of a matrix product that a model of so many parameters reaches."""
    return SHARES[0] if parameters < SMALL else SHARES[1] if parameters < LARGE else SHARES[2]


@cache
def this_cpu(threads: int) -> Device:
    """The memory of this machine, and what one process with so many threads computes and copies now, in float32."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        one = torch.ones(SIDE, SIDE)
        given, copied = torch.ones(COPIED // 4), torch.empty(COPIED // 4)
        product = _fastest(lambda: torch.mm(one, one), threads)
        copy = _fastest(lambda: copied.copy_(given), threads)
    finally:
        torch.set_num_threads(before)
    return Device(main_memory()[0], 2.0 * SIDE**3 / product, 2.0 * COPIED / copy)


def _fastest(work: Callable[[], object], threads: int) -> float:
    """Seconds of the fastest of several calls, of a thread's processor time: others on the machine take none of it."""
    seconds, until = list[float](), time.perf_counter() + 0.4
    while len(seconds) < 5 or time.perf_counter() < until:
        start = time.process_time()
        work()
        seconds.append((time.process_time() - start) / threads)
    return min(seconds)
