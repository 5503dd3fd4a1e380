"""Where the time of an IRFT step goes: kernels, how many, and how long the device has none."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from bench.gpu_parts.common import Context, model_of, pairs_of
from bench.gpu_parts.irft import FAST, KEPT, LARGE, PADDED, recipe_of
from juicer.methods.irft import irft_round
from juicer.models.loading import mixed_precision
from juicer.runtime.context import WorkContext
from juicer.training.passes import passes_of

LISTED = 12


def measurements(context: Context) -> dict[str, Callable[[], dict[str, Any]]]:
    """A packed step, small and large, and the padded one of before."""
    return {
        "packed, 8 pairs": lambda: profiled(context, KEPT),
        "packed, 64 pairs": lambda: profiled(context, LARGE),
        "padded, 8 pairs in one pass": lambda: profiled(context, (*PADDED, *FAST)),
    }


class Recorded:
    """Profiles the steps after the first `after`. An `Observer` (juicer/runtime/context.py)."""

    def __init__(self, after: int, steps: int, profiler: Any) -> None:
        self._after, self._last, self._profiler = after, after + steps, profiler

    def on_metrics(self, step: int, values: dict[str, float]) -> None:
        if step == self._after:
            self._profiler.start()
        elif step == self._last:
            self._profiler.stop()

    def on_tokens(self, count: float) -> None:
        pass


def profiled(context: Context, overrides: Sequence[str]) -> dict[str, Any]:
    """Three steps under torch's profiler, which slows the host down: shares are to be believed, not times."""
    recipe, _ = recipe_of(context, "hh-irft", overrides)
    settings, limits = recipe.irft.training.model_copy(update={"epochs": 1.0}), recipe.template
    model = model_of(context, "pythia-1.4b", "policy", torch.float32)
    after, steps = (1, 1) if context.tiny else (3, 3)
    count = settings.batch_size * (after + steps + 1)
    pairs = pairs_of(count, limits.max_prompt_tokens, limits.max_response_tokens, model.config.vocab_size)
    device = context.device.type
    profiler = profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])])
    watching, passes = WorkContext(observers=(Recorded(after, steps, profiler),)), passes_of(recipe.compute, model)
    with mixed_precision(recipe.compute):
        irft_round(model, model, pairs, settings, 1, 0, watching, passes)
    # Annotated ranges, such as an optimiser's step, are not kernels and would cover the gaps between them.
    events = [
        each for each in profiler.events() if each.device_type.name == device.upper() and not each.is_user_annotation
    ]
    spans = [(each.time_range.start, each.time_range.end) for each in events]
    whole = max(end for _, end in spans) - min(start for start, _ in spans)
    times: dict[str, list[float]] = {}
    for each in events:
        own = each.self_cpu_time_total if device == "cpu" else each.time_range.elapsed_us()
        times.setdefault(each.name, []).append(own)
    total = sum(map(sum, times.values()))
    first = sorted(times.items(), key=lambda item: -sum(item[1]))[:LISTED]
    return {
        "kernels_per_step": round(len(events) / steps),
        "busy_share": round(_covered(spans) / whole, 3),
        "ms_per_step_profiled": round(whole / steps / 1000, 1),
        "kernels": [
            {"name": name[:100], "share": round(sum(each) / total, 3), "calls": round(len(each) / steps, 1)}
            for name, each in first
        ],
    }


def _covered(spans: Sequence[tuple[float, float]]) -> float:
    """The length of the union of spans."""
    covered, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered
