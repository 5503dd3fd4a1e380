"""An IRFT step of pythia-1.4b as recipes/hh-irft.yaml says and changed, beside what the plan says of its memory."""

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
from juicer.training.utilisation import operations_per_response_token

ONE_CARD = ("compute.processes=1", "compute.zero_stage=0")
"""The recipe has four cards; each takes a micro batch of 2 of a step's 8 pairs."""
FAST = ("irft.training.micro_batch_size=8", "irft.training.gradient_checkpointing=false")
LARGE = ("irft.training.batch_size=64", "irft.training.micro_batch_size=32", FAST[1])


def measurements(context: Context) -> dict[str, Callable[[], dict[str, Any]]]:
    """The recipe's own step, and what is hoped to be faster."""
    return {
        "as the recipe says, one card": lambda: step(context, ()),
        "micro_batch_size=8 gradient_checkpointing=false": lambda: step(context, FAST),
        "the same, 64 pairs a step, 32 a pass": lambda: step(context, LARGE),
        "64 pairs, bf16 weights": lambda: step(context, LARGE, lambda model: model.to(torch.bfloat16)),
        "64 pairs, layers compiled, no cache": lambda: step(context, LARGE, compiled),
    }


def recipe_of(context: Context, name: str, overrides: Sequence[str]) -> tuple[Recipe, Graph]:
    """A recipe for one card; with `tiny` small, and for the CPU."""
    given = [*ONE_CARD, *overrides]
    if context.tiny:  # as many rows as a tiny recipe has
        given = [each for each in given if "batch_size" not in each] + ["compute.device=cpu"]
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


def compiled(model: Any) -> Any:
    """The same model with each block compiled for lengths that vary; on a CPU it is only traced.

    With a cache of keys and values, of no use here, each block would be compiled anew, until the compiler gives up.
    """
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    model.config.use_cache = False
    backend = "eager" if model.device.type == "cpu" else "inductor"
    for layer in model.base_model.layers:
        layer.compile(dynamic=True, backend=backend)
    return model


def step(
    context: Context,
    overrides: Sequence[str],
    change: Callable[[Any], Any] = lambda model: model,
) -> dict[str, Any]:
    """Median step of a round whose pairs have the lengths of Anthropic-HH, in mixed precision on float32 weights."""
    recipe, graph = recipe_of(context, "hh-irft", overrides)
    settings, limits, (warmup, timed) = recipe.irft.training, recipe.template, context.steps
    values: dict[str, Any] = {}
    with peak(context, values):
        model = change(model_of(context, "pythia-1.4b", "policy", torch.float32))
        count = settings.batch_size * (warmup + timed + 1)
        pairs = pairs_of(count, limits.max_prompt_tokens, limits.max_response_tokens, model.config.vocab_size)
        dialogues = [each for pair in pairs for each in (pair.demonstration, pair.sample)]
        operations = operations_per_response_token(model, dialogues)
        clock, once = StepClock(), settings.model_copy(update={"epochs": 1.0})
        with mixed_precision(recipe.compute):
            record = irft_round(model, model, pairs, once, 1, 0, WorkContext(observers=(clock,)))
    milliseconds = clock.milliseconds(warmup)
    responses = response_tokens(pairs, [range(count)]) / record.steps
    return {
        "ms_per_step": milliseconds,
        "pairs_per_step": settings.batch_size,
        "tokens_per_step": round(sum(map(len, dialogues)) / record.steps),
        "tokens_per_second": round(sum(map(len, dialogues)) / record.steps / milliseconds * 1000),
        "mfu": utilisation(context, operations * responses, milliseconds / 1000),
        **values,
        # The plan knows of no other weights.
        **(planned(recipe, graph, "irft_train@r1", dialogues) if model.dtype == torch.float32 else {}),
        "loss": record.curves["loss"]["value"][-1],
    }
