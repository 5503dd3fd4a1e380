"""`juicer init`: a commented recipe from a file, a model and this machine, loaded once before it is published."""

import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from juicer.drafting.choices import Choices, Facts, choose
from juicer.drafting.fitting import fit
from juicer.drafting.machine import Machine, look_at_machine
from juicer.drafting.measure import Measured, measure
from juicer.drafting.model import BYTES_PER_TOKEN, Model, Rendering, find_model, kind_of_scorer, rendering_of
from juicer.drafting.recipe_text import flow, ordered, recipe_text
from juicer.drafting.shown import aligned, as_seen, summary
from juicer.drafting.survey import Placed, Survey, check_usable, survey
from juicer.planning.planner import Lengths, Planner, StagePlan
from juicer.planning.tables import format_plan
from juicer.recipe.activation import load
from juicer.recipe.graph import Graph
from juicer.recipe.probing import probe_models
from juicer.recipe.schema import Recipe
from juicer.runtime.errors import InputError
from juicer.runtime.files import replace_text
from juicer.settings.sources import FetchSettings, ReadingSettings

UTILISATION = 0.4
"""Share of a GPU's peak that a plan assumes."""
HEADROOM = 0.95
"""Share of a GPU's memory that a plan may fill."""
FREE_SHARES = (0.5, 0.9)
"""Shares of the free main memory that a plan may fill: the second if nothing fits into the first."""
SHOWN_ROWS, MOST_TRIED = 3, 50
UNUSABLE_SHARE: float = FetchSettings.model_fields["unusable_share"].default
LONGEST_NAME = 100
NAME = rf"[a-z0-9][a-z0-9-]{{0,{LONGEST_NAME - 1}}}"


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    data: Sequence[str]
    reading: ReadingSettings
    out: Path
    model: str | None = None
    revision: str | None = None
    scorer: str | None = None
    scorer_revision: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class Draft:
    """A recipe that was loaded once, and what it was made from."""

    text: str
    choices: Choices
    found: Survey
    measured: Measured
    policy: Model
    scorer: Model | None
    machine: Machine
    rendering: Rendering
    stages: Sequence[StagePlan]
    devices: int
    probed: Sequence[str]


def name_of(out: Path) -> str:
    """The name of a recipe from its file's: the stem in lower case, with dashes for what a name cannot have."""
    return re.sub(r"[^a-z0-9]+", "-", out.stem.lower()).strip("-")[:LONGEST_NAME]


def check_name(name: str) -> None:
    """Refuse a name that a recipe cannot have, before any work.

    Raises:
        InputError: says what it may consist of.
    """
    if not re.fullmatch(NAME, name):
        do = "give another --name or --out, such as --out recipes/mine.yaml"
        raise InputError(f"{name!r} is not the name of a recipe: lower-case letters, digits and dashes", do=do)


def draft(request: Request, *, write: bool = True) -> Draft:
    """Look at everything and choose.

    Args:
        write: whether the config.json of a hub model stays beside the recipes.

    Raises:
        InputError: the data, a model or the machine does not do; says what, and what to do.
    """
    found = survey(request.data, request.reading)
    check_usable(found, UNUSABLE_SHARE)
    with ExitStack() as created:
        policy, scorer = _models(request, created)
        made = _drafted(request, found, policy, scorer)
        if write:
            created.pop_all()
        return made


def _models(request: Request, created: ExitStack) -> tuple[Model, Model | None]:
    """The policy and the scorer; what was kept for them is removed at the end of `created`."""
    policy = find_model(request.model, request.revision, "policy", "--model")
    created.callback(_remove, policy)
    scorer = None
    if request.scorer is not None:
        scorer = find_model(request.scorer, request.scorer_revision, "scorer", "--scorer")
        created.callback(_remove, scorer)
    return policy, scorer


def _remove(model: Model) -> None:
    if model.created is not None:
        model.created.unlink(missing_ok=True)


def _drafted(request: Request, found: Survey, policy: Model, scorer: Model | None) -> Draft:
    machine = look_at_machine()
    rendering, measured = best_rendering(policy, found)
    facts = facts_of(request, found, policy, scorer, machine, rendering, measured)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / request.out.name
        choices = fitted(facts, machine, place)
        text = recipe_text(choices, _head(request))
        recipe, graph = _loaded(text, place, request.out)
        probed = probe_models(recipe, str(request.out))
    planner = _planner(recipe, graph, machine, measured)
    stages = planner.plan()
    return Draft(text, choices, found, measured, policy, scorer, machine, rendering, stages, planner.devices, probed)


def best_rendering(policy: Model, found: Survey) -> tuple[Rendering, Measured]:
    """The template that takes most rows, the model's own if it takes half of them, with their lengths."""
    tried = []
    for rendering in rendering_of(policy):
        each = None if rendering.measured else BYTES_PER_TOKEN
        measured = measure(rendering.template, found.sample, bytes_per_token=each)
        tried.append((rendering, measured))
        if len(measured.rows) * 2 >= len(measured.rows) + sum(measured.unsuitable.values()):
            break
    return max(tried, key=lambda pair: len(pair[1].rows))


def facts_of(
    request: Request,
    found: Survey,
    policy: Model,
    scorer: Model | None,
    machine: Machine,
    rendering: Rendering,
    measured: Measured,
) -> Facts:
    """What the choices depend on."""
    sources = [{"path": source.path, "format": source.format} for source in found.sources]
    return Facts(
        name=request.name or name_of(request.out),
        sources=sources,
        columns=request.reading.columns,
        exchange=request.reading.exchange,
        rows=estimated_rows(found),
        further_turns=found.further_turns,
        measured=measured,
        policy=policy.name,
        revision=policy.revision,
        parameters=policy.shape.parameters,
        context=policy.context,
        template=rendering.template.settings.name,
        template_why=rendering.why,
        template_arguments=rendering.arguments,
        cores=machine.cores,
        scorer=scorer.name if scorer else None,
        scorer_kind=kind_of_scorer(scorer) if scorer else "none",
        scorer_revision=scorer.revision if scorer else None,
        gpus=len(machine.gpus),
        has_bf16=machine.has_bf16,
    )


def estimated_rows(found: Survey) -> int:
    """Different demonstrations; of a source that was read in part, as many as its rows and the part read suggest."""
    from juicer.planning.roles import count_rows
    from juicer.sources.files import files_of

    total = 0.0
    for source in found.sources:
        files = files_of(source.path, among_others=source.among_others)
        rows = source.rows if source.whole else sum(map(count_rows, files))
        total += source.demonstrations * rows / max(1, source.rows)
    return round(total * (1 - found.duplicates / max(1, found.demonstrations)))


def fitted(facts: Facts, machine: Machine, place: Path) -> Choices:
    """The choices whose plan fits this machine.

    Args:
        place: a file that may be written, to load recipes from.
    """

    def memory_of(choices: Choices) -> Mapping[str, float]:
        recipe, graph = _loaded(recipe_text(choices, ""), place, place)
        # Only the bytes are asked for, so the rows need not be counted again and again.
        rows = max(1, facts.rows)
        recipe = recipe.model_copy(update={"fetch": recipe.fetch.model_copy(update={"rows": rows})})
        return {stage.name: stage.memory for stage in _planner(recipe, graph, machine, facts.measured).plan()}

    where = machine.device_name if machine.gpus else "this machine"
    shares = (HEADROOM,) if machine.gpus else FREE_SHARES
    chosen = Choices({})
    for share in shares:
        chosen = fit(partial(choose, facts), memory_of, share * machine.device.memory, where)
        if not any(note.startswith("DOES NOT FIT") for note in chosen.notes):
            break
    return chosen


def _loaded(text: str, place: Path, out: Path) -> tuple[Recipe, Graph]:
    place.write_text(text, encoding="utf-8")
    try:
        return load(place, [])
    except InputError as error:
        raise InputError(error.what, where=error.where.replace(str(place), str(out)), do=error.do) from error


def _planner(recipe: Recipe, graph: Graph, machine: Machine, measured: Measured) -> Planner:
    limits = recipe.template
    rows = measured.fitting(limits.max_prompt_tokens, limits.max_response_tokens).rows
    prompt = sum(row.prompt for row in rows) / max(1, len(rows))
    response = sum(row.response for row in rows) / max(1, len(rows))
    if not machine.gpus:
        recipe = recipe.model_copy(update={"compute": recipe.compute.model_copy(update={"device": "cpu"})})
    return Planner(recipe, graph, machine.device, UTILISATION, Lengths(prompt, response, response))


def _head(request: Request) -> str:
    return (
        "Written by juicer init from the data, the model and the machine; every value may be changed.\n"
        "What is not here has its default (juicer describe)."
    )


def show(made: Draft) -> None:
    """Print what was found and chosen and why, rows as the policy will see them, and the plan."""
    lines = [*summary(made.found), ("model", str(made.policy))]
    lines += [("", made.policy.note)] if made.policy.note else []
    lines += [("", said.partition(" is exact: ")[2] or said) for said in made.probed]
    if made.scorer is not None:
        lines.append(("scorer", str(made.scorer)))
    lines.append(("machine", str(made.machine)))
    print(aligned(lines))
    print("\nChosen")
    print(
        aligned(
            (f"  {key}", _explained(chosen.value, chosen.why)) for key, chosen in ordered(made.choices) if chosen.why
        )
    )
    for note in made.choices.notes:
        print(f"\nNote: {note}")
    print("\nRows as the policy will see them, with what is trained on marked")
    for placed in _shown(made):
        print(f"\n{as_seen(made.rendering.template, placed, lengths=made.rendering.measured)}")
    print(f"\nPlan: {made.devices} x {made.machine.device_name}")
    print(format_plan(list(made.stages), made.machine.device, made.devices, UTILISATION))
    if not made.machine.has_speed:
        print("Hours are known for GPUs only; juicer status shows how far a run is.")


def _shown(made: Draft) -> list[Placed]:
    """The first training rows that are within the limits."""
    trained = [placed for placed in made.found.sample if not placed.row.held_out][:MOST_TRIED]
    prompt, response = (made.choices.value(f"template.max_{name}_tokens") for name in ("prompt", "response"))
    each = None if made.rendering.measured else BYTES_PER_TOKEN

    def fits(placed: Placed) -> bool:
        return bool(measure(made.rendering.template, [placed], bytes_per_token=each).fitting(prompt, response).rows)

    return [*islice(filter(fits, trained), SHOWN_ROWS)] or trained[:SHOWN_ROWS]


def _explained(value: object, why: str) -> str:
    return f"{flow(value).ljust(24)}  {why}"


def check_free(out: Path, *, force: bool) -> None:
    """Refuse to replace a recipe, unless that is asked for or confirmed on a terminal.

    Raises:
        InputError: the file exists.
    """
    if force or not out.exists():
        return
    if sys.stdin.isatty() and sys.stdout.isatty():
        import typer

        if typer.confirm(f"{out} exists. Replace it?"):
            return
    raise InputError("the recipe exists already", where=str(out), do="--force replaces it; or give another --out")


def publish(made: Draft, out: Path) -> None:
    """Write the recipe, whole or not at all."""
    replace_text(out, made.text)


def fits(made: Draft) -> bool:
    """Whether the plan fits this machine."""
    return not any(note.startswith("DOES NOT FIT") for note in made.choices.notes)
