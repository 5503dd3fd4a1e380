"""The stages that are left over: less is lost if there is no time for them."""

from collections.abc import Callable
from typing import Any

from bench.gpu_parts.common import Context
from bench.gpu_parts.stages import OTHERS, compared, space_of


def measurements(context: Context) -> dict[str, Callable[[], dict[str, Any]]]:
    """As those of bench/gpu_parts/stages.py, in the same workspace."""
    return compared(space_of(context), OTHERS)
