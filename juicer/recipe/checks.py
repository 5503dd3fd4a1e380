"""Checks of more than one key: sections that need each other, models that exist, a graph that is up to date."""

import importlib.metadata
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from packaging.version import Version

from juicer.evaluation.significance import FEWEST
from juicer.models.published import published_as
from juicer.recipe.graph import (
    ABSENT,
    CONFIGS,
    HUB_ID,
    INPUTS,
    SFT,
    WORLD_POLICY,
    WORLD_SCORER,
    Graph,
    adapters_of,
    criterion_of,
    graph_of,
    made_by_stages,
    named_inputs,
    on_auto,
)
from juicer.recipe.rows import FirstRows
from juicer.recipe.schema import Recipe
from juicer.runtime.errors import InputError
from juicer.sampling.vllm_environment import RANKS, check_vllm
from juicer.settings.base import Settings
from juicer.settings.data import ScorerSettings
from juicer.settings.preferences import FOLDERS
from juicer.settings.preferences import Role as PreferenceRole
from juicer.settings.sft import dropout_refused
from juicer.settings.sources import FetchSettings
from juicer.sources.files import is_path, is_pattern


def check_models(recipe: Recipe, where: str, *, whole: bool = True) -> None:
    """Check that every model is a folder, a hub id or made by a stage.

    Only when a recipe is made active: an evaluation does not need the models that earlier stages have read.

    Args:
        whole: whether a model that can be fetched has to be there; a plan needs only a config.json.
    """
    _check_fetched(recipe, where, whole)
    if whole:
        _check_vllm(recipe, where)
    named = {"policy": recipe.policy.model}
    for key, slot in (("scorer", recipe.scorer), ("judge", recipe.judge)):
        named |= {key: slot.model} if slot.kind != "none" and slot.model is not None else {}
    if recipe.rft.rounds and recipe.rft.reward.model is not None:
        named["rft.reward"] = recipe.rft.reward.model
    if recipe.pairwise is not None:
        if recipe.pairwise.kind == "model" and recipe.pairwise.model is not None:
            named["pairwise"] = recipe.pairwise.model
        if recipe.pairwise.rubric is not None and not Path(recipe.pairwise.rubric).is_file():
            do = "paths are relative to the project's root"
            raise InputError(f"pairwise.rubric: no such file: {recipe.pairwise.rubric}", where=where, do=do)
    for role, trained in (recipe.preferences.models if recipe.preferences else {}).items():
        named |= {f"preferences.{role}": trained.model} if trained.model is not None else {}
    for key, model in named.items():
        if model in made_by_stages(recipe):
            continue
        # A name that could be a hub id is checked by its revision.
        if recipe.tiny is None and not Path(model).is_dir() and not HUB_ID.fullmatch(model):
            do = "paths are relative to the project's root"
            raise InputError(f"{key}.model: no such folder: {model}", where=where, do=do)


def _check_fetched(recipe: Recipe, where: str, whole: bool) -> None:
    """Say how to fetch a missing policy with a known digest. Its folder may look like an id of the hub."""
    policy, folder = recipe.policy, Path(recipe.policy.model)
    model = published_as(policy.digest)
    if model is None or folder.is_dir() or policy.revision is not None or recipe.tiny is not None:
        return
    if whole or not (CONFIGS / f"{folder.name}.json").is_file():
        do = f"{model.title} has this digest; fetch it: {model.command(folder)}"
        raise InputError(f"policy.model: no such folder: {folder}", where=where, do=do)


def check_pinned(fetch: FetchSettings, where: str) -> None:
    """Check that a dataset of the hub has a pinned revision."""
    source = fetch.source
    if isinstance(source, list) or fetch.is_world or is_path(source):
        return
    if fetch.revision is None:
        what = f"fetch.source: there is no file or folder {source!r}, and a dataset of the hub needs a revision"
        raise InputError(what, where=where, do="check the path, or set fetch.revision to a commit")


def validate(params: dict[str, Any], where: str) -> Recipe:
    """Validate a whole params.yaml: the recipe and the graph that was derived from it.

    Raises:
        InputError: an unknown key (with the nearest right one), a wrong value, or a graph that is out of date.
    """
    params = dict(params)
    if "graph" not in params:
        raise InputError("the graph of rounds is missing", where=where, do="derive it: juicer use RECIPE")
    graph = Graph.parse(params.pop("graph"), f"{where}: graph")
    recipe = Recipe.parse(params, where)
    check_consistent(recipe, where)
    _check_installed(recipe, where)
    for method, rounds in (("irft", graph.irft), ("rft", graph.rft)):
        _check_chain(method, rounds, where)
    _check_kept(recipe, graph, where)
    expected, found = as_plain(graph_of(recipe, kept=graph.kept, rounds=graph.rounds)), as_plain(graph)
    if expected != found:
        key = _first_difference(expected, found)
        active = Path("recipes") / f"{recipe.name}.yaml"
        again = f"juicer use {active if active.is_file() else 'RECIPE'} [key=value ...]"
        if key.startswith("sources.") and any(is_pattern(source.path) for source in recipe.fetch.sources):
            changes = _changes({*expected["sources"].values()}, {*found["sources"].values()})
            what = f"the files that the pattern in fetch.source matches have changed ({changes})"
            raise InputError(what, where=where, do=f"read them: {again}")
        why = f"{where} was changed by hand or by `dvc exp run -S`, or is older than the code"
        do = f"{why}; take the change back: juicer use --undo; or derive the graph from it: juicer use {where}; "
        do += "or try it beside this workspace: juicer exp run -S KEY=VALUE"
        raise InputError(
            f"graph.{key} does not follow from the recipe (irft.rounds, rft.rounds, ...)", where=where, do=do
        )
    return recipe


def _changes(now: set[str], before: set[str]) -> str:
    """Which files are new and which are gone."""
    new = [f"{path} is new" for path in sorted(now - before - {ABSENT})]
    return ", ".join([*new, *(f"{path} is gone" for path in sorted(before - now - {ABSENT}))])


def _check_kept(recipe: Recipe, graph: Graph, where: str) -> None:
    """What is kept was decided when the recipe was made active; an input that has gone since is still one."""
    inputs = named_inputs(recipe, [kept.source for kept in graph.kept.values()])
    for name, kept in graph.kept.items():
        if (
            inputs.get(name) != kept.source
            or kept.copy_.partition(".")[0] != f"{INPUTS}/{name}"
            or "/" in kept.copy_[len(INPUTS) + 1 :]
        ):
            do = "do not edit the graph by hand; juicer use RECIPE derives it"
            raise InputError(f"graph.kept.{name} is no input of the recipe", where=where, do=do)


def check_consistent(recipe: Recipe, where: str) -> None:
    """Check sections against each other."""
    if recipe.fetch.is_world and recipe.world is None:
        raise InputError("fetch.source is 'world', but the section world is missing", where=where, do="add world: {}")
    if recipe.fetch.is_world and not recipe.curate.held_out_share:
        what = "curate.held_out_share is 0, so that no held-out prompts are left to report on"
        raise InputError(what, where=where, do="set it above 0")
    if not recipe.fetch.is_world and recipe.world is not None:
        do = "derive it again: juicer use RECIPE"
        raise InputError("the section world applies only to fetch.source: world", where=where, do=do)
    if recipe.rft.optimiser == "ppo" and (recipe.compute.processes > 1 or recipe.compute.zero_stage):
        do = "set compute.processes to 1 and compute.zero_stage to 0, or rft.optimiser to rloo"
        raise InputError("rft.optimiser 'ppo' runs in a single process only", where=where, do=do)
    _check_compute(recipe, where)
    if recipe.rft.optimiser == "ppo" and recipe.rft.rounds and recipe.rft.policy.lora is not None:
        do = "set rft.policy.lora to null, or rft.optimiser to rloo"
        raise InputError("rft.optimiser 'ppo' trains all weights of the policy", where=where, do=do)
    for key, lora in adapters_of(recipe).items():
        if recipe.compute.zero_stage and lora.base in ("bf16", "nf4"):
            what = f"{key}.base is {lora.base}, but compute.zero_stage {recipe.compute.zero_stage} shards the weights"
            do = f"set compute.zero_stage to 0, which LoRA does not need; or {key}.base to fp32"
            raise InputError(what, where=where, do=do)
    if recipe.policy.digest is not None and (recipe.tiny is not None or recipe.policy.model == WORLD_POLICY):
        what = "policy.digest is that of a real model, but the recipe's policy is a tiny one that a stage makes"
        raise InputError(what, where=where, do="set policy.digest to null")
    _check_control(recipe, where)
    _check_shares(recipe, where)
    _check_preferences(recipe, where)
    _check_auto(recipe, where)
    if recipe.irft.rounds != "auto" and recipe.irft.rounds % recipe.irft.passes:
        what = f"irft.rounds = {recipe.irft.rounds} is not a multiple of irft.passes = {recipe.irft.passes}"
        raise InputError(what, where=where, do="change one of the two")
    needs_tiny = recipe.policy.model == WORLD_POLICY or recipe.scorer.model == WORLD_SCORER
    if needs_tiny and recipe.pretrain is None:
        what = f"{WORLD_POLICY} and {WORLD_SCORER} are made by the section pretrain, which is missing"
        raise InputError(what, where=where, do="add it, or name other models")
    if recipe.pretrain is not None:
        longest = recipe.template.max_prompt_tokens + recipe.template.max_response_tokens
        if longest > recipe.pretrain.policy.context:
            raise InputError(
                f"template.max_prompt_tokens + max_response_tokens = {longest} exceeds "
                f"pretrain.policy.context = {recipe.pretrain.policy.context}",
                where=where,
            )


def _check_control(recipe: Recipe, where: str) -> None:
    """The control trains as `sft` does, but may have an objective that does not allow dropout.

    Neither `gem` nor `dft` has been shown to take the same steps with sharded weights.
    """
    objective, lora = recipe.sft_matched.objective, recipe.sft.lora
    objectives = {"sft.objective": recipe.sft.objective, "sft_matched.objective": objective or "nll"}
    for key, each in objectives.items():
        if recipe.compute.zero_stage and each != "nll" and (key == "sft.objective" or recipe.sft_matched.enabled):
            do = f"set compute.zero_stage to 0, or {key} to nll"
            raise InputError(f"{key} {each!r} is not supported with compute.zero_stage", where=where, do=do)
    if recipe.sft_matched.enabled and objective not in (None, "nll") and lora is not None and lora.dropout:
        what = f"sft_matched.objective: {dropout_refused('sft.lora.dropout', objective)}"
        raise InputError(what, where=where, do="set it to 0, or sft_matched.objective to nll")


def _check_auto(recipe: Recipe, where: str) -> None:
    """Check that the rounds of a method on `auto` do not depend on their number, and that something can decide."""
    for method in on_auto(recipe):
        settings = recipe.irft if method == "irft" else recipe.rft
        if method == "irft" and recipe.irft.passes != 1:
            what = f"irft.rounds is auto, but irft.passes is {recipe.irft.passes}"
            raise InputError(what, where=where, do="set irft.passes to 1, or irft.rounds to a number")
        if settings.slice == "split":
            what = f"{method}.rounds is auto, but {method}.slice is split: the parts depend on the number of rounds"
            raise InputError(what, where=where, do=f"set {method}.slice to all, or {method}.rounds to a number")
        prompts = recipe.evaluation.prompts
        if prompts is not None and prompts < FEWEST:
            what = f"{method}.rounds is auto, but evaluation.prompts is {prompts}, too few to tell rounds apart"
            raise InputError(what, where=where, do=f"set evaluation.prompts to {FEWEST} or more")
        if criterion_of(recipe, method) == "score" and recipe.scorer.kind == "none":
            what = f"{method}.auto.criterion is score, but the recipe has no scorer"
            raise InputError(what, where=where, do=f"add one, or set {method}.auto.criterion to preferences")


def check_pairs(recipe: Recipe, found: Sequence[FirstRows], where: str) -> None:
    """Check that there are rejected responses where preferences decide over the rounds of a method on `auto`.

    Args:
        found: the first rows of the sources on this machine; nothing is said where another source may have pairs.
    """
    deciding = [method for method in on_auto(recipe) if criterion_of(recipe, method) == "preferences"]
    whole = len(found) == len(recipe.fetch.sources) and not recipe.fetch.is_world
    # Who names the column knows that it is filled further on.
    named = any(each.reading.columns.rejected is not None for each in recipe.fetch.sources)
    if deciding and whole and not named and not any(each.pairs for each in found):
        method = deciding[0]
        what = f"{method}.rounds is auto, but there is nothing to decide by: "
        what += "the first rows have no rejected responses"
        what += ", and the recipe has no scorer" if recipe.scorer.kind == "none" else ""
        do = f"set {method}.rounds to a number, or add a scorer or rejected responses, or decide by the likelihood of "
        do += f"the demonstrations, which is no measure of quality: {method}.auto.criterion=likelihood; "
        do += "where they come later in the file, name their column: fetch.columns.rejected"
        raise InputError(what, where=where, do=do)


def check_single(recipe: Recipe, where: str) -> None:
    """Check that a recipe has one method and not both: rounds other than 0, also those that are decided later."""
    irft, rft = recipe.irft.rounds, recipe.rft.rounds
    if (irft != 0) == (rft != 0):
        what = f"exactly one of irft.rounds and rft.rounds has to be above 0, not {irft} and {rft}"
        raise InputError(what, where=where, do="set the other one to 0" if irft else "set one of them")


def _check_compute(recipe: Recipe, where: str) -> None:
    """Check what the recipe asks of attention and of a deterministic run."""
    compute = recipe.compute
    if compute.device == "cpu" and compute.attention in ("flash_attention_2", "varlen"):
        what = f"compute.attention is {compute.attention}, which needs a GPU, but compute.device is cpu"
        raise InputError(what, where=where, do="set compute.attention to auto")
    if compute.packing is False and compute.attention == "varlen":
        what = "compute.attention is varlen, which is for packed rows only, but compute.packing is false"
        raise InputError(what, where=where, do="set one of them to auto")
    if compute.compile is True and compute.attention not in ("auto", "varlen"):
        what = f"compute.compile is true, but with compute.attention {compute.attention} no rows are packed, and only "
        raise InputError(f"{what}packed passes are compiled", where=where, do="set one of them to auto")
    if compute.packing is True and compute.attention not in ("auto", "varlen"):
        what = (
            f"compute.packing is true, and packed rows attend by varlen, but compute.attention is {compute.attention}"
        )
        raise InputError(what, where=where, do="set one of them to auto")
    for key in _by_vllm(recipe) if compute.deterministic else ():
        what = f"compute.deterministic is true, which {key} 'vllm' does not keep"
        raise InputError(what, where=where, do=f"set {key} to auto, or compute.deterministic to false")
    _check_adapters_by_vllm(recipe, where)


def _check_adapters_by_vllm(recipe: Recipe, where: str) -> None:
    """Check that vLLM can sample from the adapters of every round. In fp32 it gets merged weights."""
    engines = list(_by_vllm(recipe))
    asked = engines if recipe.compute.precision != "fp32" else []
    policy, kept = recipe.rft.policy, {k: lora.r for k, lora in adapters_of(recipe).items() if lora.save == "adapters"}
    if "rft.policy.engine" in engines and policy.lora is not None and policy.lora.base == "nf4":
        what = "rft.policy.engine is vllm, which does not have the quantised weights of rft.policy.lora.base nf4"
        raise InputError(what, where=where, do="set rft.policy.engine to auto")
    for key in asked:
        method = key.partition(".")[0]
        found = recipe.irft if method == "irft" else recipe.rft
        # A round samples from the one before, RLOO from the one that it trains.
        rounds = found.most_rounds - (key != "rft.policy.engine")
        of_rounds = kept.get("irft.training.lora" if method == "irft" else "rft.policy.lora", 0)
        rank = (kept.get("sft.lora", 0) if recipe.sft.epochs else 0) + rounds * of_rounds
        if key == "rft.policy.engine" and policy.lora is not None:  # those that it trains, however they are kept
            rank = max(rank, policy.lora.r)
        if rank > RANKS[-1]:
            what = f"the adapters of all rounds add up to rank {rank}, and vLLM, which {key} names, takes {RANKS[-1]}"
            raise InputError(what, where=where, do=f"set {key} to auto, or lower the rank of lora")


def _check_installed(recipe: Recipe, where: str) -> None:
    """Packages that the recipe needs. Checked when a stage starts, because a plan of such a recipe needs none of them.

    TRL removed PPO after 1.12.
    """
    _check_vllm(recipe, where)
    for key, used in _optional(recipe):
        if importlib.util.find_spec(used) is None:
            do = f"pip install {used}, or change {key}"
            raise InputError(f"{key} needs the package {used}, which is not installed", where=where, do=do)
    installed = importlib.metadata.version("trl")
    if recipe.rft.optimiser == "ppo" and recipe.rft.rounds and Version(installed) >= Version("1.13"):
        do = "install the last release with PPO: pip install --no-deps -r constraints-ppo.txt; or set it to rloo"
        raise InputError(f"rft.optimiser is 'ppo', which TRL {installed} does not have", where=where, do=do)


def _optional(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """The keys of a recipe that need a package which Juicer does not install, each with the package."""
    if recipe.compute.zero_stage:
        yield "compute.zero_stage", "deepspeed"
    if recipe.compute.attention == "flash_attention_2":
        yield "compute.attention", "flash_attn"
    for key, lora in adapters_of(recipe).items():
        if lora.base == "nf4":
            yield f"{key}.base", "bitsandbytes"


def _check_vllm(recipe: Recipe, where: str) -> None:
    """Check that vLLM's environment is there for a recipe that asks for it; one that leaves it to `auto` does not."""
    for key in _by_vllm(recipe):
        check_vllm(key, where)


def _by_vllm(recipe: Recipe) -> Iterator[str]:
    for name, method in (("irft", recipe.irft), ("rft", recipe.rft)):
        if method.rounds and method.sampling.engine == "vllm":
            yield f"{name}.sampling.engine"
    if recipe.rft.rounds and recipe.rft.optimiser == "rloo" and recipe.rft.policy.engine == "vllm":
        yield "rft.policy.engine"


def _check_preferences(recipe: Recipe, where: str) -> None:
    """Check that what `preferences` trains is used, and that its shares leave rows to train on."""
    trained = recipe.preferences.models if recipe.preferences else {}
    slots: dict[PreferenceRole, ScorerSettings] = {"scorer": recipe.scorer, "judge": recipe.judge}
    for role, slot in slots.items():
        folder = FOLDERS[role]
        if role in trained and (slot.kind, slot.model) != ("sequence-classification", folder):
            do = (
                f"set {role}.kind to sequence-classification and {role}.model to {folder}, or remove preferences.{role}"
            )
            raise InputError(f"preferences.{role} is trained, but {role} is another model", where=where, do=do)
        if role not in trained and slot.kind != "none" and slot.model == folder:
            what = f"{role}.model is {folder}, which the section preferences.{role} makes, and that is missing"
            raise InputError(what, where=where, do="add it, or name another model")
    if recipe.judge.kind != "none" and recipe.judge.model is not None and recipe.judge.model == recipe.scorer.model:
        what = f"judge.model and scorer.model are both {recipe.judge.model}: a judge that chose the data is none"
        raise InputError(what, where=where, do="name another judge, or set judge.kind to none")
    withheld = sum(recipe.preferences.withheld.values()) if recipe.preferences else 0.0
    shares = recipe.curate.validation_share + recipe.curate.held_out_share + withheld
    if withheld and shares >= 1:
        what = f"the shares of preferences, curate.validation_share and curate.held_out_share are {shares:g} together"
        raise InputError(f"{what} and leave no rows to train on", where=where, do="lower one of them")


def _check_shares(recipe: Recipe, where: str) -> None:
    """TRL gives every process the same number of rows, so a batch has to be a multiple of the rows of one pass."""
    policy, processes = recipe.rft.policy, recipe.compute.processes
    responses = policy.prompts_per_step * policy.samples_per_prompt
    for batch, key, micro, prefix in (
        (recipe.sft.batch_size, "sft.batch_size", recipe.sft.micro_batch_size, "sft"),
        (responses, "rft.policy.prompts_per_step * samples_per_prompt", policy.micro_batch_size, "rft.policy"),
    ):
        fixed = micro if isinstance(micro, int) else None  # `auto` takes a divisor
        rows = processes * (fixed or 1)
        if batch % rows:
            what = f"compute.processes * {prefix}.micro_batch_size" if fixed else "compute.processes"
            raise InputError(
                f"{key} = {batch} is not a multiple of {what} = {rows}", where=where, do="change one of the two"
            )


def _check_chain(method: str, rounds: dict[str, Any], where: str) -> None:
    for t, (key, item) in enumerate(rounds.items(), 1):
        suffix = "/policy" if method == "rft" else ""
        expected = f"models/{method}/r{t - 1}{suffix}" if t > 1 else SFT
        if key != f"r{t}" or item.previous != expected:
            raise InputError(
                f"rounds are not a chain: graph.{method}.{key}.previous is {item.previous!r}, not {expected!r}",
                where=where,
                do="do not edit the graph by hand; juicer use RECIPE derives it",
            )


def _first_difference(expected: Any, found: Any, path: str = "") -> str:
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in [*expected, *found]:
            if expected.get(key) != found.get(key):
                return _first_difference(expected.get(key), found.get(key), f"{path}.{key}" if path else key)
    return path


def as_plain(settings: Settings) -> dict[str, Any]:
    """Settings as plain values, as YAML and JSON have them."""
    return settings.model_dump(mode="json", by_alias=True)
