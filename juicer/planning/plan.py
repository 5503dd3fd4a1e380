"""What a recipe will cost, without weights and without a network; refuses what cannot fit (`juicer plan`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from juicer.planning.comparison import compare, compare_memory, measured_lengths
from juicer.planning.fitting import Fit, fit, kept_as_given
from juicer.planning.lengths import sampled_lengths
from juicer.planning.planner import Lengths, Planner, StagePlan, check_memory
from juicer.planning.processors import this_cpu
from juicer.planning.tables import format_comparison, format_plan
from juicer.recipe.activation import existing, load
from juicer.recipe.graph import FoundRounds, Graph, graph_of, on_auto
from juicer.recipe.probing import probe_models
from juicer.recipe.rows import check_rows
from juicer.recipe.schema import Recipe
from juicer.runtime.devices import CHOICES, DEVICES, GIB, Device, family_called, gpu_called
from juicer.runtime.errors import InputError, did_you_mean
from juicer.sources.lengths import LengthStatistics, limits_of


@dataclass(frozen=True)
class Assumptions:
    """What a plan assumes beside the recipe."""

    gpu: str | None = None
    """The GPU as people name it, several between commas, or "CPU" for this machine's; None is an H100, or this
    machine's CPU where the recipe asks for that."""
    utilisation: float | None = None
    """Share of the GPU's peak that is reached; None takes what was measured or is assumed of each way to train."""
    prompt_tokens: float | None = None
    """Mean lengths in tokens; None takes those of the first rows where they are known and else the template's limits,
    and for samples that of responses."""
    response_tokens: float | None = None
    sample_tokens: float | None = None

    def lengths(self, recipe: Recipe, sampled: LengthStatistics | None = None) -> Lengths:
        """Mean lengths of the recipe's dialogues.

        Args:
            sampled: lengths of rows of its sources, of which those within the template's limits count.

        Raises:
            InputError: a mean that is given cannot be one of lengths within the template's limits.
        """
        limits = limits_of(recipe.template)
        for option, given, key, most in (
            ("--prompt-tokens", self.prompt_tokens, "prompt", limits.prompt),
            ("--response-tokens", self.response_tokens, "response", limits.response),
            ("--sample-tokens", self.sample_tokens, "response", limits.response),
        ):
            if given is not None and not 0 < given <= most:
                do = f"use a mean above 0 and at most template.max_{key}_tokens, which is {most}"
                raise InputError(f"it is {given:g}", where=option, do=do)
        kept = None if sampled is None else sampled.within(limits)
        found = kept.summary(recipe.template) if kept is not None and len(kept) else None
        means = (found.prompts.mean, found.responses.mean) if found else (limits.prompt, limits.response)
        prompt = means[0] if self.prompt_tokens is None else self.prompt_tokens
        response = means[1] if self.response_tokens is None else self.response_tokens
        return Lengths(prompt, response, response if self.sample_tokens is None else self.sample_tokens)


CPU, USUAL = "CPU", "H100"


@dataclass(frozen=True)
class Named:
    """A type of device that a plan is for."""

    name: str
    """In DEVICES, or "CPU"."""
    device: Device
    said: tuple[str, ...] = ()
    """What was taken for what the name leaves open, in sentences."""
    differ_in_bf16: bool = False
    """Whether some of the cards compute in bf16 and others do not, so that `auto` is not the same on all."""

    @property
    def is_cpu(self) -> bool:
        """Whether it is this machine's CPU, whose speed is an estimate."""
        return self.name == CPU


def device_named(given: str, threads: int = 1) -> Named:
    """The type of device that `given` names: one GPU, several between commas, or this machine's CPU.

    Args:
        threads: of a process, on a CPU.

    Raises:
        InputError: one is unknown; suggests the most similar name.
    """
    names = [each.strip() for each in given.split(",") if each.strip()]
    if not names:
        raise InputError("no GPU is named", where="--gpu", do=f"one of {', '.join(DEVICES)}, or {CPU}")
    if [name.upper() for name in names] == [CPU]:
        return Named(CPU, this_cpu(threads))
    known: dict[str, None] = {}
    said = list[str]()
    for name in names:
        found = gpu_called(name)
        if found is None:
            do = did_you_mean(name, [*DEVICES, *CHOICES, CPU], cutoff=0.3)
            raise InputError(f"unknown GPU {name!r}", where="--gpu", do=do)
        family = family_called(name)
        if family is not None:
            others = ", ".join(each for each in DEVICES if each.startswith(family) and each != found)
            said.append(f"{name} is taken as {found}; there is {others} too")
        known[found] = None
    each = [DEVICES[name] for name in known]
    if len(each) > 1:
        said.append(
            f"Mixed cards: planned as if all were the least of {' and '.join(known)} in memory and speed, because "
            "processes that train together wait for the slowest"
        )
    worst = Device(
        min(one.memory for one in each),
        min(one.operations for one in each),
        min(one.bandwidth for one in each),
        all(one.has_bf16 for one in each),
        min(one.operations32 or one.operations for one in each),
    )
    differ = not worst.has_bf16 and any(one.has_bf16 for one in each)
    if not worst.has_bf16:
        without = " and ".join(name for name in known if not DEVICES[name].has_bf16)
        written = ", and has to be written so" if differ else ""
        said.append(f"Without bf16 on {without}, compute.precision=auto is planned as fp32{written}")
    return Named("+".join(known), worst, tuple(said), differ)


def device_of(recipe: Recipe, given: str | None) -> Named:
    """The type of device that a recipe is planned for.

    Args:
        given: what names it; None leaves it to the recipe.

    Raises:
        InputError: it is unknown, or the recipe computes on another kind of device.
    """
    device = recipe.compute.device
    named = device_named(given or (CPU if device == "cpu" else USUAL), recipe.compute.threads)
    if (device == "cpu" and not named.is_cpu) or (device == "cuda" and named.is_cpu):
        what = f"compute.device is {device}, but the plan is to be for {named.name}"
        raise InputError(what, where="--gpu", do="leave --gpu out, or set compute.device=auto")
    return named


def show(path: Path, overrides: Sequence[str], assumed: Assumptions, *, tiny: bool = False, measured: bool) -> None:
    """Print the plan of a recipe, and refuse one that does not fit into memory.

    Args:
        path: the recipe's file.
        overrides: changes to it, each `key=value`.
        tiny: plan the recipe scaled down.
        measured: take the mean lengths from what a finished run left in this folder, and compare the plan with it.

    Raises:
        InputError: the recipe cannot run, or does not fit; says what would.
    """
    _check_utilisation(assumed)
    recipe, graph = load(existing(path), overrides, tiny=tiny, pinned=False, active=Path("params.yaml"))
    card = device_of(recipe, assumed.gpu)
    found = {method: getattr(recipe, method).auto.most for method in on_auto(recipe)}
    if found and not measured:
        most = {method: FoundRounds(ran=number, kept=number) for method, number in found.items()}
        graph = graph_of(recipe, pinned=False, kept=graph.kept, rounds=most)
    if card.is_cpu:
        recipe = recipe.model_copy(update={"compute": recipe.compute.model_copy(update={"device": "cpu"})})
    said = probe_models(recipe, str(path))
    sampled = sampled_lengths(recipe)
    lengths = assumed.lengths(recipe, sampled)
    if measured:
        lengths = measured_lengths(recipe, graph)
    planner = Planner(recipe, graph, card.device, assumed.utilisation, lengths, card.name)
    stages = planner.plan()
    for line in headline(planner, card):
        print(line)
    print(f"{planner.rows:,} demonstrations; mean tokens: prompt {lengths.prompt:.0f}, ", end="")
    print(f"response {lengths.response:.0f}, sample {lengths.sample:.0f}", end="")
    if sampled is not None:
        rows = f"the first {len(sampled):,} rows"
        print("" if measured else f" (unless given, of those of {rows} that the limits keep)")
        print("\n" + "\n".join(sampled.lines(recipe.template, rows, planner.policy.positions)), end="")
    print("\n")
    print(format_plan(stages, planner.device, planner.devices))
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
        print("\n" + format_comparison([*compare(stages, graph), *compare_memory(stages, planner.on_cpu)]))
    if card.is_cpu:
        check_memory(stages, card.device, card.name, lambda: "a machine with more memory", sharded=False)
    else:
        check_memory(stages, card.device, card.name, lambda: instead(path, overrides, assumed, tiny=tiny))


def headline(planner: Planner, card: Named) -> list[str]:
    """What is planned for, and with what speed, in one line; what was taken for what the name leaves open."""
    device = planner.device
    start = f"Recipe {planner.recipe.name}: {planner.devices} x {card.name}, ZeRO stage {planner.zero}, "
    if card.is_cpu:
        speed = f"{device.operations / 1e9:.0f} GFLOP/s and {device.bandwidth / 1e9:.1f} GB/s"
        how = f"{device.memory / GIB:.1f} GiB; hours are an estimate, from {speed} measured just now"
    else:
        speed = f"{device.operations / 1e12:.0f} TFLOP/s and {device.bandwidth / 1e12:.2f} TB/s"
        how = f"{planner.speeds}, which is {speed}" + " in fp32" * planner.in_float32
    return [start + how, *(f"{line}." for line in card.said)]


def _check_utilisation(assumed: Assumptions) -> None:
    if assumed.utilisation is not None and not 0 < assumed.utilisation <= 1:
        raise InputError(f"--utilisation is {assumed.utilisation}", do="use a share above 0 and at most 1")


def show_fitting(path: Path, overrides: Sequence[str], assumed: Assumptions, *, tiny: bool = False) -> None:
    """Print the fastest settings with which a recipe fits the GPUs that are named, see `fitting`.

    Args:
        overrides: changes to the recipe; of `compute.processes` the last is the number of GPUs.

    Raises:
        InputError: nothing that is tried fits; names the stage that is too large.
    """
    _check_utilisation(assumed)
    found, card = _fitting(path, overrides, assumed, tiny=tiny)
    for line in headline(found.planner, card):
        print(line)
    worst, devices = found.worst, found.planner.devices
    hours = sum(stage.hours(found.planner.device, devices) for stage in found.stages)
    disk = sum(stage.disk for stage in found.stages)
    room = f"{worst.memory / GIB:.1f} of {card.device.memory / GIB:.1f} GiB in {worst.name}"
    start = "It fits" if found.changes else "It fits as it is"
    print(f"{start}: {room} at most, {hours:.1f} hours in all, {disk / 1e9:.1f} GB of disk.\n")
    print(found.command(_recipe_word(path), tiny=tiny))
    print("".join(f"\n{line}." for line in found.costs))


def instead(path: Path, overrides: Sequence[str], assumed: Assumptions, *, tiny: bool = False) -> str:
    """What fits instead of a plan that does not, as the object of "use"."""
    try:
        found, _ = _fitting(path, overrides, assumed, tiny=tiny)
    except InputError:
        return "a larger GPU (juicer plan --fit finds nothing for this one)"
    return f"what juicer plan --fit proposes ({' '.join(found.overrides)}), or a larger GPU"


def _fitting(path: Path, overrides: Sequence[str], assumed: Assumptions, *, tiny: bool) -> tuple[Fit, Named]:
    processes = "compute.processes="
    asked = [each.removeprefix(processes) for each in overrides if each.startswith(processes)]
    others = [each for each in overrides if not each.startswith(processes)]

    def with_changes(changes: Sequence[str]) -> tuple[Recipe, Graph]:
        given = [*others, *changes]
        return load(existing(path), given, tiny=tiny, pinned=False, active=Path("params.yaml"))

    recipe, _ = with_changes([])
    card = device_of(recipe, assumed.gpu)
    if card.is_cpu:
        where = "compute.device=cpu" if recipe.compute.device == "cpu" else "--gpu CPU"
        raise InputError("--fit proposes changes for GPUs", where=where, do="name a GPU")
    lengths = assumed.lengths(recipe, sampled_lengths(recipe))

    def plan(recipe: Recipe, graph: Graph) -> tuple[Planner, list[StagePlan]]:
        planner = Planner(recipe, graph, card.device, assumed.utilisation, lengths, card.name)
        return planner, planner.plan()

    if asked and not (asked[-1].isdigit() and int(asked[-1])):
        with_changes([f"{processes}{asked[-1]}"])  # says what is wrong with it
    gpus = int(asked[-1]) if asked else recipe.compute.processes
    found = fit(with_changes, plan, card.device, card.name, gpus, differ_in_bf16=card.differ_in_bf16)
    return kept_as_given(found, others, recipe), card


def _recipe_word(path: Path) -> str:
    """A recipe as the command line takes it."""
    return path.stem if path.parent == Path("recipes") else str(path)
