"""An IRFT step of pythia-1.4b, packed and padded, beside what the plan says of its memory."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from bench.gpu_parts.common import ROOT, Context, StepClock, model_of, pairs_of, peak, utilisation
from juicer.data.dialogues import Dialogue
from juicer.methods.irft import irft_round
from juicer.methods.pairs import response_tokens
from juicer.models.loading import mixed_precision
from juicer.planning.planner import Planner
from juicer.recipe.activation import load
from juicer.recipe.graph import Graph
from juicer.recipe.schema import Recipe
from juicer.runtime.context import WorkContext
from juicer.runtime.devices import DEVICES, GIB
from juicer.training.passes import passes_of
from juicer.training.utilisation import operations_per_response_token

ONE_CARD = ("compute.processes=1", "compute.zero_stage=0")
"""The recipe has four cards; each takes a micro batch of 2 of a step's 8 pairs."""
PADDED = ("compute.packing=false",)
KEPT = ("irft.training.gradient_checkpointing=false",)
FAST = ("irft.training.micro_batch_size=8", *KEPT)
"""Of padded rows: all of a step in one pass. Packed rows have no micro-batch."""
LARGE = ("irft.training.batch_size=64", *KEPT)


def measurements(context: Context) -> dict[str, Callable[[], dict[str, Any]]]:
    """The step as it is, what each of its means brings, and what padded rows gave before."""
    half = ("irft.training.micro_batch_size=32",)
    return {
        "packed, 8 pairs": lambda: step(context, KEPT),
        "packed, 64 pairs": lambda: step(context, LARGE),
        "as the recipe says: packed, activations recomputed": lambda: step(context, ()),
        "padded, micro_batch_size=2, activations recomputed": lambda: step(context, PADDED),
        "padded, 8 pairs in one pass": lambda: step(context, (*PADDED, *FAST)),
        "padded, 64 pairs, 32 a pass": lambda: step(context, (*PADDED, *LARGE, *half)),
        "packed, 64 pairs, not compiled": lambda: step(context, (*LARGE, "compute.compile=false")),
        "packed, 64 pairs, float32 weights": lambda: step(context, (*LARGE, "compute.weights=fp32")),
        "packed, 64 pairs, 4096 tokens a pass": lambda: step(context, (*LARGE, "compute.tokens_per_pass=4096")),
        "packed, 64 pairs, deterministic": lambda: step(context, (*LARGE, "compute.deterministic=true")),
    }


def recipe_of(context: Context, name: str, overrides: Sequence[str]) -> tuple[Recipe, Graph]:
    """A recipe for one card; with `tiny` small, and for the CPU."""
    given = [*ONE_CARD, *overrides]
    if context.tiny:  # as many rows as a tiny recipe has, and what a GPU does by itself
        given = [each for each in given if "batch_size" not in each] + ["compute.device=cpu"]
        if "compute.packing=false" not in given:
            given += ["compute.packing=true", "compute.precision=bf16"]
            given += [] if "compute.weights=fp32" in given else ["compute.weights=bf16"]
    return load(ROOT / f"recipes/{name}.yaml", given, tiny=context.tiny, pinned=False)


def planned(recipe: Recipe, graph: Graph, stage: str, dialogues: Sequence[Dialogue]) -> dict[str, float]:
    """GiB that `make plan` expects of a stage: at the template's limits, as it says, and at these lengths."""
    device = DEVICES["H100"]  # memory does not depend on it
    mean = sum(map(len, dialogues)) / len(dialogues)
    found = {}
    for name, longest in (("planned_gib", None), ("planned_at_these_lengths_gib", mean)):
        planner = Planner(recipe, graph, device, 0.4, None)
        planner.longest = longest or planner.longest
        found[name] = round(next(each.memory for each in planner.plan() if each.name == stage) / GIB, 2)
    return found


def step(context: Context, overrides: Sequence[str]) -> dict[str, Any]:
    """Median step of a round whose pairs have the lengths of Anthropic-HH."""
    recipe, graph = recipe_of(context, "hh-irft", overrides)
    settings, limits, (warmup, timed) = recipe.irft.training, recipe.template, context.steps
    values: dict[str, Any] = {}
    with peak(context, values):
        model = model_of(context, "pythia-1.4b", "policy", torch.float32)
        count = settings.batch_size * (warmup + timed + 1)
        pairs = pairs_of(count, limits.max_prompt_tokens, limits.max_response_tokens, model.config.vocab_size)
        dialogues = [each for pair in pairs for each in (pair.demonstration, pair.sample)]
        operations = operations_per_response_token(model, dialogues)
        clock, once = StepClock(), settings.model_copy(update={"epochs": 1.0})
        passes = passes_of(recipe.compute, model)
        with mixed_precision(recipe.compute):
            record = irft_round(model, model, pairs, once, 1, 0, WorkContext(observers=(clock,)), passes)
    milliseconds = clock.milliseconds(warmup)
    responses = response_tokens(pairs, [range(count)]) / record.steps
    return {
        "ms_per_step": milliseconds,
        "pairs_per_step": settings.batch_size,
        "tokens_per_step": round(sum(map(len, dialogues)) / record.steps),
        "tokens_per_second": round(sum(map(len, dialogues)) / record.steps / milliseconds * 1000),
        "mfu": utilisation(context, operations * responses, milliseconds / 1000),
        # The way that `juicer plan` knows the figure by.
        "settings": {"packed": passes.packed, "recomputed": settings.gradient_checkpointing},
        **values,
        "tokens_per_pass": record.facts.get("tokens_per_pass"),
        **planned(recipe, graph, "irft_train@r1", dialogues),
        "loss": record.curves["loss"]["value"][-1],
    }
