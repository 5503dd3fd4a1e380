"""Validate a recipe and make it the active one: write params.yaml, with the graph of rounds derived from it.

The commands are `juicer use` and `juicer check`.
"""

import copy
import io
import os
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from juicer.recipe.checks import as_plain, check_consistent, check_models, check_pairs, check_pinned, check_single
from juicer.recipe.graph import GB, FoundRounds, Graph, Method, graph_of, local_inputs, on_auto, size_of
from juicer.recipe.inputs import check_inputs
from juicer.recipe.origin import origin_of, written_from
from juicer.recipe.probing import probe_models
from juicer.recipe.rows import check_rows
from juicer.recipe.schema import Recipe
from juicer.runtime.errors import InputError, did_you_mean
from juicer.runtime.files import read_yaml, replace_text, value_at
from juicer.runtime.yaml_text import parse_yaml
from juicer.settings.base import S, Settings
from juicer.settings.bounds import shortened
from juicer.settings.preferences import ROLES
from juicer.settings.sources import SourceSettings

WHOLE = ("methods",)
"""Sections that replace those of an extended recipe, where merging would add methods that nobody asked for."""
EXTENDED = 10
"""Longest chain of recipes that extend each other."""
TINY = (
    "tiny={}",
    "policy.digest=null",
    "compute.processes=1",
    "compute.zero_stage=0",
    "fetch.source=world",
    "fetch.revision=null",
    "fetch.held_out_split=null",
    "fetch.columns={}",
    "world={rows: 100}",
    "template.arguments={}",
    "template.max_prompt_tokens=96",
    "template.max_response_tokens=64",
    "curate={keep: 64, validation_share: 0.1, held_out_share: 0.1}",
    "sft.batch_size=32",
    "sft.micro_batch_size=null",
    "sft_matched.prompts=8",
    "irft.training.batch_size=8",
    "irft.training.micro_batch_size=4",
    "rft.reward.batch_size=8",
    "rft.reward.micro_batch_size=null",
    "rft.policy.steps=2",
    "rft.policy.micro_batch_size=null",
    "rft.policy.prompts_per_step=4",
    "rft.policy.samples_per_prompt=2",
    "evaluation.prompts=10",
    "leaderboard.enabled=false",
)
"""Overrides of `--tiny`: sizes and sources. Methods, rounds, epochs, learning rates and adapters stay as they are."""
PLACES = (
    "fetch.source",
    "pretrain.corpus",
    "policy.model",
    "preferences.source",
    "preferences.scorer.model",
    "preferences.judge.model",
    "scorer.model",
    "judge.model",
    "pairwise.model",
    "pairwise.rubric",
    "rft.reward.model",
    "leaderboard.mirror",
)
"""Every file or folder that a recipe names."""


def _from_home(recipe: Recipe) -> Recipe:
    """The recipe with `~` expanded, which DVC does not do."""
    for path in PLACES:
        recipe = _expanded(recipe, path.split("."))
    return recipe


def _expanded(section: S, keys: Sequence[str]) -> S:
    key, *rest = keys
    value = getattr(section, key, None)
    if rest and isinstance(value, Settings):
        return section.model_copy(update={key: _expanded(value, rest)})
    return section.model_copy(update={key: _without_tilde(value)}) if value is not None else section


def _without_tilde(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_tilde(each) for each in value]
    if isinstance(value, SourceSettings):
        return value.model_copy(update={"path": _without_tilde(value.path)})
    return os.path.expanduser(value) if str(value).startswith("~") else value  # noqa: PTH111  Path.expanduser raises for ~x


def load(
    path: Path,
    overrides: Sequence[str],
    *,
    tiny: bool = False,
    pinned: bool = True,
    active: Path | None = None,
    repeated: bool = True,
) -> tuple[Recipe, Graph]:
    """Read a recipe, apply `key=value` overrides (values are YAML), validate it and derive its graph.

    Args:
        tiny: whether the recipe is scaled down first, see TINY; overrides are applied after that.
        pinned: whether a Hugging Face id without a revision is an error.
        active: the params.yaml in use: where its recipe is the same, the rounds that were found for it stay.
        repeated: whether the variants and methods of the sections `claim` and `methods` are checked too.
    """
    written = _read(path)
    values = changed(written, (*(_scaled_down(written) if tiny else ()), *overrides))
    recipe = _from_home(_parsed(values, str(path)))
    check_consistent(recipe, str(path))
    # params.yaml has the changes of its command line, see _check_variants
    own = read_yaml(path)
    if repeated and "graph" not in own:
        _check_variants(recipe, values, written, str(path), own)
    check_models(recipe, str(path), whole=pinned)
    check_inputs(recipe, whole=pinned)
    mirror = recipe.leaderboard.mirror
    if recipe.leaderboard.enabled and mirror is not None and not Path(mirror).is_dir():
        do = f"make it on a machine with a network: python -m tasks.mirror --out {mirror}"
        raise InputError(f"leaderboard.mirror: no such folder: {mirror}", where=str(path), do=do)
    graph = graph_of(recipe, pinned=pinned, rounds=_found_before(recipe, active))
    if pinned:
        check_pinned(recipe.fetch, str(path))
    check_pairs(recipe, check_rows(recipe.fetch), str(path))
    return recipe, graph


def _found_before(recipe: Recipe, active: Path | None) -> Mapping[Method, FoundRounds]:
    """The rounds that params.yaml records for the methods on `auto`, if its recipe is the same."""
    if active is None or not active.is_file() or not on_auto(recipe):
        return {}
    with suppress(InputError):  # one of an earlier version, or edited by hand, is written anew
        values = dict(read_yaml(active))
        graph = Graph.parse(values.pop("graph", {}), str(active))
        return graph.rounds if Recipe.parse(values, str(active)) == recipe else {}
    return {}


def changed(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of a recipe's values with `key=value` overrides."""
    result = copy.deepcopy(dict(values))
    for override in overrides:
        _apply(result, override)
    return result


def _parsed(values: dict[str, Any], where: str) -> Recipe:
    recipe = Recipe.parse(values, where)
    # A copy of the quickstart with another source still has this section.
    return recipe if recipe.fetch.is_world else recipe.model_copy(update={"world": None})


def _check_variants(
    recipe: Recipe, values: dict[str, Any], written: dict[str, Any], where: str, sections: Container[str]
) -> None:
    """Check every variant of the section `claim`, and every variant, method and control of the section `methods`.

    One that only a change on the command line makes impossible is none of `juicer run`'s business: `juicer claim` and
    `juicer compare-methods` refuse it. Nor are those of a recipe that this one extends.

    Args:
        values: the recipe with the changes of the command line.
        written: the recipe as it is written, with what it extends.
        sections: those of its own file.

    Raises:
        InputError: the recipe refuses an override of a variant, method or control; names it.
    """
    for key, overrides in _repeated(recipe):
        if key.partition(".")[0] not in sections:
            continue
        method = key.startswith("methods.compared.")
        refused = _refusal(values, overrides, where, method=method)
        if refused is not None and _refusal(written, overrides, where, method=method) is not None:
            do = refused.do or "correct the overrides"
            raise InputError(refused.what, where=f"{where}: {key}", do=do)


def _repeated(recipe: Recipe) -> Iterator[tuple[str, list[str]]]:
    """What the recipe is repeated with: the key of a variant, method or control, and all of its overrides."""
    for name, overrides in recipe.claim.variants.items():
        yield f"claim.variants.{name}", overrides
    if recipe.methods is not None:
        yield "methods.shared", recipe.methods.shared
        for variant, changes in recipe.methods.variants.items():
            words = [*recipe.methods.shared, *changes]
            yield f"methods.variants.{variant}", words
            for kind, named in (("compared", recipe.methods.compared), ("controls", recipe.methods.controls)):
                for name, overrides in named.items():
                    yield f"methods.{kind}.{name}", [*words, *overrides]


def _refusal(values: dict[str, Any], overrides: Sequence[str], where: str, *, method: bool) -> InputError | None:
    """The error of a recipe with these overrides; None if it is valid.

    Args:
        method: whether they have to make it the recipe of a single method.
    """
    try:
        recipe = _parsed(changed(values, overrides), where)
        check_consistent(recipe, where)
        if method:
            check_single(recipe, where)
    except InputError as error:
        return error
    return None


def _read(path: Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The values of a recipe. `extends` names a recipe in the same folder, whose values are the defaults.

    Raises:
        InputError: the file does not exist, a recipe extends itself or a file that is not in its folder, or an
            extended recipe is invalid; names the file.
    """
    values = copy.deepcopy(read_yaml(path))
    values.pop("graph", None)
    name = values.pop("extends", None)
    if name is None:
        return values
    where = f"{path}: extends"
    if not isinstance(name, str) or Path(name).name != name or not name.isprintable():
        what = f"{shortened(name)} is not a file name"
        raise InputError(what, where=where, do="name a recipe file in the same folder")
    extended = path.parent / name
    real = _real(extended, where)
    # By the files themselves: a link is another name for a recipe, and may lead out of the folder.
    if real in [_real(each, where) for each in (path, *below)]:
        raise InputError(f"{name} extends itself", where=where, do="remove one of the `extends` lines")
    if real.parent != _real(path.parent, where):
        what = f"{name} is a link to a file outside of this folder"
        raise InputError(what, where=where, do="name a recipe file in the same folder")
    if len(below) >= EXTENDED:
        raise InputError(f"more than {EXTENDED} recipes extend each other", where=where, do="copy some values")
    whole = _read(existing(extended, where), (path, *below))
    Recipe.parse(whole, str(extended))
    return _merged({key: value for key, value in whole.items() if key not in WHOLE or key not in values}, values)


def _real(path: Path, where: str) -> Path:
    """The path without links."""
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # Python 3.11 and 3.12 raise RuntimeError for links in a circle
        raise InputError(f"{path.name} is a link that leads to itself", where=where) from error


def _merged(whole: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`whole` with `changes`: sections are merged key by key, everything else is replaced."""
    merged = dict(whole)
    for key, value in changes.items():
        before = merged.get(key)
        merged[key] = _merged(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return merged


def _scaled_down(values: dict[str, Any]) -> list[str]:
    """The overrides that make a recipe tiny."""
    frozen = value_at(values, "rft.reward.frozen_blocks", None)
    trained = [role for role in ROLES if value_at(values, f"preferences.{role}", None)]
    return [
        *TINY,
        *(["rft.reward.frozen_blocks=1"] if frozen else []),
        *(["preferences.source=null"] if trained else []),
        *(f"preferences.{role}.{small}" for role in trained for small in ("least_pairs=1", "held_out_share=0.5")),
        # Tiny random models learn nothing.
        *(f"{role}.accept_chance=true" for role in trained),
    ]


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"{shortened(override)} is not an override", where="command line", do="write key=value")
    value = parse_yaml(text, f"command line: the value of {shortened(key)}", lines=False) if text else None
    *parents, last = key.split(".")
    for parent in parents:
        inner = values.setdefault(parent, {})
        if not isinstance(inner, dict):
            what = f"{shortened(parent)} in {shortened(key)} is not a section"
            raise InputError(what, where="command line")
        values = inner
    values[last] = value


def dump(recipe: Recipe, graph: Graph) -> str:
    """The text of params.yaml: every parameter, defaults included, then the derived graph."""
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 120
    text = io.StringIO()
    text.write("# The active recipe, every parameter spelled out. Written by juicer use;\n")
    text.write("# values may be edited here (or with dvc exp run -S), except the graph, which is derived from them.\n")
    yaml.dump({**as_plain(recipe), "graph": as_plain(graph)}, text)
    return text.getvalue()


def activate(path: Path, overrides: Sequence[str], params: Path, *, tiny: bool = False) -> str:
    """Make a recipe the active one. Writes `params` only if something changes; returns what was done, in one line."""
    recipe, graph = load(path, overrides, tiny=tiny, active=params)
    text, beside = dump(recipe, graph), _not_kept(recipe, graph)
    beside += "".join(f"; {said}" for said in (*map(str, check_rows(recipe.fetch)), *probe_models(recipe, str(path))))
    if params.is_file() and params.read_text(encoding="utf-8") == text:
        written_from(path, overrides, tiny, params, origin_of(params))
        return f"{params} is up to date with {path}{beside}"
    before = origin_of(params)
    replace_text(params, text)
    written_from(path, overrides, tiny, params, before)
    return f"{params} written from {path}{beside}"


def _not_kept(recipe: Recipe, graph: Graph) -> str:
    """What is said of the local inputs that are not kept."""
    sizes = {each.source: size_of(each.source) for name, each in local_inputs(recipe).items() if name not in graph.kept}
    if not sizes:
        return ""
    listed = ", ".join(f"{source} ({size / GB:.2g} GB)" for source, size in sizes.items())
    return f"; only hashed, because keep.up_to_gb is {recipe.keep.up_to_gb:g}: {listed}"


def existing(path: Path, where: str = "") -> Path:
    """`path` if there is such a recipe; otherwise an InputError that suggests the most similar one."""
    if not path.is_file():
        known = [str(recipe) for recipe in sorted(path.parent.glob("*.yaml"))]
        what = f"no such recipe: {path.name}" if where else "no such recipe"
        raise InputError(what, where=where or str(path), do=did_you_mean(str(path), known, cutoff=0.3))
    return path
