"""What the plan says of the stages of a run, in .juicer/plan.json: made as a run on a GPU begins, and not versioned.

A stage notes beside its peak of device memory what was planned, so that the two can be compared after every run.
"""

from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from juicer.evaluation.documents import Document
from juicer.runtime.devices import gpu_called
from juicer.runtime.errors import InputError
from juicer.runtime.files import sha256_of_file

PLAN = Path(".juicer/plan.json")


class PlannedStages(Document):
    """The plan of one recipe on one type of GPU."""

    card: str
    """The GPU, as its driver names it."""
    params: str
    """SHA-256 of the params.yaml that was planned."""
    device_memory_mb: dict[str, float]
    """MiB of tensors on a device at the peak of each stage, with rows as long as the template allows."""


def compared(stage: str, peaks: Mapping[str, float], cards: Collection[str]) -> dict[str, float]:
    """The planned peak beside the measured one, and their ratio, as costs; {} where one of them is not known.

    Args:
        cards: the names of the GPUs that the stage ran on; a plan for another one says nothing about them.
    """
    measured = peaks.get("peak_device_memory_mb")
    planned = planned_memory(stage, cards) if measured else None
    if not measured or planned is None:
        return {}
    return {"planned_device_memory_mb": round(planned, 1), "memory_ratio": round(planned / measured, 3)}


def planned_memory(
    stage: str, cards: Collection[str], params: Path = Path("params.yaml"), plan: Path = PLAN
) -> float | None:
    """MiB that were planned for a stage; None where nothing was planned for the recipe as it is now on these GPUs."""
    found = _plan(params, plan)
    if found is None or {*map(_type, cards)} != {_type(found.card)}:
        return None
    return found.device_memory_mb.get(stage)


def _type(card: str) -> str:
    return gpu_called(card) or card


def is_planned(params: Path = Path("params.yaml"), plan: Path = PLAN) -> bool:
    """Whether the plan here is of the recipe as it is now."""
    return _plan(params, plan) is not None


def _plan(params: Path, plan: Path) -> PlannedStages | None:
    with suppress(InputError, OSError):  # a by-product, which stops no stage
        found = PlannedStages.read(plan)
        return found if found.params == sha256_of_file(params) else None
    return None
