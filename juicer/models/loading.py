"""Loading and saving policies as ordinary Hugging Face folders: safetensors, tokenizer, chat template, settings."""

import json
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from juicer.data.template import Template
from juicer.runtime.errors import InputError
from juicer.runtime.libraries import require
from juicer.settings.compute import ComputeSettings
from juicer.settings.data import TemplateSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def device_of(compute: ComputeSettings) -> torch.device:
    """The device that the recipe computes on.

    Raises:
        InputError: the recipe asks for a CUDA device and torch sees none.
    """
    if compute.device == "cuda" and not torch.cuda.is_available():
        raise InputError("compute.device is 'cuda' but torch sees no CUDA device", do="set compute.device to auto")
    if compute.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(compute.device)


def dtype_of(compute: ComputeSettings) -> torch.dtype:
    """The recipe's floating-point type of weights and activations."""
    if compute.precision == "auto":
        return torch.bfloat16 if device_of(compute).type == "cuda" else torch.float32
    return torch.bfloat16 if compute.precision == "bf16" else torch.float32


TRAINING_DTYPE = torch.float32
"""The dtype of weights that are trained and saved. A step of the paper's size, and most of a round, would be lost to
rounding in bf16, which has 8 significant bits."""


def mixed_precision(compute: ComputeSettings) -> torch.autocast:
    """The autocast context in which float32 weights train in the recipe's precision; disabled where that is float32."""
    lower = lower_precision(compute)
    # Casts are not cached: they would become stale when a step changes the weights.
    return torch.autocast(device_of(compute).type, torch.bfloat16, enabled=lower, cache_enabled=False)


def lower_precision(compute: ComputeSettings) -> bool:
    """Whether forward and backward passes over trainable weights are in bf16."""
    return dtype_of(compute) != TRAINING_DTYPE


def attention_of(device: torch.device) -> str:
    """`flash_attention_2` on a GPU where it is installed, otherwise torch's `sdpa`."""
    from transformers.utils.import_utils import is_flash_attn_2_available

    return "flash_attention_2" if device.type == "cuda" and is_flash_attn_2_available() else "sdpa"


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of a model folder; a missing padding token is set to end-of-text.

    Raises:
        InputError: the folder is missing or holds no tokenizer.
    """
    from transformers import AutoTokenizer

    _check_folder(folder)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise InputError(
            "the model folder holds no tokenizer",
            where=str(folder),
            do="save one beside the weights: tokenizer.save_pretrained(folder)",
        )
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_policy(folder: Path, compute: ComputeSettings, dtype: torch.dtype | None = None) -> "PreTrainedModel":
    """Load a causal language model in evaluation mode on the recipe's device, by default in the recipe's dtype.

    Raises:
        InputError: the folder is missing, holds no safetensors weights, or lacks some of the model's tensors; an
            unsupported release of transformers is installed.
    """
    require("transformers")
    from transformers import AutoModelForCausalLM

    check_weights(folder)
    device = device_of(compute)
    loading: Any = AutoModelForCausalLM.from_pretrained  # its type stub lacks output_loading_info
    with quiet():
        model, loaded = loading(
            folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=dtype or dtype_of(compute),
            attn_implementation=attention_of(device),
            output_loading_info=True,
        )
    check_missing(loaded, folder)
    policy: PreTrainedModel = model.to(device).eval()
    return policy


def load_template(folder: Path, settings: TemplateSettings) -> Template:
    """The shared template for the tokenizer of a model folder."""
    return Template(load_tokenizer(folder), settings)


def skip_deepspeed_import() -> None:
    """Keep accelerate from importing DeepSpeed where nothing has imported it before.

    accelerate imports it whenever a model is trained or saved, more than a second each time, only to check whether the
    model is wrapped in it.
    """
    from accelerate.utils import other

    other.is_deepspeed_available = lambda: "deepspeed" in sys.modules


def save_policy(model: "PreTrainedModel", template: Template, folder: Path, training: dict[str, Any] | None) -> None:
    """Save a policy, with its training record, so that plain transformers loads it and samples as Juicer does."""
    model.generation_config.eos_token_id = template.end_of_text
    model.generation_config.pad_token_id = template.padding
    # transformers' default is to sample from the 50 likeliest tokens only.
    model.generation_config.do_sample = True
    model.generation_config.temperature = 1.0
    model.generation_config.top_k = 0
    model.generation_config.top_p = 1.0
    model.generation_config.max_new_tokens = template.settings.max_response_tokens
    save_model(model, template, folder, training)


def save_model(model: "PreTrainedModel", template: Template, folder: Path, training: dict[str, Any] | None) -> None:
    """Save weights (safetensors), tokenizer and training record; the bytes do not depend on the folder.

    The attention implementation is added to the record's facts, because it depends on what is installed.
    """
    folder.mkdir(parents=True)
    skip_deepspeed_import()
    model.config._name_or_path = ""
    model.config.pad_token_id = template.padding
    model.save_pretrained(folder)
    template.tokenizer.save_pretrained(folder)
    if training is not None:
        facts = {**training.get("facts", {}), "attention": model.config._attn_implementation}
        text = json.dumps({**training, "facts": facts}, indent=1, allow_nan=False)
        (folder / "training.json").write_text(text + "\n", encoding="utf-8")


def read_training(folder: Path) -> dict[str, Any] | None:
    """The training record that `save_model` wrote; None for a model that another program saved."""
    path = folder / "training.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def check_weights(folder: Path) -> None:
    """Raise InputError for a folder without safetensors weights: pickled weights can run code."""
    _check_folder(folder)
    if not any(folder.glob("*.safetensors")):
        raise InputError("the model folder holds no safetensors weights", where=str(folder))


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' report of missing tensors: `check_missing` raises one error for them."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def check_missing(loaded: Mapping[str, Collection[str]], folder: Path, allowed: str | None = None) -> None:
    """Raise InputError for a checkpoint that lacks some of the model's tensors: transformers draws those at random.

    Args:
        loaded: transformers' loading report.
        allowed: a module that may be missing.
    """
    missing = sorted(name for name in loaded["missing_keys"] if name.split(".")[0] != allowed)
    if missing:
        raise InputError(
            f"{len(missing)} of the model's tensors are missing, first {missing[0]}",
            where=str(folder),
            do="copy or download the model again",
        )


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise InputError("no model here (no config.json)", where=str(folder), do="check the model's path")
