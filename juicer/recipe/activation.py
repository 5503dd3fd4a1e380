"""Validate a recipe and make it the active one: write params.yaml, with the graph of rounds derived from it.

python -m juicer.recipe.activation recipes/quickstart.yaml
python -m juicer.recipe.activation recipes/quickstart.yaml irft.rounds=4 rft.rounds=0 seed=1
python -m juicer.recipe.activation recipes/hh-irft.yaml --tiny  # random tiny models of the same architecture
python -m juicer.recipe.activation --check            # is params.yaml valid?
"""

import argparse
import copy
import difflib
import importlib.metadata
import io
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from packaging.version import Version
from pydantic import Field
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from juicer.data.sources import is_path
from juicer.runtime.errors import InputError
from juicer.settings.base import Settings
from juicer.settings.compute import ComputeSettings
from juicer.settings.data import CurateSettings, FetchSettings, ScorerSettings, TemplateSettings
from juicer.settings.evaluation import EvaluationSettings
from juicer.settings.irft import IrftSettings
from juicer.settings.leaderboard import LeaderboardSettings
from juicer.settings.models import PolicySettings, RegisterSettings
from juicer.settings.rft import RftSettings
from juicer.settings.sft import SftMatchedSettings, SftSettings
from juicer.settings.tiny import TinySettings
from juicer.settings.world import PretrainSettings, WorldSettings
from juicer.stages.stage import guarded, read_yaml

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
DATASET_ID = re.compile(rf"[A-Za-z0-9][\w.-]*|{HUB_ID.pattern}")
PLAIN_PATH = re.compile(r"[\w@%+=:,./][\w@%+=:,./-]*")
WORLD_POLICY, WORLD_SCORER = "models/world/policy", "models/world/scorer"
GENERATOR = "juicer/quickstart/world.py"
CONFIGS = Path("recipes/models")
"""The config.json of every hub model that a recipe here names: for `--tiny`, and for a plan without weights."""
SFT, SFT_MATCHED = "models/sft", "models/sft-matched"
# A table starts from a folder that is no table.
CURATED, BENCHMARKS = "data/curated", "data/benchmarks"
TINY = (
    "tiny={}",
    "compute.processes=1",
    "compute.zero_stage=0",
    "fetch.source=world",
    "fetch.revision=null",
    "fetch.held_out_split=null",
    "world={rows: 100}",
    "template.max_prompt_tokens=96",
    "template.max_response_tokens=64",
    "curate={keep: 64, validation_share: 0.1, held_out_share: 0.1}",
    "sft.batch_size=32",
    "sft.micro_batch_size=null",
    "irft.training.batch_size=8",
    "irft.training.micro_batch_size=4",
    "rft.reward.batch_size=8",
    "rft.reward.micro_batch_size=null",
    "rft.policy.steps=2",
    "rft.policy.micro_batch_size=null",
    "rft.policy.prompts_per_step=4",
    "rft.policy.samples_per_prompt=2",
    "evaluation.prompts=8",
    "leaderboard.enabled=false",
)
"""What `--tiny` changes: sizes and sources. Methods, rounds, epochs, rates and adapters stay the recipe's."""


class Recipe(Settings):
    """Everything that decides a result."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    """Lower-case name; also the MLflow experiment and registered model."""
    description: str = ""
    """One or two sentences for the report."""
    seed: int = Field(0, ge=0)
    """Every random choice follows from it."""
    compute: ComputeSettings = ComputeSettings()
    fetch: FetchSettings
    world: WorldSettings | None = None
    pretrain: PretrainSettings | None = None
    tiny: TinySettings | None = None
    template: TemplateSettings = TemplateSettings()
    policy: PolicySettings
    scorer: ScorerSettings = ScorerSettings()
    curate: CurateSettings = CurateSettings()
    sft: SftSettings
    sft_matched: SftMatchedSettings
    irft: IrftSettings = IrftSettings()
    rft: RftSettings = RftSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    leaderboard: LeaderboardSettings = LeaderboardSettings()
    register_: RegisterSettings = Field(RegisterSettings(), alias="register")


class IrftRound(Settings):
    """Inputs of one IRFT round."""

    previous: str
    """Policy that the round starts from."""
    part: str
    """Slice of the demonstrations, "2/5" or "all"."""


class RftRound(Settings):
    """Inputs of one RFT round."""

    previous: str
    """Policy that the round starts from."""
    reward: str
    """Reward model, or trunk for the first round, that the round starts from."""
    part: str
    """Slice of the demonstrations, "2/5" or "all"."""


class Download(Settings):
    """A model of the hub."""

    model: str
    revision: str


class TinyModel(Settings):
    """A random stand-in for a model."""

    config: str
    """The real model's config.json."""


class Evaluated(Settings):
    """A model to be evaluated, and the table that its row is added to."""

    path: str
    method: str
    round: int
    previous: str
    """The table so far; the curated data for the first row."""


class SftControl(Settings):
    """Models whose steps and tokens the control has to match."""

    irft: str
    rft: str


class Graph(Settings):
    """What dvc.yaml's `foreach` runs over. Derived from the recipe, never typed by hand."""

    base: str
    scorer: str
    source: str
    table: str
    pretrain: dict[str, str]
    downloads: dict[str, Download]
    tiny: dict[str, TinyModel]
    irft: dict[str, IrftRound]
    rft: dict[str, RftRound]
    sft_matched: dict[str, SftControl]
    models: dict[str, Evaluated]
    benchmarks: str
    """Folder with the data of the leaderboard."""
    mirror: dict[str, str]
    leaderboard: dict[str, Evaluated]
    leaderboard_table: str


def graph_of(recipe: Recipe, *, pinned: bool = True) -> Graph:
    """Derive the graph of rounds from a recipe.

    Args:
        pinned: refuse a model id without a revision; a plan needs none.

    Raises:
        InputError: a model id without a revision, or a source that needs a section which is missing.
    """
    downloads: dict[str, Download] = {}
    tiny: dict[str, TinyModel] = {}

    def located(name: str, key: str, model: str, revision: str | None) -> str:
        if recipe.pretrain is not None and model in (WORLD_POLICY, WORLD_SCORER):
            return model
        if recipe.tiny is not None:
            tiny[name] = TinyModel(config=str(config_of(model, f"{key}.model")))
            return f"models/tiny/{name}"
        if Path(model).is_dir() or model.startswith((".", "/")) or not HUB_ID.fullmatch(model):
            return model
        if revision is None and pinned:
            do = f"add {key}.revision: a commit of {model}, or make the folder {model}"
            raise InputError(f"{model!r} is no folder here, and as a hub id it needs a pinned revision", do=do)
        downloads[name] = Download(model=model, revision=revision or "")
        return f"models/hub/{name}"

    base = located("policy", "policy", recipe.policy.model, recipe.policy.revision)
    # DVC allows no empty dependency; without a scorer the evaluation depends on the base model instead.
    scorer = base
    if recipe.scorer.kind != "none":
        if recipe.scorer.model is None:
            raise InputError(f"scorer.kind is {recipe.scorer.kind!r} but scorer.model is not set")
        scorer = located("scorer", "scorer", recipe.scorer.model, recipe.scorer.revision)
    reward = SFT
    if recipe.rft.reward.model is not None and recipe.rft.rounds:
        reward = located("reward", "rft.reward", recipe.rft.reward.model, recipe.rft.reward.revision)

    irft, rft = {}, {}
    parts = recipe.irft.rounds // recipe.irft.passes
    for t in range(1, recipe.irft.rounds + 1):
        part = "all" if recipe.irft.slice == "all" else f"{(t - 1) % parts + 1}/{parts}"
        irft[f"r{t}"] = IrftRound(previous=f"models/irft/r{t - 1}" if t > 1 else SFT, part=part)
    for t in range(1, recipe.rft.rounds + 1):
        part = "all" if recipe.rft.slice == "all" else f"{t}/{recipe.rft.rounds}"
        rft[f"r{t}"] = RftRound(
            previous=f"models/rft/r{t - 1}/policy" if t > 1 else SFT,
            reward=f"models/rft/r{t - 1}/reward" if t > 1 else reward,
            part=part,
        )
    last_irft = f"models/irft/r{recipe.irft.rounds}" if irft else base
    last_rft = f"models/rft/r{recipe.rft.rounds}/policy" if rft else base
    controlled = recipe.sft_matched.enabled and bool(irft or rft)

    models: dict[str, Evaluated] = {}
    previous = CURATED

    def add(name: str, path: str, method: str, number: int) -> None:
        nonlocal previous
        models[name] = Evaluated(path=path, method=method, round=number, previous=previous)
        previous = f"evaluation/tables/{name}.json"

    add("base", base, "base", 0)
    add("sft", SFT, "sft", 0)
    if controlled:
        add("sft-matched", SFT_MATCHED, "sft-matched", 0)
    for t in range(1, recipe.irft.rounds + 1):
        add(f"irft-r{t}", f"models/irft/r{t}", "irft", t)
    for t in range(1, recipe.rft.rounds + 1):
        add(f"rft-r{t}", f"models/rft/r{t}/policy", "rft", t)
    measured = _measured(recipe, models)
    mirror = recipe.leaderboard.mirror
    return Graph(
        base=base,
        scorer=scorer,
        source=_source(recipe.fetch.source, "fetch.source"),
        table=previous,
        pretrain={"world": _source(recipe.pretrain.corpus, "pretrain.corpus")} if recipe.pretrain else {},
        downloads=downloads,
        tiny=tiny,
        irft=irft,
        rft=rft,
        sft_matched={"control": SftControl(irft=last_irft, rft=last_rft)} if controlled else {},
        models=models,
        benchmarks=mirror or BENCHMARKS,
        mirror={"hub": BENCHMARKS} if measured and mirror is None else {},
        leaderboard=measured,
        leaderboard_table=_leaderboard_table(list(measured)[-1]) if measured else CURATED,
    )


def config_of(model: str, key: str) -> Path:
    """The config.json of a model: in its folder, or kept with the recipes under the last part of its hub id.

    Raises:
        InputError: there is none; says where one would be looked for.
    """
    if (Path(model) / "config.json").is_file():
        return Path(model) / "config.json"
    kept = CONFIGS / f"{Path(model).name}.json"
    if not kept.is_file():
        raise InputError(f"the configuration of {model!r} is not known here", where=key, do=f"save it as {kept}")
    return kept


def _measured(recipe: Recipe, models: dict[str, Evaluated]) -> dict[str, Evaluated]:
    """The models of the leaderboard, each with the table that its row is added to; none where it is switched off."""
    measured: dict[str, Evaluated] = {}
    if not recipe.leaderboard.enabled:
        return measured
    previous, last = CURATED, {"irft": recipe.irft.rounds, "rft": recipe.rft.rounds}
    for name, model in models.items():
        if name == "sft" and recipe.sft.epochs == 0:
            continue  # it is base once more, and that takes hours
        if recipe.leaderboard.rounds == "all" or model.round == last.get(model.method, 0):
            measured[name] = model.model_copy(update={"previous": previous})
            previous = _leaderboard_table(name)
    return measured


def _leaderboard_table(name: str) -> str:
    return f"evaluation/leaderboard-tables/{name}.json"


def _source(source: str, key: str) -> str:
    """What DVC watches for a source of data: the local files, else the generator, which cannot change otherwise."""
    if source == "world" or (key == "fetch.source" and not is_path(source) and DATASET_ID.fullmatch(source)):
        return GENERATOR
    if not Path(source).exists():
        raise InputError(f"{key}: no such file or folder: {source}", do="paths are relative to the project's root")
    return source


def _from_home(recipe: Recipe) -> Recipe:
    """The recipe with `~` written out, which DVC does not do."""
    changes: dict[str, Any] = {}
    for name in ("fetch", "pretrain", "policy", "scorer"):
        section = getattr(recipe, name)
        key = {"fetch": "source", "pretrain": "corpus"}.get(name, "model")
        value = getattr(section, key, None)
        if value is not None and value.startswith("~"):
            changes[name] = section.model_copy(update={key: str(Path(value).expanduser())})
    return recipe.model_copy(update=changes)


def _check_models(recipe: Recipe, where: str) -> None:
    """Check that every model is a folder here, a hub id, or made by a stage; and that a shell reads its name as it is.

    Only where a recipe is made the active one: an evaluation needs no model that a stage before it has read.
    """
    reward = recipe.rft.reward if recipe.rft.rounds else None
    for key, named in (("policy", recipe.policy), ("scorer", recipe.scorer), ("rft.reward", reward)):
        model = None if named is None or (named is recipe.scorer and recipe.scorer.kind == "none") else named.model
        if model is None or (recipe.pretrain is not None and model in (WORLD_POLICY, WORLD_SCORER)):
            continue
        if not PLAIN_PATH.fullmatch(model):
            what = f"{key}.model: {model!r} has a blank or another character that a shell reads as something else"
            raise InputError(what, where=where, do="rename the folder, or link to it")
        # A folder that is missing and could be a hub id is answered for by its revision.
        if recipe.tiny is None and not Path(model).is_dir() and not HUB_ID.fullmatch(model):
            do = "paths are relative to the project's root"
            raise InputError(f"{key}.model: no such folder: {model}", where=where, do=do)


def _check_pinned(fetch: FetchSettings, where: str) -> None:
    if fetch.source != "world" and not is_path(fetch.source) and fetch.revision is None:
        what = f"fetch.source: {fetch.source!r} is no file or folder here, and as a dataset's id it needs a revision"
        raise InputError(what, where=where, do="check the path, or set fetch.revision to a commit")


def validate(params: dict[str, Any], where: str) -> Recipe:
    """Validate a whole params.yaml: the recipe and the graph that was derived from it.

    Raises:
        InputError: an unknown key (with the nearest right one), a wrong value, or a graph that is not the recipe's.
    """
    params = dict(params)
    if "graph" not in params:
        raise InputError("no graph of rounds", where=where, do="derive it: python -m juicer.recipe.activation RECIPE")
    graph = Graph.parse(params.pop("graph"), f"{where}: graph")
    recipe = Recipe.parse(params, where)
    check_consistent(recipe, where)
    _check_installed(recipe, where)
    for method, rounds in (("irft", graph.irft), ("rft", graph.rft)):
        _check_chain(method, rounds, where)
    expected, found = _plain(graph_of(recipe)), _plain(graph)
    if expected != found:
        key = _first_difference(expected, found)
        active = Path("recipes") / f"{recipe.name}.yaml"
        again = f"python -m juicer.recipe.activation {active if active.is_file() else 'RECIPE'} [key=value ...]"
        do = f"{where} holds a change that `dvc exp run -S` or hand made; derive it again: {again}, then dvc checkout"
        raise InputError(
            f"graph.{key} does not follow from the recipe (irft.rounds, rft.rounds, ...)", where=where, do=do
        )
    return recipe


def check_consistent(recipe: Recipe, where: str) -> None:
    """Check what no single key can show: sections that need one another."""
    if recipe.fetch.source == "world" and recipe.world is None:
        raise InputError("fetch.source is 'world' but there is no section world", where=where)
    if recipe.fetch.source == "world" and not recipe.curate.held_out_share:
        what = "curate.held_out_share is 0, and the world holds nothing out to report on"
        raise InputError(what, where=where, do="raise it")
    if recipe.fetch.source != "world" and recipe.world is not None:
        do = "derive it again: python -m juicer.recipe.activation RECIPE"
        raise InputError("there is a section world, whose oracle judges no other source", where=where, do=do)
    if recipe.rft.optimiser == "ppo" and (recipe.compute.processes > 1 or recipe.compute.zero_stage):
        do = "set compute.processes to 1 and compute.zero_stage to 0, or rft.optimiser to rloo"
        raise InputError("rft.optimiser 'ppo' runs in one process", where=where, do=do)
    _check_shares(recipe, where)
    if recipe.irft.rounds % recipe.irft.passes:
        what = f"irft.rounds = {recipe.irft.rounds} is no multiple of irft.passes = {recipe.irft.passes}"
        raise InputError(what, where=where, do="change either")
    needs_tiny = recipe.policy.model == WORLD_POLICY or recipe.scorer.model == WORLD_SCORER
    if needs_tiny and recipe.pretrain is None:
        raise InputError(f"{WORLD_POLICY} is made by the section pretrain, which is missing", where=where)
    if recipe.pretrain is not None:
        longest = recipe.template.max_prompt_tokens + recipe.template.max_response_tokens
        if longest > recipe.pretrain.policy.context:
            raise InputError(
                f"template.max_prompt_tokens + max_response_tokens = {longest} exceeds "
                f"pretrain.policy.context = {recipe.pretrain.policy.context}",
                where=where,
            )


def _check_installed(recipe: Recipe, where: str) -> None:
    """PPO is in no release of TRL after 1.12. Checked where a stage starts: a plan of such a recipe needs no TRL."""
    installed = importlib.metadata.version("trl")
    if recipe.rft.optimiser == "ppo" and recipe.rft.rounds and Version(installed) >= Version("1.13"):
        do = "install the last one that has it: pip install --no-deps -r constraints-ppo.txt; or set it to rloo"
        raise InputError(f"rft.optimiser is 'ppo', which TRL {installed} does not have", where=where, do=do)


def _check_shares(recipe: Recipe, where: str) -> None:
    """TRL gives every process the same number of rows, so a batch has to be a multiple of what one pass takes."""
    policy, processes = recipe.rft.policy, recipe.compute.processes
    responses = policy.prompts_per_step * policy.samples_per_prompt
    for batch, key, micro, prefix in (
        (recipe.sft.batch_size, "sft.batch_size", recipe.sft.micro_batch_size, "sft"),
        (responses, "rft.policy.prompts_per_step * samples_per_prompt", policy.micro_batch_size, "rft.policy"),
    ):
        rows = processes * (micro or 1)
        if batch % rows:
            what = f"compute.processes * {prefix}.micro_batch_size" if micro else "compute.processes"
            raise InputError(f"{key} = {batch} is no multiple of {what} = {rows}", where=where, do="change either")


def _check_chain(method: str, rounds: dict[str, Any], where: str) -> None:
    for t, (key, item) in enumerate(rounds.items(), 1):
        suffix = "/policy" if method == "rft" else ""
        expected = f"models/{method}/r{t - 1}{suffix}" if t > 1 else SFT
        if key != f"r{t}" or item.previous != expected:
            raise InputError(
                f"rounds are not a chain: graph.{method}.{key}.previous is {item.previous!r}, not {expected!r}",
                where=where,
                do="never edit graph by hand; python -m juicer.recipe.activation RECIPE derives it",
            )


def _first_difference(expected: Any, found: Any, path: str = "") -> str:
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in [*expected, *found]:
            if expected.get(key) != found.get(key):
                return _first_difference(expected.get(key), found.get(key), f"{path}.{key}" if path else key)
    return path


def _plain(settings: Settings) -> dict[str, Any]:
    return settings.model_dump(mode="json", by_alias=True)


def load(path: Path, overrides: Sequence[str], *, tiny: bool = False, pinned: bool = True) -> tuple[Recipe, Graph]:
    """Read a recipe, apply `key=value` overrides (values are YAML), validate it and derive its graph.

    Args:
        tiny: scale it down first, see TINY; overrides come after that.
        pinned: refuse a model id without a revision.
    """
    values = _read(path)
    for override in (*(_scaled_down(values) if tiny else ()), *overrides):
        _apply(values, override)
    recipe = Recipe.parse(values, str(path))
    if recipe.fetch.source != "world":
        # A copy of the quickstart that names another source still has the section.
        recipe = recipe.model_copy(update={"world": None})
    recipe = _from_home(recipe)
    check_consistent(recipe, str(path))
    _check_models(recipe, str(path))
    mirror = recipe.leaderboard.mirror
    if recipe.leaderboard.enabled and mirror is not None and not Path(mirror).is_dir():
        do = f"make it, where there is a network: python -m tasks.mirror --out {mirror}"
        raise InputError(f"leaderboard.mirror: no such folder: {mirror}", where=str(path), do=do)
    graph = graph_of(recipe, pinned=pinned)
    if pinned:
        _check_pinned(recipe.fetch, str(path))
    return recipe, graph


def _read(path: Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The values of a recipe; `extends` names a recipe in the same folder, whose values it has where it says nothing.

    Raises:
        InputError: no such recipe, one that extends itself, or a mistake in one that is extended, with its file.
    """
    values = copy.deepcopy(read_yaml(path))
    values.pop("graph", None)
    name = values.pop("extends", None)
    if name is None:
        return values
    where = f"{path}: extends"
    if not isinstance(name, str):
        raise InputError(f"the name of a recipe is expected, not {name!r}", where=where)
    extended = path.parent / name
    if extended in (path, *below):
        raise InputError(f"{name} extends this recipe itself", where=where)
    whole = _read(existing(extended, where), (path, *below))
    Recipe.parse(whole, str(extended))
    return _merged(whole, values)


def _merged(whole: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`changes` over `whole`: sections are merged key by key, everything else is replaced."""
    merged = dict(whole)
    for key, value in changes.items():
        before = merged.get(key)
        merged[key] = _merged(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return merged


def _scaled_down(values: dict[str, Any]) -> list[str]:
    """The overrides that make a recipe tiny."""
    frozen = ((values.get("rft") or {}).get("reward") or {}).get("frozen_blocks")
    return [*TINY, *(["rft.reward.frozen_blocks=1"] if frozen else [])]


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"{override!r} is not key=value", where="command line")
    try:
        value = YAML(typ="safe").load(text) if text else None
    except YAMLError as error:
        raise InputError(f"the value of {key!r} is not valid YAML", where="command line") from error
    *parents, last = key.split(".")
    for parent in parents:
        inner = values.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise InputError(f"{parent!r} in {key!r} is not a section", where="command line")
        values = inner
    values[last] = value


def dump(recipe: Recipe, graph: Graph) -> str:
    """The text of params.yaml: every parameter, defaults included, then the derived graph."""
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 120
    text = io.StringIO()
    text.write("# The active recipe, every parameter spelled out. Written by python -m juicer.recipe.activation;\n")
    text.write("# values may be edited here (or with dvc exp run -S), except the graph, which is derived from them.\n")
    yaml.dump({**_plain(recipe), "graph": _plain(graph)}, text)
    return text.getvalue()


def activate(path: Path, overrides: Sequence[str], params: Path, *, tiny: bool = False) -> str:
    """Make a recipe the active one. Writes `params` only when something changes; returns what was done."""
    text = dump(*load(path, overrides, tiny=tiny))
    if params.is_file() and params.read_text(encoding="utf-8") == text:
        return f"{params} already is {path}"
    temporary = params.with_name(f".{params.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(params)
    return f"{params} written from {path}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m juicer.recipe.activation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", type=Path, nargs="?", help="recipe file, for example recipes/quickstart.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted key and YAML value")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="file to write, default params.yaml")
    parser.add_argument("--tiny", action="store_true", help="random tiny models, generated data: only the path")
    parser.add_argument("--check", action="store_true", help="only validate the active params.yaml")
    parser.add_argument("--dry-run", action="store_true", help="print what would be written")
    parser.add_argument("--describe", action="store_true", help="say what every parameter means, then stop")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    given = parser.parse_intermixed_args()

    def work() -> None:
        if given.describe:
            from juicer.recipe.describe import describe

            print("\n".join(describe(Recipe)))
        elif given.check:
            recipe = validate(read_yaml(given.params), str(given.params))
            print(f"{given.params}: recipe {recipe.name!r} is valid")
        elif given.recipe is None:
            known = sorted(str(path) for path in Path("recipes").glob("*.yaml"))
            raise InputError("no recipe given", do=f"one of: {', '.join(known)}")
        elif given.dry_run:
            print(dump(*load(existing(given.recipe), given.overrides, tiny=given.tiny)), end="")
        else:
            print(activate(existing(given.recipe), given.overrides, given.params, tiny=given.tiny))

    sys.exit(guarded(work, debug=given.debug, name="recipe"))


def existing(path: Path, where: str = "") -> Path:
    """A recipe file that is there; InputError names the nearest one that is."""
    if not path.is_file():
        known = [str(recipe) for recipe in sorted(path.parent.glob("*.yaml"))]
        near = difflib.get_close_matches(str(path), known, n=1, cutoff=0.3)
        what = f"no such recipe: {path.name}" if where else "no such recipe"
        raise InputError(what, where=where or str(path), do=f"did you mean {near[0]}?" if near else "")
    return path


if __name__ == "__main__":
    main()
