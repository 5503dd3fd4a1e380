"""The model folders that a recipe names, checked when the recipe is read: what would stop a stage hours later.

Only small files are read and nothing is built, so this takes a fraction of a second. With policy.digest the weights are
read once too, about a second for each GB.
"""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from juicer.models.architectures import CAUSAL, CLASSIFIERS, CONFIGURATIONS, MASKED, is_known, model_types
from juicer.models.digest import check_digest
from juicer.models.folder import check_folder, check_no_adapter, context_of, read_config_values, read_small_json
from juicer.recipe.graph import WORLD_POLICY, WORLD_SCORER
from juicer.recipe.schema import Recipe
from juicer.runtime.errors import InputError
from juicer.training.trackers import check_trackers

Role = Literal["policy", "scorer", "reward"]
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
WRONG_HEADS = ("ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForScore")
"""Ends of the names of architectures that do not write text."""


@dataclass(frozen=True)
class Folder:
    """A model folder on this machine."""

    key: str
    """What names it in the recipe, for example rft.reward.model."""
    role: Role
    path: Path
    values: dict[str, Any]
    """Of its config.json."""

    @property
    def architecture(self) -> str:
        """For example GPTNeoXForCausalLM; "" if config.json has none."""
        names = self.values.get("architectures")
        return str(names[0]) if isinstance(names, list) and names else ""

    def refused(self, what: str, do: str, name: str = "") -> InputError:
        """The error about this folder, or about the file `name` in it."""
        return InputError(f"{self.key}: {what}", where=str(self.path / name), do=do)


def check_inputs(recipe: Recipe, *, whole: bool = True) -> None:
    """Check every model folder of a recipe that is on this machine and that no stage makes.

    Args:
        whole: whether weights and tokenizers have to be there; a plan needs only a config.json.

    Raises:
        InputError: names the key, the folder or file, and what to do.
    """
    if whole:
        check_trackers(recipe.tracking.report_to)
    if recipe.tiny is not None:
        return
    folders: dict[Role, Folder] = {}
    for key, role, path in _named(recipe):
        check_no_adapter(path)
        folder = folders[role] = Folder(key, role, path, read_config_values(path))
        _check_configuration(folder, recipe)
        if whole:
            _check_files(folder, recipe)
        if role == "policy" and (whole or any(path.glob("*.safetensors"))):
            check_digest(path, recipe.policy.digest)
    if whole and recipe.rft.optimiser == "ppo" and {"policy", "reward"} <= folders.keys():
        _check_same_vocabulary(folders["policy"], folders["reward"])


def _named(recipe: Recipe) -> Iterator[tuple[str, Role, Path]]:
    reward = recipe.rft.reward.model if recipe.rft.rounds else None
    scorer = recipe.scorer.model if recipe.scorer.kind != "none" else None
    found: tuple[tuple[str, Role, str | None], ...] = (
        ("policy.model", "policy", recipe.policy.model),
        ("scorer.model", "scorer", scorer),
        ("rft.reward.model", "reward", reward),
    )
    for key, role, model in found:
        made = recipe.pretrain is not None and model in (WORLD_POLICY, WORLD_SCORER)
        if model is not None and not made and Path(model).is_dir():
            yield key, role, Path(model)


def _check_configuration(folder: Folder, recipe: Recipe) -> None:
    values, kind = folder.values, folder.values.get("model_type")
    if not isinstance(kind, str):
        raise folder.refused("there is no model_type", "use a model that transformers has", "config.json")
    quantised = values.get("quantization_config") or (values.get("text_config") or {}).get("quantization_config")
    if quantised:
        method = quantised.get("quant_method", "unknown") if isinstance(quantised, dict) else "unknown"
        what = f"the weights are quantised ({method}), and Juicer computes with full ones"
        raise folder.refused(what, "use the model that it was quantised from", "config.json")
    if not is_known(kind, CONFIGURATIONS):
        what = f"the installed transformers has no architecture {kind!r}"
        raise folder.refused(what, "install a release of transformers that has it, or use another model", "config.json")
    if folder.role == "policy":
        _check_policy(folder, kind)
    elif folder.role == "scorer" and recipe.scorer.kind == "beaver":
        _check_beaver(folder, kind)
    else:
        _check_classifier(folder, kind)
    limits, context = recipe.template, context_of(values)
    longest = limits.max_prompt_tokens + limits.max_response_tokens
    if folder.role != "scorer" and context is not None and longest > context:
        what = f"template.max_prompt_tokens + max_response_tokens = {longest} exceeds its context of {context} tokens"
        raise folder.refused(what, "lower one of the two limits", "config.json")


def _is_encoder(folder: Folder, kind: str) -> bool:
    return kind in model_types(MASKED) and not folder.values.get("is_decoder", False)


def _check_policy(folder: Folder, kind: str) -> None:
    do = "use a causal language model"
    if folder.values.get("is_encoder_decoder") or _is_encoder(folder, kind) or not is_known(kind, CAUSAL):
        raise folder.refused(f"{folder.architecture or kind} is no causal language model", do, "config.json")
    if folder.architecture.endswith(WRONG_HEADS):
        raise folder.refused(f"{folder.architecture} writes no text", do, "config.json")


def _check_beaver(folder: Folder, kind: str) -> None:
    if folder.architecture.endswith("ForSequenceClassification") or kind != "llama":
        what = f"scorer.kind is 'beaver', but this is a {folder.architecture or kind}"
        raise folder.refused(what, "set scorer.kind to sequence-classification", "config.json")


def _check_classifier(folder: Folder, kind: str) -> None:
    """A scorer that is a sequence classifier, or a model that the learnt reward starts from."""
    name, values = folder.architecture, folder.values
    if folder.role == "scorer" and not name.endswith("ForSequenceClassification"):
        what = f"scorer.kind is 'sequence-classification', but this is a {name or kind}"
        do = "set scorer.kind to beaver" if name.endswith("ForScore") else "set scorer.model to a reward model"
        raise folder.refused(what, do, "config.json")
    if not is_known(kind, CLASSIFIERS):
        do = "use a model of another architecture"
        raise folder.refused(f"transformers has no sequence classifier of the architecture {kind}", do, "config.json")
    if folder.role == "reward" and (values.get("is_encoder_decoder") or _is_encoder(folder, kind)):
        what = f"{name or kind} is no causal model, and the reward is read at the last token of a response"
        raise folder.refused(
            what, "use a causal language model, or a reward model that was made from one", "config.json"
        )
    named = values.get("id2label")
    labels = len(named) if isinstance(named, dict) else values.get("num_labels", 2)
    if name.endswith("ForSequenceClassification") and labels != 1:
        what = f"a {folder.role} must have one label, but this model has {labels}"
        raise folder.refused(what, f"set {folder.key} to a reward model", "config.json")


def _check_files(folder: Folder, recipe: Recipe) -> None:
    check_folder(folder.path)  # the headers of the weights, not the weights
    present = [name for name in TOKENIZERS if (folder.path / name).is_file()]
    do = "save one beside the weights: tokenizer.save_pretrained(folder)"
    if not present:
        raise folder.refused("the model folder holds no tokenizer", do)
    if present == ["tokenizer.model"] and importlib.util.find_spec("sentencepiece") is None:
        what = "the tokenizer is only a tokenizer.model, which needs the package sentencepiece"
        raise folder.refused(what, "pip install sentencepiece, or save a tokenizer.json", "tokenizer.model")
    if folder.role != "scorer" and recipe.template.name == "model" and not _has_chat_template(folder.path):
        do = "set template.name to hh, or save a chat template with the model"
        raise folder.refused("template.name is 'model', but the tokenizer has no chat template of its own", do)


def _has_chat_template(path: Path) -> bool:
    if (path / "chat_template.jinja").is_file() or (path / "chat_template.json").is_file():
        return True
    settings = path / "tokenizer_config.json"
    return settings.is_file() and bool(read_small_json(settings).get("chat_template"))


def _check_same_vocabulary(policy: Folder, reward: Folder) -> None:
    """PPO passes the policy's token ids to the reward inside TRL."""
    files = [folder.path / "tokenizer.json" for folder in (policy, reward)]
    if all(path.is_file() for path in files) and _vocabulary(files[0]) != _vocabulary(files[1]):
        what = "the reward has another tokenizer than the policy, and PPO passes it the policy's token ids"
        raise reward.refused(what, "set rft.optimiser to rloo", "tokenizer.json")


def _vocabulary(path: Path) -> tuple[Any, list[tuple[Any, Any]]]:
    values = read_small_json(path)
    added = [(token.get("content"), token.get("id")) for token in values.get("added_tokens") or []]
    return (values.get("model") or {}).get("vocab"), added
