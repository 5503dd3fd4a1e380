"""What to change in a recipe so that it fits the GPUs that there are: the fastest settings that fit, the batch kept.

Sharding, recomputation and the rows of a pass change speed and last bits, so those that cost no time come first.
Adapters and quantised weights change what is trained, so they are tried when nothing else fits.
"""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from juicer.planning.planner import Planner, StagePlan
from juicer.recipe.graph import Graph
from juicer.recipe.schema import Recipe
from juicer.runtime.devices import GIB, Device
from juicer.runtime.errors import InputError

Adapters = Literal["none", "bf16", "nf4"]
Load = Callable[[Sequence[str]], tuple[Recipe, Graph]]
SECTIONS = {
    "sft": "sft",
    "sft_matched": "sft",
    "irft_train": "irft.training",
    "rft_reward": "rft.reward",
    "rft_policy": "rft.policy",
    "preferences": "preferences",
}
"""The section of a recipe that each stage trains by."""
SAMPLED = {
    "irft_generate": "irft.sampling",
    "rft_generate": "rft.sampling",
    "evaluate": "evaluation.sampling",
    "curate": "scorer",
}
"""The section whose `batch_size` is the number of rows that a stage decodes or scores at a time."""
ROWS = (64, 32, 16, 8, 4, 1)
LORA = {"r": 64, "alpha": 16}


@dataclass(frozen=True)
class Fit:
    """Changes with which a recipe fits."""

    overrides: tuple[str, ...]
    """As `juicer use` takes them."""
    changes: tuple[str, ...]
    """Those among them that were not given already."""
    planner: Planner
    stages: Sequence[StagePlan]
    costs: tuple[str, ...]
    """What they cost, in sentences."""

    @property
    def worst(self) -> StagePlan:
        """The stage that needs most memory."""
        return max(self.stages, key=lambda stage: stage.memory)

    def command(self, recipe: str, *, tiny: bool = False) -> str:
        """The line that takes the recipe, or its tiny form, with these changes."""
        return shlex.join(["juicer", "use", recipe, *["--tiny"] * tiny, *self.overrides])


class NothingFitsError(InputError):
    """No change that is tried makes a recipe fit."""


def fit(
    load: Load,
    plan: Callable[[Recipe, Graph], tuple[Planner, list[StagePlan]]],
    device: Device,
    card: str,
    gpus: int,
    *,
    differ_in_bf16: bool = False,
) -> Fit:
    """The fastest settings with which a recipe fits into the memory of some GPUs.

    Args:
        load: a recipe with changes; raises InputError if it does not take them.
        plan: the plan of a recipe.
        card: what to call the device.
        gpus: how many there are. Fewer are used where the recipe's batch does not divide among them.
        differ_in_bf16: whether only some of them compute in bf16, so that `auto` is another precision on each.

    Raises:
        NothingFitsError: names the stage that is too large, whatever is changed.
    """
    smallest: StagePlan | None = None
    for zero, adapters in _ways(gpus):
        try:
            given, used = _start(load, _precision(load, device, differ_in_bf16), gpus, zero, adapters)
        except InputError:
            if (zero, adapters) == (0, "none"):
                raise
            continue  # the recipe has something that excludes this way
        found, stages, planner = _per_stage(load, plan, device, given)
        worst = max(stages, key=lambda stage: stage.memory)
        if worst.memory <= device.memory:
            costs = tuple(_costs(found, used, gpus, zero, adapters, planner))
            return Fit(tuple(found), tuple(found), planner, stages, costs)
        if smallest is None or worst.memory < smallest.memory:
            smallest = worst
    assert smallest is not None
    needs, there = f"{smallest.memory / GIB:.1f} GiB", f"{device.memory / GIB:.1f}"
    what = f"{smallest.name} needs {needs} per device whatever is changed, but {card} has {there}"
    tried = "recomputed activations, fewer rows, ZeRO, LoRA and 4-bit weights were tried"
    scored = " or scorer" if smallest.name.partition("@")[0] in ("curate", "evaluate") else ""
    raise NothingFitsError(what, do=f"use a larger GPU or a smaller model{scored}; {tried}")


def kept_as_given(found: Fit, given: Sequence[str], recipe: Recipe) -> Fit:
    """A proposal without what the recipe has already, after what was given; says what of that it replaces.

    Args:
        given: overrides of somebody's own.
        recipe: the recipe with these.
    """
    fitted, known = found.planner.recipe, {each.partition("=")[0]: each for each in given}
    keys = {each: each.partition("=")[0] for each in found.overrides}
    changes = [each for each, key in keys.items() if _value(fitted, key) != _value(recipe, key)]
    replaced = {known[keys[each]]: each for each in changes if keys[each] in known}
    gone = {keys[each] for each in replaced.values()}
    kept = [each for each in given if each.partition("=")[0] not in gone]
    said = [f"{one}, as given, is replaced by {other}" for one, other in replaced.items()]
    return replace(found, overrides=(*kept, *changes), changes=tuple(changes), costs=(*said, *found.costs))


def _ways(gpus: int) -> Iterator[tuple[int, Adapters]]:
    """ZeRO's stage and adapters, the least intrusive first. Adapters need no sharding."""
    for zero in (0, 2, 3) if gpus > 1 else (0,):
        yield zero, "none"
    yield 0, "bf16"
    yield 0, "nf4"


def _precision(load: Load, device: Device, differ_in_bf16: bool) -> list[str]:
    """The change that cards without bf16 need; `auto` is fp32 where all are such."""
    asked = load([])[0].compute.precision
    needed = not device.has_bf16 and (asked == "bf16" or (asked == "auto" and differ_in_bf16))
    return ["compute.precision=fp32"] if needed else []


def _start(load: Load, precision: list[str], gpus: int, zero: int, adapters: Adapters) -> tuple[list[str], int]:
    """The changes that hold for all stages, and how many GPUs the recipe's batch can be divided among."""
    recipe, _ = load([])
    sections = dict.fromkeys(_trained(recipe).values())
    common = [f"compute.zero_stage={zero}", *precision]
    for section in sections:
        part = _value(recipe, section)
        if isinstance(part.micro_batch_size, int):
            common.append(f"{section}.micro_batch_size=auto")
        if part.gradient_checkpointing:
            common.append(f"{section}.gradient_checkpointing=false")
        # A reward with frozen blocks takes no adapters, and is small without them.
        takes_adapters = "lora" in type(part).model_fields and not getattr(part, "frozen_blocks", 0)
        if adapters != "none" and takes_adapters:
            rank = LORA if part.lora is None else {"r": part.lora.r, "alpha": part.lora.alpha}
            base = "nf4" if adapters == "nf4" else "auto"
            more = "" if part.lora is None or not part.lora.dropout else f", dropout: {part.lora.dropout:g}"
            more += "" if part.lora is None or part.lora.save == "adapters" else f", save: {part.lora.save}"
            common.append(f"{section}.lora={{r: {rank['r']}, alpha: {rank['alpha']:g}, base: {base}{more}}}")
    for used in range(gpus, 0, -1):
        changes = [f"compute.processes={used}", *common]
        try:
            load(changes)
        except InputError:
            if used > 1:
                continue
            raise
        return changes, used
    raise AssertionError


def _per_stage(
    load: Load,
    plan: Callable[[Recipe, Graph], tuple[Planner, list[StagePlan]]],
    device: Device,
    given: list[str],
) -> tuple[list[str], list[StagePlan], Planner]:
    """The changes of single stages that do not fit yet: recomputation in training, and fewer rows elsewhere."""
    changes = list(given)
    rows = dict[str, int]()
    while True:
        recipe, graph = load(changes)
        planner, stages = plan(recipe, graph)
        large = dict.fromkeys(stage.name.partition("@")[0] for stage in stages if stage.memory > device.memory)
        more = list[str]()
        for name in large:
            section = SECTIONS.get(name)
            if section == "preferences":
                continue
            if section is not None and not _value(recipe, section).gradient_checkpointing:
                changes = [each for each in changes if not each.startswith(f"{section}.gradient_checkpointing=")]
                more.append(f"{section}.gradient_checkpointing=true")
            elif name in SAMPLED:
                key = f"{SAMPLED[name]}.batch_size"
                now = rows.get(key, _value(recipe, key))
                # `auto` takes what fits by itself; where it does not, a number may.
                fewer = next((count for count in ROWS if not isinstance(now, int) or count < now), None)
                if fewer is not None:
                    changes = [each for each in changes if not each.startswith(f"{key}=")]
                    more.append(f"{key}={fewer}")
                    rows[key] = fewer
        if not more:
            return changes, stages, planner
        changes += dict.fromkeys(more)


def _trained(recipe: Recipe) -> Mapping[str, str]:
    """The sections that train something, by stage."""
    used = {"irft_train": bool(recipe.irft.rounds), "rft_reward": bool(recipe.rft.rounds)}
    used["rft_policy"] = used["rft_reward"]
    return {stage: section for stage, section in SECTIONS.items() if used.get(stage, section != "preferences")}


def _value(recipe: Recipe, key: str) -> Any:
    found: Any = recipe
    for part in key.split("."):
        found = getattr(found, part)
    return found


def _costs(
    changes: Sequence[str], used: int, gpus: int, zero: int, adapters: Adapters, planner: Planner
) -> Iterator[str]:
    """What the changes cost beside memory."""
    if used < gpus:
        yield f"{used} of {gpus} GPUs are used: the recipe's batch, which is kept, does not divide among more"
    if any(each.endswith("gradient_checkpointing=true") for each in changes):
        yield "Recomputed activations cost a third more time in the stages that have them"
    if zero:
        yield f"ZeRO stage {zero} divides {'weights, ' * (zero == 3)}gradients and optimiser state among the GPUs"
    if adapters == "none":
        return
    trained = max((stage.trained for stage in planner.stages), default=0)
    share = f"{trained / 1e6:,.0f}M of {planner.policy.parameters / 1e6:,.0f}M parameters"
    yield f"LoRA trains another model: adapters ({share}), so results are not those of the recipe"
    yield "The recipe's learning rates are for all weights; adapters usually need about ten times as much"
    if adapters == "nf4":
        yield "Frozen weights in 4 bits are rounded: the model that samples is not quite the one that trains"
