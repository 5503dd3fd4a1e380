"""Which model a user means: an evaluated model of the active recipe, a registered version, or a folder."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from juicer.data import hh
from juicer.models.folder import check_folder, read_small_json
from juicer.registry.aliases import CHAMPION, PREVIOUS, aliases_set
from juicer.runtime.errors import InputError, did_you_mean
from juicer.runtime.files import read_json, read_yaml, value_at
from juicer.runtime.yaml_text import parse_yaml
from juicer.settings.data import TemplateSettings
from juicer.settings.evaluation import EvaluationSettings

if TYPE_CHECKING:
    from juicer.registry.versions import Version

PARAMS, SUMMARY, LOCAL = Path("params.yaml"), Path("metrics/summary.json"), Path(".juicer")
ALIASES = (CHAMPION, "challenger", PREVIOUS)
"""Aliases that Juicer itself sets; a registered model may have others."""
CHAT_TEMPLATE = "chat_template.jinja"


@dataclass(frozen=True)
class Named:
    """A model that a user has named."""

    name: str
    """A word for files and requests: irft-r2, quickstart-3, or the name of the folder."""
    title: str
    """What it is, for messages."""
    folder: Path
    recipe: Mapping[str, Any]
    """The values of the params.yaml that it was made with; for a folder from outside, the project's."""
    template: TemplateSettings
    """How it was trained to read dialogues."""
    version: "Version | None" = None
    """The version that was named, if one was."""

    @property
    def evaluation(self) -> EvaluationSettings:
        """How its recipe evaluates."""
        return EvaluationSettings.parse(dict(self.recipe.get("evaluation") or {}), f"{self.title}: evaluation")


@contextmanager
def found(word: str, folder: Path) -> Iterator[Named]:
    """The model that `word` names, while the block runs: weights that are not in the project lie in .juicer till then.

    Args:
        word: a name of the active recipe's models (irft-r2), an alias (champion), models:/NAME/VERSION,
            models:/NAME@ALIAS, or a folder; ./NAME is always a folder.
        folder: the folder that the word would be, seen from the project's root.

    Raises:
        InputError: there is no such model, or its weights are not here; names the nearest.
    """
    recipe = read_yaml(PARAMS)
    models: Mapping[str, Mapping[str, Any]] = value_at(recipe, "graph.models", {})
    if word in models:
        yield _evaluated(word, Path(models[word]["path"]), recipe)
    elif word.startswith("models:") or word in ALIASES:
        with _registered(word) as named:
            yield named
    elif folder.is_dir():
        yield _at(folder, models, recipe)
    elif "/" in word or word.startswith("."):
        raise InputError("no such folder", where=word, do=_nearest(word, models))
    else:
        known = [*models, *dict.fromkeys([*ALIASES, *_aliases()])]
        if word not in known:
            raise InputError("no such model", where=word, do=did_you_mean(word, known))
        with _registered(word) as named:
            yield named


@contextmanager
def predecessor(named: Named) -> Iterator[Named]:
    """The model that a model was trained from, while the block runs.

    Raises:
        InputError: nothing is known of one, or it is not here.
    """
    do = "name the model that the difference is to: --base MODEL"
    name = str(named.version.tags.get("model")) if named.version else named.name
    if named.version and (parent := named.version.tags.get("parent")):
        with _registered(f"models:/{named.version.name}/{parent}") as before:
            yield before
        return
    folder = _before(name, named.recipe) if name in value_at(named.recipe, "graph.models", {}) else None
    if folder is None:
        raise InputError(f"nothing is known of a model that {named.title} was trained from", do=do)
    if not folder.is_dir():
        raise InputError("the model that it was trained from is not here", where=str(folder), do=do)
    with found(str(folder), folder) as before:
        yield before


def _before(name: str, recipe: Mapping[str, Any]) -> Path | None:
    """The folder of the model that a model of a recipe was trained from; None for the base model."""
    before = {"sft": value_at(recipe, "graph.base"), "sft-matched": value_at(recipe, "graph.models.sft.path")}
    for method in ("irft", "rft"):
        rounds: Mapping[str, Mapping[str, Any]] = value_at(recipe, f"graph.{method}", {})
        before |= {f"{method}-{key}": each["previous"] for key, each in rounds.items()}
    return Path(before[name]) if name in before else None


def default_word() -> str:
    """The model that a user most likely means: the champion; before one is promoted, the model that is the best on
    validation prompts; before the report, the last model that is there.

    Raises:
        InputError: there is no model yet.
    """
    if CHAMPION in _aliases():
        return CHAMPION
    models: Mapping[str, Mapping[str, Any]] = value_at(read_yaml(PARAMS), "graph.models", {})
    if SUMMARY.is_file():
        best = value_at(read_json(SUMMARY), "champion.name", None)
        if best in models and Path(models[best]["path"]).is_dir():
            return str(best)
    there = [name for name, each in models.items() if Path(each["path"]).is_dir()]
    if not there:
        raise InputError("there is no model yet", do="make some: juicer run, or name a model's folder")
    return there[-1]


def _nearest(word: str, models: Mapping[str, Any]) -> str:
    near = did_you_mean(word.rstrip("/"), [str(each["path"]) for each in models.values()])
    return near or "name a model's folder"


def _evaluated(name: str, folder: Path, recipe: Mapping[str, Any]) -> Named:
    if not folder.is_dir():
        raise InputError(f"{name} is not there", where=str(folder), do=f"make it: juicer run; or: dvc pull {folder}")
    check_folder(folder)
    return Named(name, f"{name} ({folder})", folder, recipe, _template(recipe))


def _at(folder: Path, models: Mapping[str, Mapping[str, Any]], recipe: Mapping[str, Any]) -> Named:
    """A folder: one of the recipe's own models, or one from outside, which brings its chat template with it."""
    check_folder(folder)
    own = next((name for name, each in models.items() if Path(each["path"]).absolute() == folder.absolute()), None)
    if own is not None:
        return _evaluated(own, folder, recipe)
    return Named(folder.absolute().name, str(folder), folder, recipe, _own_template(folder, _template(recipe)))


@contextmanager
def _registered(word: str) -> Iterator[Named]:
    """A registered version, by an alias of the active recipe's model or by its own reference."""
    from juicer.registry.records import PARAMS as KEPT
    from juicer.registry.restore import weights_of
    from juicer.registry.store import project_model, project_uri
    from juicer.registry.versions import open_registry

    reference = word if word.startswith("models:") else f"models:/{project_model()}@{word}"
    LOCAL.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=LOCAL, prefix="weights-") as scratch:
        with open_registry(project_uri()) as registry:
            version = registry.find(reference)
            recipe = parse_yaml(registry.kept_text(version, KEPT), f"{KEPT} of {version.uri}")
            weights = weights_of(registry, version, Path(scratch) / "project")
        check_folder(weights)
        title = f"{version.uri} ({', '.join([str(version.tags.get('model')), *version.aliases])})"
        yield Named(f"{version.name}-{version.number}", title, weights, recipe, _template(recipe), version)


def _aliases() -> list[str]:
    """The aliases of the active recipe's registered model."""
    from juicer.registry.store import project_model, project_uri

    return aliases_set(project_uri(), project_model())


def _template(recipe: Mapping[str, Any]) -> TemplateSettings:
    return TemplateSettings.parse(recipe.get("template") or {}, "template")


def _own_template(folder: Path, project: TemplateSettings) -> TemplateSettings:
    """The chat template that a folder brings, within the project's limits; without one, the project's."""
    own = chat_template_in(folder)
    if own is None:
        return project
    name = "hh" if own.strip() == hh.CHAT_TEMPLATE else "model"
    return project.model_copy(update={"name": name, "system": None, "arguments": {}})


def chat_template_in(folder: Path) -> str | None:
    """The chat template of a model's folder; None if it has none."""
    path, config = folder / CHAT_TEMPLATE, folder / "tokenizer_config.json"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    kept = read_small_json(config).get("chat_template") if config.is_file() else None
    if isinstance(kept, list):  # several, by name
        kept = next((each["template"] for each in kept if each.get("name") == "default"), None)
    return kept if isinstance(kept, str) else None
