"""The graph of rounds that follows from a recipe: what dvc.yaml's `foreach` runs over."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer

from juicer.recipe.schema import Recipe
from juicer.runtime.errors import InputError
from juicer.settings.base import Settings
from juicer.sources.files import is_path

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
DATASET_ID = re.compile(rf"[A-Za-z0-9][\w.-]*|{HUB_ID.pattern}")
WORLD_POLICY, WORLD_SCORER = "models/world/policy", "models/world/scorer"
ABSENT = "recipes/absent"
"""What params.yaml has for an input that the recipe does not have: DVC allows no empty dependency."""
OptionalInput = Annotated[
    str | None,
    BeforeValidator(lambda path: None if path == ABSENT else path),
    PlainSerializer(lambda path: ABSENT if path is None else path, return_type=str),
]
CONFIGS = Path("recipes/models")
"""The config.json of every hub model that a recipe here names: for `--tiny`, and for a plan without weights."""
SFT, SFT_MATCHED = "models/sft", "models/sft-matched"
BENCHMARKS = "data/benchmarks"
INPUTS = "inputs"
"""Folder of the copies of local inputs."""
GB = 1e9


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
    previous: OptionalInput
    """The table so far; None for the first row."""


class SftControl(Settings):
    """Models whose steps and tokens the control has to match."""

    irft: OptionalInput
    rft: OptionalInput


class Kept(Settings):
    """A local input that is copied into DVC."""

    source: str
    copy_: str = Field(alias="copy")
    """Where the copy is, in the project."""


class Graph(Settings):
    """What dvc.yaml's `foreach` runs over. Derived from the recipe, never typed by hand."""

    base: str
    scorer: OptionalInput
    source: OptionalInput
    """Local files of demonstrations."""
    table: OptionalInput
    """The finished table of evaluations."""
    pretrain: dict[str, OptionalInput]
    """Local files of the corpus."""
    kept: dict[str, Kept] = Field(default_factory=dict)
    """Local inputs that are copied into DVC."""
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
    leaderboard_table: OptionalInput


def graph_of(recipe: Recipe, *, pinned: bool = True, kept: Mapping[str, Kept] | None = None) -> Graph:
    """Derive the graph of rounds from a recipe.

    Args:
        pinned: reject a model id without a revision, which a plan does not need.
        kept: the local inputs that are kept; None decides it by their sizes. The others have to exist.

    Raises:
        InputError: a model id has no revision, or a file of a source does not exist.
    """
    downloads: dict[str, Download] = {}
    tiny: dict[str, TinyModel] = {}

    def located(name: str, key: str, model: str, revision: str | None) -> str:
        if recipe.pretrain is not None and model in (WORLD_POLICY, WORLD_SCORER):
            return model
        if recipe.tiny is not None:
            tiny[name] = TinyModel(config=str(config_of(model, f"{key}.model")))
            return f"models/tiny/{name}"
        if name in (kept or {}) or Path(model).is_dir() or model.startswith((".", "/")) or not HUB_ID.fullmatch(model):
            return model
        if revision is None and pinned:
            do = f"set {key}.revision to a commit of {model}, or create the folder {model}"
            raise InputError(f"there is no folder {model!r}, and a hub id needs a pinned revision", do=do)
        downloads[name] = Download(model=model, revision=revision or "")
        return f"models/hub/{name}"

    base = located("policy", "policy", recipe.policy.model, recipe.policy.revision)
    scorer = None
    if recipe.scorer.kind != "none":
        if recipe.scorer.model is None:
            raise InputError(f"scorer.kind is {recipe.scorer.kind!r}, but scorer.model is not set")
        scorer = located("scorer", "scorer", recipe.scorer.model, recipe.scorer.revision)
    reward = SFT
    if recipe.rft.reward.model is not None and recipe.rft.rounds:
        reward = located("reward", "rft.reward", recipe.rft.reward.model, recipe.rft.reward.revision)

    irft, rft = {}, {}
    for t, part in enumerate(recipe.irft.parts, 1):
        irft[f"r{t}"] = IrftRound(previous=f"models/irft/r{t - 1}" if t > 1 else SFT, part=part)
    for t, part in enumerate(recipe.rft.parts, 1):
        rft[f"r{t}"] = RftRound(
            previous=f"models/rft/r{t - 1}/policy" if t > 1 else SFT,
            reward=f"models/rft/r{t - 1}/reward" if t > 1 else reward,
            part=part,
        )
    last_irft = f"models/irft/r{recipe.irft.rounds}" if irft else None
    last_rft = f"models/rft/r{recipe.rft.rounds}/policy" if rft else None
    controlled = recipe.sft_matched.enabled and bool(irft or rft)

    models: dict[str, Evaluated] = {}
    previous: str | None = None

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
        source=_source(recipe.fetch.source, "fetch.source", kept),
        table=previous,
        pretrain={"world": _source(recipe.pretrain.corpus, "pretrain.corpus", kept)} if recipe.pretrain else {},
        kept=kept_of(recipe) if kept is None else dict(kept),
        downloads=downloads,
        tiny=tiny,
        irft=irft,
        rft=rft,
        sft_matched={"control": SftControl(irft=last_irft, rft=last_rft)} if controlled else {},
        models=models,
        benchmarks=mirror or BENCHMARKS,
        mirror={"hub": BENCHMARKS} if measured and mirror is None else {},
        leaderboard=measured,
        leaderboard_table=_leaderboard_table(list(measured)[-1]) if measured else None,
    )


def config_of(model: str, key: str) -> Path:
    """The config.json of a model: in its folder, or kept with the recipes under the last part of its hub id.

    Raises:
        InputError: there is none; names the path to save it under.
    """
    if (Path(model) / "config.json").is_file():
        return Path(model) / "config.json"
    kept = CONFIGS / f"{Path(model).name}.json"
    if not kept.is_file():
        raise InputError(f"there is no config.json of {model!r} here", where=key, do=f"save it as {kept}")
    return kept


def _measured(recipe: Recipe, models: dict[str, Evaluated]) -> dict[str, Evaluated]:
    """The models of the leaderboard, each with the table that its row is added to; none if it is switched off."""
    measured: dict[str, Evaluated] = {}
    if not recipe.leaderboard.enabled:
        return measured
    previous: str | None = None
    last = {"irft": recipe.irft.rounds, "rft": recipe.rft.rounds}
    for name, model in models.items():
        if name == "sft" and recipe.sft.epochs == 0:
            continue  # it equals base, and the benchmarks take hours
        if recipe.leaderboard.rounds == "all" or model.round == last.get(model.method, 0):
            measured[name] = model.model_copy(update={"previous": previous})
            previous = _leaderboard_table(name)
    return measured


def _leaderboard_table(name: str) -> str:
    return f"evaluation/leaderboard-tables/{name}.json"


def named_inputs(recipe: Recipe) -> dict[str, str]:
    """What the recipe reads that may be on this machine only, by name: paths, or ids of the hub."""
    found: dict[str, str | None] = {"source": recipe.fetch.source, "corpus": getattr(recipe.pretrain, "corpus", None)}
    if recipe.tiny is None:
        found["policy"] = recipe.policy.model
        found["scorer"] = recipe.scorer.model if recipe.scorer.kind != "none" else None
        found["reward"] = recipe.rft.reward.model if recipe.rft.rounds else None
    found["benchmarks"] = recipe.leaderboard.mirror if recipe.leaderboard.enabled else None
    return {name: value for name, value in found.items() if value is not None}


def local_inputs(recipe: Recipe) -> dict[str, Kept]:
    """Files and folders that the recipe reads and no stage makes, each with the place of a copy."""
    made = ("world", WORLD_POLICY, WORLD_SCORER) if recipe.pretrain is not None else ("world",)
    found: dict[str, Kept] = {}
    for name, source in named_inputs(recipe).items():
        known = [kept.source for kept in found.values()]
        # A copy of a copy would be its own source.
        if source in (*made, *known) or Path(source).parts[:1] == (INPUTS,) or not Path(source).exists():
            continue
        found[name] = Kept(source=source, copy=copy_of(name, source))
    return found


def copy_of(name: str, source: str) -> str:
    """Where an input is copied to. A file keeps the end of its name, by which its format is known."""
    return f"{INPUTS}/{name}{''.join(Path(source).suffixes) if Path(source).is_file() else ''}"


def kept_of(recipe: Recipe) -> dict[str, Kept]:
    """The local inputs that are small enough to be kept."""
    limit = recipe.keep.up_to_gb * GB
    return {name: each for name, each in local_inputs(recipe).items() if limit and size_of(each.source) <= limit}


def size_of(source: str) -> int:
    """Bytes of a file or a folder."""
    place = Path(source)
    files = [place] if place.is_file() else (each for each in place.rglob("*") if each.is_file())
    return sum(each.stat().st_size for each in files)


def _source(source: str, key: str, kept: Mapping[str, Kept] | None) -> str | None:
    """The local files that a source of data is read from; None for the generated world and for a dataset of the hub."""
    if source in (each.source for each in (kept or {}).values()):
        return source
    if source == "world" or (key == "fetch.source" and not is_path(source) and DATASET_ID.fullmatch(source)):
        return None
    if not Path(source).exists():
        raise InputError(f"{key}: no such file or folder: {source}", do="paths are relative to the project's root")
    return source
