"""What share of a device's peak a stage reaches: measured on the card where that was done, and assumed elsewhere.

Measurements are those of `bench/gpu.py`, of which one counts here if its values name `mfu` and, under `settings`, the
same way to train. Nothing else is read from them.
"""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path("bench/results/gpu")
LARGE = 10_000
"""Tokens of a device's step from which a packed pass keeps a large GPU busy."""
DECODING = 0.5
"""Share of the bandwidth or of the peak that decoding reaches: assumed."""
HOST = 0.7e-3
"""Seconds that the host takes to start one block's kernels in a step of our own decoding: assumed. vLLM's graphs take
none."""


@dataclass(frozen=True)
class Way:
    """How a stage trains, as far as it decides the share of the peak."""

    packed: bool
    recomputed: bool
    tokens: float
    """Of a device's optimiser step, prompts and responses."""

    @property
    def is_large(self) -> bool:
        """Whether a step has enough tokens for a large GPU."""
        return self.tokens >= LARGE

    @property
    def assumed(self) -> float:
        """The share by arithmetic on counted kernels; none of these was measured."""
        if self.packed:
            return 0.4 if self.is_large else 0.25
        return 0.07 if self.recomputed else 0.22


@dataclass
class Speeds:
    """The shares of the peak that a plan counts with, and where they come from."""

    card: str
    """The card's name in `runtime.devices.DEVICES`."""
    given: float | None = None
    """A share that somebody asked for, which holds for everything."""
    results: Path = RESULTS
    measured: bool = field(default=False, init=False)
    assumed: bool = field(default=False, init=False)
    shares: set[float] = field(default_factory=set, init=False)

    def of(self, way: Way) -> float:
        """The share of the peak that training reaches."""
        found = self.given
        if found is None:
            figures = [share for known, share in self._figures() if _alike(known, way)]
            self.measured |= bool(figures)
            self.assumed |= not figures
            found = statistics.median(figures) if figures else way.assumed
        self.shares.add(found)
        return found

    @property
    def decoding(self) -> float:
        """The share that decoding reaches."""
        return DECODING if self.given is None else self.given

    def __str__(self) -> str:
        if self.given is not None:
            return f"{self.given:.0%} of the peak, as given"
        low, high = (f"{each:.0%}" for each in (min(self.shares, default=0), max(self.shares, default=0)))
        reached = f"{low} to {high} of the peak" if low != high else f"{low} of the peak"
        origins = [f"measured on {self.card}"] * self.measured + ["assumed, not measured"] * self.assumed
        return f"{reached} ({', others '.join(origins)})"

    def _figures(self) -> Sequence[tuple[Way, float]]:
        from juicer.runtime.devices import gpu_called

        found = list[tuple[Way, float]]()
        for path in sorted(self.results.glob("*.json")):
            try:
                values = json.loads(path.read_text(encoding="utf-8"))
                if gpu_called(str(values["card"])) == self.card:
                    found += [way for each in values["measurements"] if (way := _way(each))]
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue  # another program's file; `python bench/gpu.py --tables` says what is wrong with it
        return found


def _way(measurement: dict[str, Any]) -> tuple[Way, float] | None:
    values = measurement["values"]
    settings, share = values.get("settings"), values.get("mfu")
    if measurement["state"] != "measured" or not isinstance(settings, dict) or not isinstance(share, float):
        return None
    if not 0 < share <= 1:
        return None
    return Way(bool(settings["packed"]), bool(settings["recomputed"]), float(values["tokens_per_step"])), share


def _alike(one: Way, other: Way) -> bool:
    return (one.packed, one.recomputed, one.is_large) == (other.packed, other.recomputed, other.is_large)
