"""Package a policy as an MLflow model that `mlflow models serve` and transformers load without Juicer; its card."""

import logging
import shutil
from importlib.metadata import version
from pathlib import Path

from ruamel.yaml import YAML

from juicer.registry.card import model_card
from juicer.registry.records import PARAMS
from juicer.registry.versions import Registry, Version

REQUIREMENTS = ("accelerate", "mlflow", "torch", "transformers")


def package(weights: Path, name: str, card: str, out: Path) -> None:
    """Write the MLflow model: the same files as in `weights` below model/, the flavour, the card.

    Args:
        weights: a policy's folder.
        name: the model's name in its own metadata. It must not look like a hub name, or MLflow looks it up there.
        card: Markdown with a YAML header, as on the hub.
        out: folder to create.
    """
    from huggingface_hub import ModelCard
    from mlflow.transformers import save_model
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    logging.getLogger("mlflow.transformers").setLevel(
        logging.ERROR
    )  # it warns that it finds no licence; the card has it
    # MLflow 3.17 cannot describe a checkpoint by its path under transformers 5, so it is loaded for a moment.
    model = AutoModelForCausalLM.from_pretrained(
        weights, local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype="auto"
    )
    model.name_or_path = name
    tokenizer = AutoTokenizer.from_pretrained(weights, local_files_only=True, trust_remote_code=False)
    save_model(
        {"model": model, "tokenizer": tokenizer},
        str(out),
        task="llm/v1/chat",
        model_card=ModelCard(card),
        pip_requirements=[f"{package}=={version(package).split('+')[0]}" for package in REQUIREMENTS],
    )
    # Keep the very files that DVC tracks: MLflow has written the weights anew.
    shutil.rmtree(out / "model")
    shutil.copytree(weights, out / "model")
    # Written by MLflow for models of the hub; the card says what licences there are.
    (out / "LICENSE.txt").unlink(missing_ok=True)


def card_of(registry: Registry, version: Version, gates: str) -> str:
    """The model card of a version, with the recipe that was kept with it and the versions that it was trained from.

    Args:
        gates: the table of the gates that it passed, or what stands in its place.

    Raises:
        InputError: the version's params.yaml is missing, or MLflow fails.
    """
    recipe = YAML(typ="safe").load(registry.kept_text(version, PARAMS))
    lineage, parent = [], version.tags.get("parent")
    while parent:
        ancestor = registry.find(f"models:/{version.name}/{parent}")
        lineage.append((ancestor.number, ancestor.tags))
        parent = ancestor.tags.get("parent")
    return model_card(version.name, version.number, version.tags, version.metrics, recipe, lineage, gates)
