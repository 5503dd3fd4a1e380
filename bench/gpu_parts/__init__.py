"""What bench/gpu.py measures, most valuable part first. A module each, run by `python -m bench.gpu_parts PART`.

A part has `measurements(context)`: names and functions that return figures. Each is kept as soon as it is there, and
one that fails does not stop the others.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """One part."""

    title: str
    each: float
    """Seconds that one of its measurements may take."""


PARTS = {
    "stages": Part("the real stages with tiny models, against a CPU", 90),
    "irft": Part("IRFT step, pythia-1.4b", 90),
    "sampling": Part("sampling, pythia-1.4b, lengths of Anthropic-HH", 75),
    "scoring": Part("scoring, beaver-7b", 60),
    "steps": Part("other training steps", 75),
    "ceilings": Part("what the card itself reaches", 30),
    "real_model": Part("a real model of 135M parameters", 120),
    "profile": Part("where the time of an IRFT step goes", 60),
    "more_stages": Part("the other stages that use a GPU, against a CPU", 90),
}
