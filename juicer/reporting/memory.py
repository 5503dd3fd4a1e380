"""Planned memory against the memory that stages took on a GPU: one line at the end of a run."""

from pathlib import Path

from juicer.runtime.errors import InputError
from juicer.stages.costs import COSTS, StageCost


def memory_line(costs: Path = COSTS) -> str | None:
    """What the plan of a GPU's memory was worth, in one line; None where no stage used a GPU that a plan knows."""
    found = [each for path in sorted(costs.glob("*.json")) if (each := _read(path)) is not None and each.memory_ratio]
    if not found:
        return None
    ratios = sorted(each.memory_ratio or 0.0 for each in found)
    tight = min(found, key=lambda each: each.memory_ratio or 0.0)
    took, planned = (
        f"{(each or 0.0) / 1024:.1f}" for each in (tight.peak_device_memory_mb, tight.planned_device_memory_mb)
    )
    low = "more" if ratios[0] < 1 else "the most of its plan"
    times = f"{ratios[0]:.2f}" if len(ratios) == 1 else f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
    count = f"{len(found)} stage{'s' * (len(found) > 1)}"
    return (
        f"memory of the GPU: planned {times} times what {count} took; {tight.stage} took {low}, "
        f"{took} GiB of {planned} planned (report/costs.html)"
    )


def _read(path: Path) -> StageCost | None:
    try:
        return StageCost.read(path)
    except InputError:
        return None
