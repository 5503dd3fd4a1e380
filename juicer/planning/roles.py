"""Reads a recipe for a plan: its models by role, its number of training rows, and whether these are consistent."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from juicer.models.hub_config import hub_config
from juicer.models.shape import Shape
from juicer.planning.costs import Role, shape_of
from juicer.quickstart.configuration import read_config, shrunk
from juicer.quickstart.pretraining import policy_config, scorer_config
from juicer.recipe.graph import WORLD_POLICY, WORLD_SCORER, config_of
from juicer.recipe.rows import FirstRows, check_rows
from juicer.recipe.schema import Recipe
from juicer.runtime.errors import InputError
from juicer.settings.data import ScorerSettings
from juicer.settings.preferences import Role as PreferenceRole
from juicer.sources.files import SourceFile, files_of, is_path, rows_in_parquet, rows_of
from juicer.sources.hub import counted_rows
from juicer.sources.mixture import shares
from juicer.sources.suffixes import FileType, type_of

HELD_OUT = 0.05
"""Share of held-out prompts where the source has a split of its own, whose rows nobody has counted."""


@dataclass(frozen=True)
class Roles:
    """The models of a recipe, counted."""

    policy: Shape
    scorer: Shape | None
    """None if the recipe scores nothing."""
    judge: Shape | None
    """None if the recipe has no judge."""
    trunks: dict[PreferenceRole, Shape]
    """The reward models that are trained on pairs."""
    reward: Shape
    """The reward model of RFT, which a recipe without RFT does not use."""


def roles_of(recipe: Recipe) -> Roles:
    """Count the parameters of a recipe's models.

    Raises:
        InputError: the configuration of a model is not kept with the project; names the parameter.
    """
    trunks = {
        role: shape_in(recipe, settings.model or recipe.policy.model, "reward", f"preferences.{role}.model")
        for role, settings in (recipe.preferences.models if recipe.preferences else {}).items()
    }

    def slot(name: PreferenceRole, settings: ScorerSettings) -> Shape | None:
        if settings.kind == "none":
            return None
        return trunks.get(name) or shape_in(recipe, str(settings.model), "scorer", f"{name}.model")

    return Roles(
        shape_in(recipe, recipe.policy.model, "policy", "policy.model"),
        slot("scorer", recipe.scorer),
        slot("judge", recipe.judge),
        trunks,
        shape_in(recipe, recipe.rft.reward.model or recipe.policy.model, "reward", "rft.reward.model"),
    )


def shape_in(recipe: Recipe, model: str, role: Role, key: str) -> Shape:
    """Count the parameters of one model, scaled down if the recipe is tiny.

    Args:
        model: folder or Hugging Face id.
        role: decides its output head.
        key: the parameter that names the model, for errors.

    Raises:
        InputError: its configuration is not kept with the project, and the hub does not give it.
    """
    pretrain = recipe.pretrain
    if pretrain is not None and model == WORLD_POLICY:
        return shape_of("world", policy_config(pretrain.policy, pretrain.policy.vocabulary), role)
    if pretrain is not None and model == WORLD_SCORER:
        return shape_of("world", scorer_config(pretrain.scorer, pretrain.policy, pretrain.policy.vocabulary), role)
    _, config = read_config(_config_of(recipe, model, key))
    if recipe.tiny is not None:
        vocabulary, limits = recipe.tiny.vocabulary, recipe.template
        longest = limits.max_prompt_tokens + limits.max_response_tokens
        config.update(shrunk(config, recipe.tiny, vocabulary, 2 * longest))
        config.pad_token_id = None  # the real one is outside so small a vocabulary
    return shape_of(Path(model).name, config, role)


def _config_of(recipe: Recipe, model: str, key: str) -> Path:
    try:
        return config_of(model, key)
    except InputError as error:
        if Path(model).exists() or (path := hub_config(model, _revision(recipe, key))) is None:
            asked = "" if Path(model).exists() else ", and the hub gives none"
            raise InputError(error.what + asked, where=error.where, do=error.do) from error
        return path


def _revision(recipe: Recipe, key: str) -> str | None:
    """The commit that a recipe names for the model of a key, such as `rft.reward.model`."""
    found: Any = recipe
    for part in key.split(".")[:-1]:
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    revision: str | None = getattr(found, "revision", None)
    return revision


def from_hub(recipe: Recipe) -> list[str]:
    """The models whose sizes are those of a config.json that the project does not keep."""
    named = [(recipe.policy.model, "policy.model"), (recipe.rft.reward.model, "rft.reward.model")]
    named += [(each.model, name) for name, each in (("scorer.model", recipe.scorer), ("judge.model", recipe.judge))]
    found = []
    for model, key in named:
        if model is None or model in (WORLD_POLICY, WORLD_SCORER) or Path(model).exists():
            continue
        with suppress(InputError):
            config_of(model, key)
            continue
        if hub_config(model, _revision(recipe, key)) is not None:
            found.append(model)
    return found


def evaluated_rows(recipe: Recipe, trained: int) -> tuple[int, int]:
    """About how many held-out prompts and validation prompts there are, by their shares of the rows.

    Args:
        trained: rows that are trained on, or could be.
    """
    fetch, curate = recipe.fetch, recipe.curate
    withheld = sum(recipe.preferences.withheld.values()) if recipe.preferences else 0.0
    held_out = 0.0 if fetch.held_out_split else curate.held_out_share
    rows = fetch.rows or trained / max(0.01, 1 - curate.validation_share - held_out - withheld)
    counted: int | None = None
    if fetch.held_out_split and not any(is_path(source.path) for source in fetch.sources):
        counted = sum(
            counted_rows(source.path, fetch.revision, fetch.subset, fetch.held_out_split) or 0
            for source in fetch.sources
        )
    elif not fetch.is_world and all(is_path(source.path) for source in fetch.sources):
        listed = [files_of(source.path, among_others=source.among_others) for source in fetch.sources]
        counted = sum(count_rows(file) for files in listed for file in files if file.held_out)
    share = held_out or HELD_OUT
    return counted or max(1, round(share * rows)), max(1, round(curate.validation_share * rows))


def available_rows(recipe: Recipe) -> int | None:
    """Rows that can be trained on: counted in local sources, `fetch.rows`, or what a dataset's card says; else None.

    Of a mixture, as many as its weights allow. A row may give several demonstrations or none: as many are expected as
    the first rows have given.

    Raises:
        InputError: the local sources have fewer rows than are to be kept; names both numbers.
    """
    fetch, curate = recipe.fetch, recipe.curate
    local = all(is_path(source.path) for source in fetch.sources)
    withheld = sum(recipe.preferences.withheld.values()) if recipe.preferences else 0.0
    if fetch.rows is not None:
        return fetch.rows
    if fetch.is_world:
        rows, held_out = (recipe.world.rows if recipe.world else 0), curate.held_out_share
        return max(1, round(rows * (1 - curate.validation_share - held_out - withheld))) if rows else None
    if not local:
        if curate.keep is not None and recipe.scorer.kind == "none":
            return None  # nobody needs the number
        found = [counted_rows(each.path, fetch.revision, fetch.subset, fetch.train_split) for each in fetch.sources]
        if None in found:
            return None
        held_out = 0.0 if fetch.held_out_split else curate.held_out_share
        share = 1 - curate.validation_share - held_out - withheld
        return max(1, round(sum(each or 0 for each in found) * share))
    listed = [files_of(source.path, among_others=source.among_others) for source in fetch.sources]
    counted = [
        round(sum(count_rows(file) for file in files if not file.held_out) * _yield(found))
        for files, found in zip(listed, check_rows(fetch), strict=True)
    ]
    weights = [source.weight for source in fetch.sources if source.weight is not None]
    rows = sum(shares(counted, weights) if weights else counted)
    if curate.keep is not None and curate.keep > rows:
        named = ", ".join(source.path for source in fetch.sources)
        what = f"curate.keep = {curate.keep}, but {named} has {rows} rows"
        raise InputError(what, do="lower it, or set it to null to keep all")
    held_out = 0 if any(file.held_out for files in listed for file in files) else curate.held_out_share
    return max(1, round(rows * (1 - curate.validation_share - held_out - withheld)))


def _yield(found: FirstRows) -> float:
    """Demonstrations per row. First rows that are all labelled as undesirable, say, tell nothing of the others."""
    return found.demonstrations / found.rows if found.demonstrations else 1.0


def training_rows(recipe: Recipe, available: int | None) -> int:
    """Rows that are trained on.

    Args:
        available: the result of `available_rows`.

    Raises:
        InputError: the number cannot be known, or is larger than that of the source.
    """
    fetch, keep = recipe.fetch, recipe.curate.keep
    if keep is None and available is None:
        what = (
            "the plan needs the number of training rows: curate.keep is null, fetch.rows is not set, and the hub does "
            f"not say how many {fetch.source} has"
        )
        raise InputError(what, do="set fetch.rows, or connect this machine to the hub")
    if keep is not None and fetch.rows is not None and keep > fetch.rows:
        raise InputError(f"curate.keep = {keep}, but the source has {fetch.rows} rows (fetch.rows)", do="lower it")
    return keep or available or 0


def check_lengths(recipe: Recipe, shape: Shape, key: str) -> None:
    """Refuse a template whose longest dialogue does not fit into a model's positions.

    Args:
        shape: the model.
        key: the parameter that names it, for errors.

    Raises:
        InputError: names the limits and the model's positions.
    """
    limits = recipe.template
    longest = limits.max_prompt_tokens + limits.max_response_tokens
    if longest > shape.positions:
        what = (
            f"template.max_prompt_tokens + max_response_tokens = {limits.max_prompt_tokens} + "
            f"{limits.max_response_tokens} = {longest} exceeds the {shape.positions} positions of {shape.name}"
        )
        raise InputError(what, where=key, do="lower one of the two")


def count_rows(file: SourceFile) -> int:
    """Rows of a local file, unusable ones included. Of plain JSON lines, lines are counted without parsing."""
    type_ = type_of(file.path.name)
    if type_ == FileType("parquet", None):
        return rows_in_parquet(file.path, file.shown)
    if file.path.suffix.lower() in (".jsonl", ".ndjson"):
        with file.path.open("rb") as lines:
            if lines.read(64).lstrip()[:1] == b"{":
                lines.seek(0)
                return sum(1 for line in lines if line.strip())
    return sum(1 for _ in rows_of(file.path, file.shown))
