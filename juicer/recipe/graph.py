"""The graph of rounds that follows from a recipe: what dvc.yaml's `foreach` runs over."""

import re
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from juicer.recipe.schema import Recipe
from juicer.runtime.errors import InputError
from juicer.settings.auto import RoundCriterion
from juicer.settings.base import Settings
from juicer.settings.data import ScorerSettings
from juicer.settings.preferences import FOLDERS
from juicer.settings.sources import MOST_SOURCES, WORLD, FetchSettings
from juicer.settings.training import LoraSettings
from juicer.sources.files import files_of, is_path, is_pattern, matches_of

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
SOURCES = ("source", *(f"source_{place}" for place in range(2, MOST_SOURCES + 1)))
"""Names of the local sources of demonstrations."""
GB = 1e9


class IrftRound(Settings):
    """Inputs of one IRFT round."""

    previous: str
    """Policy that the round starts from."""
    part: str
    """Slice of the demonstrations, "2/5" or "all"."""
    earlier: OptionalInput = None
    """Samples of the rounds before, where they are replayed."""


class RftRound(Settings):
    """Inputs of one RFT round."""

    previous: str
    """Policy that the round starts from."""
    sampled: str
    """Policy whose responses are contrasted with the demonstrations."""
    reward: str
    """Reward model, or trunk for the first round, that the round starts from."""
    part: str
    """Slice of the demonstrations, "2/5" or "all"."""
    earlier: OptionalInput = None
    """Samples of the rounds before, where they are replayed."""


class Download(Settings):
    """A model of the hub."""

    model: str
    revision: str


class TinyModel(Settings):
    """A random stand-in for a model."""

    config: str
    """The real model's config.json."""


Method = Literal["irft", "rft"]


class FoundRounds(Settings):
    """What is known so far of the rounds of a method on `rounds: auto`."""

    ran: int = Field(ge=1)
    """Rounds that ran, or are to run."""
    kept: int = Field(ge=1)
    """The first of them, that the report has: all, or all but the last one, which is discarded."""

    @model_validator(mode="after")
    def _discards_one(self) -> Self:
        if self.kept not in (self.ran, self.ran - 1):
            raise ValueError(f"kept = {self.kept} is neither ran = {self.ran} nor one less")
        return self


class Comparison(Settings):
    """A round of a method on `rounds: auto`, which is compared with the one before."""

    before: str
    """Evaluation of the round before; for the first round that of SFT."""
    earlier: OptionalInput
    """The comparisons so far; None for the first one."""
    criterion: RoundCriterion
    most: int
    """Largest number of rounds that are tried."""


class Evaluated(Settings):
    """A model to be evaluated, and the table that its row is added to."""

    path: str
    method: str
    round: int
    previous: OptionalInput
    """The table so far; None for the first row, and for a round that is discarded: no table that is read has it."""
    pairwise: OptionalInput = None
    """What the pairwise judge said of it against the control; None where it is not asked."""
    against: OptionalInput = None
    """Evaluation of the control, which people's votes compare it with; None for the control itself."""


class SftControl(Settings):
    """Models whose steps and tokens the control has to match."""

    irft: OptionalInput
    rft: OptionalInput


class PreferenceModel(Settings):
    """A reward model that is trained on pairs."""

    trunk: str
    """Model that it is initialised from."""
    source: OptionalInput
    """Its pairs' own file or folder; None for the rows of `fetch`."""


class JudgedPairs(Settings):
    """A model whose responses the pairwise judge compares with the control's."""

    against: str
    """Evaluation of the control."""


class Kept(Settings):
    """A local input that is copied into DVC."""

    source: str
    copy_: str = Field(alias="copy")
    """Where the copy is, in the project."""


class Graph(Settings):
    """What dvc.yaml's `foreach` runs over. Derived from the recipe, never typed by hand."""

    base: str
    adapted: OptionalInput
    """The base model of policies that are kept as adapters, which every stage that loads one needs; None without."""
    adapted_reward: OptionalInput
    """The base model of learnt rewards that are kept as adapters; None without."""
    scorer: OptionalInput
    judge: OptionalInput
    sources: dict[str, OptionalInput]
    """Local files and folders of demonstrations, in a fixed number of places: DVC takes no list of them."""
    pairwise: dict[str, JudgedPairs]
    """The models that the pairwise judge compares with the control, by name."""
    pairwise_judge: OptionalInput
    """Folder of the pairwise judge, where it is a model of this machine, or the file of its program."""
    rubric: OptionalInput
    """What makes a response better, in the recipe's words."""
    table: OptionalInput
    """The finished table of evaluations."""
    pretrain: dict[str, OptionalInput]
    """Local files of the corpus."""
    kept: dict[str, Kept] = Field(default_factory=dict)
    """Local inputs that are copied into DVC."""
    preferences: dict[str, PreferenceModel]
    """The reward models that are trained on pairs, by role: scorer, judge."""
    downloads: dict[str, Download]
    tiny: dict[str, TinyModel]
    irft: dict[str, IrftRound]
    rft: dict[str, RftRound]
    sft_matched: dict[str, SftControl]
    models: dict[str, Evaluated]
    rounds: dict[Method, FoundRounds]
    """The methods on `rounds: auto`. Found while they run (`juicer.recipe.rounds`), and recorded here."""
    comparisons: dict[str, Comparison]
    """Every round of these methods."""
    decisions: OptionalInput
    """All of their comparisons."""
    benchmarks: str
    """Folder with the data of the leaderboard."""
    mirror: dict[str, str]
    leaderboard: dict[str, Evaluated]
    leaderboard_table: OptionalInput


def graph_of(
    recipe: Recipe,
    *,
    pinned: bool = True,
    kept: Mapping[str, Kept] | None = None,
    rounds: Mapping[Method, FoundRounds] | None = None,
) -> Graph:
    """Derive the graph of rounds from a recipe.

    Args:
        pinned: reject a model id without a revision, which a plan does not need.
        kept: the local inputs that are kept; None decides it by their sizes. The others have to exist.
        rounds: what is known of the rounds of the methods on `auto`, which otherwise begin with one round.

    Raises:
        InputError: a model id has no revision, or a file of a source does not exist.
    """
    downloads: dict[str, Download] = {}
    tiny: dict[str, TinyModel] = {}

    def located(name: str, key: str, model: str, revision: str | None) -> str:
        if model in made_by_stages(recipe):
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

    def slot(name: str, settings: ScorerSettings) -> str | None:
        if settings.kind == "none":
            return None
        if settings.model is None:
            raise InputError(f"{name}.kind is {settings.kind!r}, but {name}.model is not set")
        return located(name, name, settings.model, settings.revision)

    scorer, judge = slot("scorer", recipe.scorer), slot("judge", recipe.judge)
    pairwise_judge = None
    if recipe.pairwise is not None and recipe.pairwise.kind == "model":
        pairwise_judge = located("pairwise", "pairwise", recipe.pairwise.model or "", recipe.pairwise.revision)
    elif recipe.pairwise is not None and recipe.pairwise.kind == "command":
        # A program of the project, so that another version of it judges anew; not one of the system.
        pairwise_judge = _program(recipe.pairwise.command)
    preferences: dict[str, PreferenceModel] = {}
    if recipe.preferences is not None:
        for role, model in recipe.preferences.models.items():
            trunk = base
            if model.model is not None:
                trunk = located(f"{role}_trunk", f"preferences.{role}", model.model, model.revision)
            preferences[role] = PreferenceModel(trunk=trunk, source=_pairs(recipe.preferences.source, kept or {}))
    reward = SFT
    if recipe.rft.reward.model is not None and recipe.rft.rounds:
        reward = located("reward", "rft.reward", recipe.rft.reward.model, recipe.rft.reward.revision)

    adapted, adapted_reward = _adapted(recipe, base, reward)
    found = _found(recipe, rounds or {})
    ran = {"irft": recipe.irft.most_rounds, "rft": recipe.rft.most_rounds}
    last = ran | {method: each.kept for method, each in found.items()}
    ran |= {method: each.ran for method, each in found.items()}
    irft, rft = {}, {}
    for t, part in enumerate(recipe.irft.parts[: ran["irft"]], 1):
        irft[f"r{t}"] = IrftRound(
            previous=f"models/irft/r{t - 1}" if t > 1 else SFT,
            part=part,
            earlier=_earlier("irft", t, recipe.irft.replay),
        )
    for t, part in enumerate(recipe.rft.parts[: ran["rft"]], 1):
        rft[f"r{t}"] = RftRound(
            previous=f"models/rft/r{t - 1}/policy" if t > 1 else SFT,
            sampled=f"models/rft/r{t - 1}/policy" if t > 1 and recipe.rft.contrast == "round" else SFT,
            reward=f"models/rft/r{t - 1}/reward" if t > 1 else reward,
            part=part,
            earlier=_earlier("rft", t, recipe.rft.replay),
        )
    last_irft = f"models/irft/r{last['irft']}" if irft else None
    last_rft = f"models/rft/r{last['rft']}/policy" if rft else None
    budget = recipe.sft_matched.steps or recipe.sft_matched.response_tokens
    controlled = recipe.sft_matched.enabled and bool(irft or rft or budget)

    models: dict[str, Evaluated] = {}
    previous: str | None = None

    control = "sft-matched" if controlled else "sft"
    pairwise: dict[str, JudgedPairs] = {}

    def add(name: str, path: str, method: str, number: int) -> None:
        nonlocal previous
        if number > last.get(method, 0):
            # Evaluated, because that is why it is discarded; its row is in a table of its own.
            models[name] = Evaluated(path=path, method=method, round=number, previous=None)
            return
        judged = None
        if recipe.pairwise is not None and name not in ("base", control):
            pairwise[name] = JudgedPairs(against=f"evaluation/models/{control}.json")
            judged = f"evaluation/pairwise/{name}.json"
        against = f"evaluation/models/{control}.json" if name != control else None
        models[name] = Evaluated(
            path=path, method=method, round=number, previous=previous, pairwise=judged, against=against
        )
        previous = f"evaluation/tables/{name}.json"

    add("base", base, "base", 0)
    add("sft", SFT, "sft", 0)
    if controlled:
        add("sft-matched", SFT_MATCHED, "sft-matched", 0)
    for t in range(1, ran["irft"] + 1):
        add(f"irft-r{t}", f"models/irft/r{t}", "irft", t)
    for t in range(1, ran["rft"] + 1):
        add(f"rft-r{t}", f"models/rft/r{t}/policy", "rft", t)
    measured = _measured(recipe, models, last)
    comparisons = _comparisons(recipe, found)
    mirror = recipe.leaderboard.mirror
    return Graph(
        base=base,
        adapted=adapted,
        adapted_reward=adapted_reward,
        scorer=scorer,
        judge=judge,
        sources=_sources(recipe, kept or {}),
        pairwise=pairwise,
        pairwise_judge=pairwise_judge,
        rubric=recipe.pairwise.rubric if recipe.pairwise else None,
        table=previous,
        pretrain={"world": _corpus(recipe.pretrain.corpus, kept or {})} if recipe.pretrain else {},
        kept=kept_of(recipe) if kept is None else dict(kept),
        preferences=preferences,
        downloads=downloads,
        tiny=tiny,
        irft=irft,
        rft=rft,
        sft_matched={"control": SftControl(irft=last_irft, rft=last_rft)} if controlled else {},
        models=models,
        rounds=found,
        comparisons=comparisons,
        decisions=decisions_after(list(comparisons)[-1]) if comparisons else None,
        benchmarks=mirror or BENCHMARKS,
        mirror={"hub": BENCHMARKS} if measured and mirror is None else {},
        leaderboard=measured,
        leaderboard_table=_leaderboard_table(list(measured)[-1]) if measured else None,
    )


def _program(command: Sequence[str]) -> str | None:
    """The file of the project that a judge's command names, if it names one.

    Raises:
        InputError: it names several, of which a stage could depend on one only.
    """
    here = Path.cwd()
    paths = [Path(part) for part in command]
    inside = [path.relative_to(here) if path.is_absolute() and path.is_relative_to(here) else path for path in paths]
    files = [path.as_posix() for path in inside if not path.is_absolute() and path.is_file()]
    if len(files) > 1:
        what = (
            f"pairwise.command names {len(files)} files of the project, {' and '.join(files)}; a stage depends on one"
        )
        raise InputError(what, do="let the program itself open the others, and change it when they change")
    return files[0] if files else None


def adapters_of(recipe: Recipe) -> dict[str, LoraSettings]:
    """The adapters that the stages of a recipe train, by key."""
    sections = {
        "sft.lora": recipe.sft.lora,
        "irft.training.lora": recipe.irft.training.lora if recipe.irft.rounds else None,
        "rft.reward.lora": recipe.rft.reward.lora if recipe.rft.rounds else None,
        "rft.policy.lora": recipe.rft.policy.lora if recipe.rft.rounds else None,
    }
    return {key: lora for key, lora in sections.items() if lora is not None}


def _adapted(recipe: Recipe, base: str, reward: str) -> tuple[str | None, str | None]:
    """The base models of the policies, and of the learnt rewards, that are kept as adapters; None without.

    Adapters are for the last whole model: the SFT policy, unless that is kept as adapters too.
    """
    kept = {key for key, lora in adapters_of(recipe).items() if lora.save == "adapters"}
    root = base if "sft.lora" in kept else SFT
    learnt = (root if reward == SFT else reward) if "rft.reward.lora" in kept else None
    return (root if kept - {"rft.reward.lora"} else None), learnt


def _earlier(method: str, t: int, replay: float) -> str | None:
    """The file with the samples of the rounds before round t; None where they are not replayed."""
    return f"data/samples/{method}-r{t - 1}.jsonl" if replay and t > 1 else None


def made_by_stages(recipe: Recipe) -> list[str]:
    """The model folders that a recipe names and its own stages make."""
    made = [WORLD_POLICY, WORLD_SCORER] if recipe.pretrain is not None else []
    return [*made, *(FOLDERS[role] for role in (recipe.preferences.models if recipe.preferences else ()))]


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


def criterion_of(recipe: Recipe, method: Method) -> RoundCriterion:
    """What decides over the rounds of a method on `rounds: auto`."""
    auto = recipe.irft.auto if method == "irft" else recipe.rft.auto
    return auto.criterion or ("preferences" if recipe.scorer.kind == "none" else "score")


def on_auto(recipe: Recipe) -> list[Method]:
    """The methods on `rounds: auto`."""
    methods: tuple[Method, Method] = ("irft", "rft")
    return [method for method in methods if getattr(recipe, method).rounds == "auto"]


def reported(graph: Mapping[str, Any]) -> list[str]:
    """The names of the models that the report has: all that are evaluated, but for the rounds that are discarded.

    Args:
        graph: the section of a params.yaml, also of one without rounds that are found.
    """
    found = graph.get("rounds", {})
    return [
        name
        for name, model in graph["models"].items()
        if model["method"] not in found or model["round"] <= found[model["method"]]["kept"]
    ]


def decisions_after(name: str) -> str:
    """Where the comparisons up to that of a round are, for example of rft-r2."""
    return f"evaluation/rounds/{name}.json"


def _found(recipe: Recipe, known: Mapping[Method, FoundRounds]) -> dict[Method, FoundRounds]:
    """What is known of the rounds of each method on `auto`."""
    found: dict[Method, FoundRounds] = {}
    for method in on_auto(recipe):
        each, most = known.get(method, FoundRounds(ran=1, kept=1)), getattr(recipe, method).auto.most
        found[method] = each if each.ran <= most else FoundRounds(ran=most, kept=most)
    return found


def _comparisons(recipe: Recipe, found: Mapping[Method, FoundRounds]) -> dict[str, Comparison]:
    comparisons: dict[str, Comparison] = {}
    earlier: str | None = None
    for method, each in found.items():
        most, before = getattr(recipe, method).auto.most, "sft"
        for name in (f"{method}-r{t}" for t in range(1, each.ran + 1)):
            comparisons[name] = Comparison(
                before=f"evaluation/models/{before}.json",
                earlier=earlier,
                criterion=criterion_of(recipe, method),
                most=most,
            )
            before, earlier = name, decisions_after(name)
    return comparisons


def _measured(recipe: Recipe, models: dict[str, Evaluated], last: Mapping[str, int]) -> dict[str, Evaluated]:
    """The models of the leaderboard, each with the table that its row is added to; none if it is switched off.

    Args:
        last: the last round of each method.
    """
    measured: dict[str, Evaluated] = {}
    if not recipe.leaderboard.enabled:
        return measured
    previous: str | None = None
    for name, model in models.items():
        if name == "sft" and recipe.sft.epochs == 0:
            continue  # it equals base, and the benchmarks take hours
        if model.round > last.get(model.method, 0):
            continue
        if recipe.leaderboard.rounds == "all" or model.round == last.get(model.method, 0):
            measured[name] = model.model_copy(update={"previous": previous})
            previous = _leaderboard_table(name)
    return measured


def _leaderboard_table(name: str) -> str:
    return f"evaluation/leaderboard-tables/{name}.json"


def named_inputs(recipe: Recipe, known: Collection[str] = ()) -> dict[str, str]:
    """What the recipe reads that may be on this machine only, by name: paths, or ids of the hub.

    Args:
        known: paths that are kept, and may be gone.
    """
    found: dict[str, str | None] = dict(zip(SOURCES, _paths(recipe.fetch, known), strict=False))
    found["corpus"] = getattr(recipe.pretrain, "corpus", None)
    found["pairs"] = recipe.preferences.source if recipe.preferences else None
    if recipe.tiny is None:
        found["policy"] = recipe.policy.model
        found["scorer"] = recipe.scorer.model if recipe.scorer.kind != "none" else None
        found["judge"] = recipe.judge.model if recipe.judge.kind != "none" else None
        if recipe.pairwise is not None and recipe.pairwise.kind == "model":
            found["pairwise"] = recipe.pairwise.model
        for role, model in (recipe.preferences.models if recipe.preferences else {}).items():
            found[f"{role}_trunk"] = model.model
        found["reward"] = recipe.rft.reward.model if recipe.rft.rounds else None
    found["benchmarks"] = recipe.leaderboard.mirror if recipe.leaderboard.enabled else None
    return {name: value for name, value in found.items() if value is not None}


def local_inputs(recipe: Recipe) -> dict[str, Kept]:
    """Files and folders that the recipe reads and no stage makes, each with the place of a copy."""
    made = ("world", *made_by_stages(recipe))
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


def _sources(recipe: Recipe, kept: Mapping[str, Kept]) -> dict[str, str | None]:
    """What the stage `fetch` depends on: every local file, folder and match of a glob, in its place."""
    known = {each.source for each in kept.values()}
    paths: list[str | None] = []
    for path in _paths(recipe.fetch, known):
        there = path in known or Path(path).exists()
        if path == WORLD or (not there and _is_hub_id(recipe.fetch, path)):
            continue
        if not there:
            files_of(path)  # says what is wrong with it
        paths.append(path)
    return dict(zip(SOURCES, [*paths, *[None] * (len(SOURCES) - len(paths))], strict=True))


def _is_hub_id(fetch: FetchSettings, path: str) -> bool:
    return not isinstance(fetch.source, list) and not is_path(path) and DATASET_ID.fullmatch(path) is not None


def _paths(fetch: FetchSettings, known: Collection[str]) -> list[str]:
    """The paths of the sources, with the files that a glob matches in its place.

    Args:
        known: paths that are kept: a match of a glob may be gone.

    Raises:
        InputError: a glob matches nothing, or there are more files than dvc.yaml has places for.
    """
    found: list[str] = []
    for source in fetch.sources:
        if not is_pattern(source.path):
            found.append(source.path)
            continue
        gone = [path for path in known if fnmatch(path, source.path) and not Path(path).exists()]
        matches = [] if gone and not matches_of(source.path) else [str(file.path) for file in files_of(source.path)]
        found += sorted({*matches, *gone})
    if len(found) > MOST_SOURCES:
        what = f"fetch.source names {len(found)} files, more than {MOST_SOURCES}"
        raise InputError(what, do="put them into a folder of their own, and name the folder")
    return found


def _pairs(source: str | None, kept: Mapping[str, Kept]) -> str | None:
    """The file or folder of pairs; None for the rows of `fetch`."""
    if source is not None and source not in (each.source for each in kept.values()) and not Path(source).exists():
        do = "paths are relative to the project's root"
        raise InputError(f"preferences.source: no such file or folder: {source}", do=do)
    return source


def _corpus(corpus: str, kept: Mapping[str, Kept]) -> str | None:
    """The local files of a corpus; None for the generated world."""
    if corpus == WORLD:
        return None
    if corpus not in (each.source for each in kept.values()) and not Path(corpus).exists():
        do = "paths are relative to the project's root"
        raise InputError(f"pretrain.corpus: no such file or folder: {corpus}", do=do)
    return corpus
