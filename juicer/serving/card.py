"""The model card of an export: that of the registered version, else what the recipe and the evaluation say."""

from pathlib import Path

from juicer.evaluation.results import EvaluatedModel
from juicer.registry.card import model_card
from juicer.registry.database import sqlite_file
from juicer.registry.packaging import card_of
from juicer.registry.records import DATA, git_tags
from juicer.registry.store import project_model, project_uri
from juicer.registry.versions import open_registry
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
        InputError: the registry fails.
    """
    if named.version is None and (named.folder / CARD).is_file():
        return None
    uri = project_uri()
    store = sqlite_file(uri)
    md5 = md5_of(named.folder)
    if store is None or store.is_file():
        with open_registry(uri) as registry:
            version = named.version
            if version is None:
                version = registry.find_by_md5(project_model(), md5)
            if version is not None:
                gates = NOT_JUDGED.format(what=version.uri)
                if "champion" in version.aliases:
                    gates = "It is the champion: it passed every gate when it was promoted."
                return card_of(registry, version, gates)
    row = value_at(named.recipe, f"graph.models.{named.name}", None)
    if row is None or Path(row["path"]) != named.folder:
        return UNKNOWN.format(name=named.name, md5=md5)
    tags = {"model": named.name, "method": str(row["method"]), "round": str(row["round"]), "dvc_md5": md5}
    tags |= {"seed": str(named.recipe.get("seed")), **git_tags()}
    if Path(DATA).is_dir():
        tags["dataset_md5"] = md5_of(Path(DATA))
    figures: dict[str, float] = {}
    if (path := EVALUATIONS / f"{named.name}.json").is_file():
        figures = {key: float(value) for key, value in EvaluatedModel.read(path).held_out.numbers().items()}
    gates = NOT_JUDGED.format(what="a model that is not registered")
    return model_card(str(named.recipe["name"]), None, tags, figures, named.recipe, [], gates)
