"""A few faults on the real stages, with tiny models: what the stand-ins cannot show."""

from pathlib import Path

from dev.faults.outcome import Kind

KINDS: list[Kind] = []


def make_template(folder: Path) -> None:
    """..."""
