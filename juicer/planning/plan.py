"""What a recipe will cost, without weights and without a network; refuses what cannot fit (`juicer plan`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from juicer.planning.comparison import compare, measured_lengths
from juicer.planning.lengths import sampled_lengths
from juicer.planning.planner import Lengths, Planner, check_memory
from juicer.planning.tables import format_comparison, format_plan
from juicer.recipe.activation import existing, load
from juicer.recipe.graph import FoundRounds, graph_of, on_auto
from juicer.recipe.probing import probe_models
from juicer.recipe.rows import check_rows
from juicer.recipe.schema import Recipe
from juicer.runtime.devices import DEVICES, GIB, Device
from juicer.runtime.errors import InputError, did_you_mean
from juicer.runtime.memory import main_memory
from juicer.sources.lengths import LengthStatistics, limits_of


@dataclass(frozen=True)
class Assumptions:
    """What a plan assumes beside the recipe."""

    gpu: str = "H100"
    """A name in DEVICES, or "CPU" for this machine's."""
    utilisation: float = 0.4
    """Share of the GPU's peak that training reaches."""
    prompt_tokens: float | None = None
    """Mean lengths in tokens; None takes those of the first rows where they are known and else the template's limits,
    and for samples that of responses."""
    response_tokens: float | None = None
    sample_tokens: float | None = None

    def lengths(self, recipe: Recipe, sampled: LengthStatistics | None = None) -> Lengths:
        """Mean lengths of the recipe's dialogues.

        Args:
            sampled: lengths of rows of its sources, of which those within the template's limits count.
        """
        limits = limits_of(recipe.template)
        kept = None if sampled is None else sampled.within(limits)
        found = kept.summary(recipe.template) if kept is not None and len(kept) else None
        response = self.response_tokens or (found.responses.mean if found else limits.response)
        prompt = self.prompt_tokens or (found.prompts.mean if found else limits.prompt)
        return Lengths(prompt, response, self.sample_tokens or response)


CPU = "CPU"
UNKNOWN_SPEED = float("inf")
"""Of a device without a data sheet: its hours are not planned."""


def device_named(name: str) -> Device:
    """The type of device called `name`; of this machine's CPU only the memory is known.

    Raises:
        InputError: it is unknown; suggests the most similar name.
    """
    if name.upper() == CPU:
        return Device(main_memory()[0], UNKNOWN_SPEED, UNKNOWN_SPEED)
    if name not in DEVICES:
        raise InputError(f"unknown GPU {name!r}", where="--gpu", do=did_you_mean(name, [*DEVICES, CPU], cutoff=0.3))
    return DEVICES[name]


def show(path: Path, overrides: Sequence[str], assumed: Assumptions, *, tiny: bool = False, measured: bool) -> None:
    """Print the plan of a recipe, and refuse one that does not fit into memory.

    Args:
        path: the recipe's file.
        overrides: changes to it, each `key=value`.
        tiny: plan the recipe scaled down.
        measured: take the mean lengths from what a finished run left in this folder, and compare the plan with it.
    """
    device = device_named(assumed.gpu)
    if not 0 < assumed.utilisation <= 1:
        raise InputError(f"--utilisation is {assumed.utilisation}", do="use a share above 0 and at most 1")
    recipe, graph = load(existing(path), overrides, tiny=tiny, pinned=False, active=Path("params.yaml"))
    found = {method: getattr(recipe, method).auto.most for method in on_auto(recipe)}
    if found and not measured:
        most = {method: FoundRounds(ran=number, kept=number) for method, number in found.items()}
        graph = graph_of(recipe, pinned=False, kept=graph.kept, rounds=most)
    if assumed.gpu.upper() == CPU:
        recipe = recipe.model_copy(update={"compute": recipe.compute.model_copy(update={"device": "cpu"})})
    said = probe_models(recipe, str(path))
    sampled = sampled_lengths(recipe)
    lengths = measured_lengths(recipe, graph) if measured else assumed.lengths(recipe, sampled)
    planner = Planner(recipe, graph, device, assumed.utilisation, lengths)
    stages = planner.plan()
    print(f"Recipe {recipe.name}: {planner.devices} x {assumed.gpu}, ZeRO stage {planner.zero}, ", end="")
    if device.operations == UNKNOWN_SPEED:
        print(f"{device.memory / GIB:.1f} GiB; hours are not known")
    else:
        peak = f"{device.operations / 1e12:.0f} TFLOP/s and {device.bandwidth / 1e12:.2f} TB/s"
        print(f"{assumed.utilisation:.0%} of {peak}")
    print(f"{planner.rows:,} demonstrations; mean tokens: prompt {lengths.prompt:.0f}, ", end="")
    print(f"response {lengths.response:.0f}, sample {lengths.sample:.0f}", end="")
    if sampled is not None:
        rows = f"the first {len(sampled):,} rows"
        print("" if measured else f" (unless given, of those of {rows} that the limits keep)")
        print("\n" + "\n".join(sampled.lines(recipe.template, rows, planner.policy.positions)), end="")
    print("\n")
    print(format_plan(stages, device, planner.devices, assumed.utilisation))
    print("".join(f"\n{found}." for found in check_rows(recipe.fetch)), end="")
    print("".join(f"\nThe policy {line}." for line in said), end="")
    unpinned = [name for name, each in graph.downloads.items() if not each.revision]
    print(f"\nNot pinned yet: {', '.join(unpinned)}. " if unpinned else "\n", end="")
    print("".join(f"{line}\n" for line in planner.said()), end="")
    for method, number in found.items():
        counted = f"the {graph.rounds[method].ran} that ran are" if measured else f"at most {number}, all of them"
        print(f"{method}.rounds is auto: {counted} counted.")
    print("Not counted: the leaderboard. Disk: the outputs once; DVC's cache holds them once more.")
    if measured:
        print("\n" + format_comparison(compare(stages, graph)))
    check_memory(stages, device, assumed.gpu)
