"""The model card of an export: that of the registered version, else what the recipe and the evaluation say."""

from pathlib import Path

from juicer.evaluation.results import EvaluatedModel
from juicer.registry.aliases import CHAMPION
from juicer.registry.card import model_card
from juicer.registry.database import sqlite_file
from juicer.registry.packaging import card_of
from juicer.registry.records import DATA
from juicer.registry.store import project_model, project_uri
from juicer.registry.versions import open_registry
from juicer.runtime.errors import InputError
from juicer.runtime.files import value_at
from juicer.serving.named import Named
from juicer.serving.portable import CARD
from juicer.stages.hashes import md5_of

EVALUATIONS = Path("evaluation/models")
NOT_JUDGED = "This export is of {what}; no gate was asked. `juicer promote` asks them."
UNKNOWN = """---
library_name: transformers
pipeline_tag: text-generation
license: other
---

# {name}

A model from outside the recipe and the registry that it was exported from: neither its data nor its training is known
there. md5 of the weights: `{md5}`.
"""


def card_for(named: Named) -> str | None:
    """Markdown with a YAML header; None for a folder that brings a README.md of its own, which then stays.

    Raises:
        InputError: the registry fails, and the model is known only there.
    """
    if named.version is None and (named.folder / CARD).is_file():
        return None
    md5 = md5_of(named.folder)
    try:
        if (card := _registered(named, md5)) is not None:
            return card
    except InputError:
        if named.version is not None:
            raise
        # The registry only knows more about this model; the recipe and the evaluation are here.
    row = value_at(named.recipe, f"graph.models.{named.name}", None)
    if row is None or Path(row["path"]) != named.folder:
        return UNKNOWN.format(name=named.name, md5=md5)
    tags = {"model": named.name, "method": str(row["method"]), "round": str(row["round"]), "dvc_md5": md5}
    tags |= {"seed": str(named.recipe.get("seed")), "git_commit": "not recorded"}
    if Path(DATA).is_dir():
        tags["dataset_md5"] = md5_of(Path(DATA))
    figures: dict[str, float] = {}
    if (path := EVALUATIONS / f"{named.name}.json").is_file():
        figures = {key: float(value) for key, value in EvaluatedModel.read(path).held_out.numbers().items()}
    gates = NOT_JUDGED.format(what="a model that is not registered")
    return model_card(str(named.recipe["name"]), None, tags, figures, named.recipe, [], gates)


def _registered(named: Named, md5: str) -> str | None:
    """The card of the version that was named, or that has these weights; None if there is none."""
    uri = project_uri()
    store = sqlite_file(uri)
    if store is not None and not store.is_file():
        return None
    with open_registry(uri) as registry:
        version = named.version or registry.find_by_md5(project_model(), md5)
        if version is None:
            return None
        promoted = "It is the champion: when it was promoted, it passed every gate."
        gates = promoted if CHAMPION in version.aliases else NOT_JUDGED.format(what=version.uri)
        return card_of(registry, version, gates)
