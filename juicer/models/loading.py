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
    """The device to compute on.

    Raises:
        InputError: a CUDA device is asked for and there is none.
    """
    if compute.device == "cuda" and not torch.cuda.is_available():
        raise InputError("compute.device is 'cuda' but torch sees no CUDA device", do="set compute.device to auto")
    if compute.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(compute.device)


def dtype_of(compute: ComputeSettings) -> torch.dtype:
    """The floating-point type of weights and activations."""
    if compute.precision == "auto":
        return torch.bfloat16 if device_of(compute).type == "cuda" else torch.float32
    return torch.bfloat16 if compute.precision == "bf16" else torch.float32


TRAINED = torch.float32
"""The type of weights that train and are saved: a step of the paper's size, and most of a round of them, is lost in
bf16's 8 bits."""


def mixed_precision(compute: ComputeSettings) -> torch.autocast:
    """The context in which float32 weights train in the recipe's precision; does nothing where that is float32."""
    lower = lower_precision(compute)
    # Casts are not cached: they would outlive the step that changes the weights.
    return torch.autocast(device_of(compute).type, torch.bfloat16, enabled=lower, cache_enabled=False)


def lower_precision(compute: ComputeSettings) -> bool:
    """Whether the passes over weights that train are bf16."""
    return dtype_of(compute) != TRAINED


def attention_of(device: torch.device) -> str:
    """`flash_attention_2` where it is installed and there is a GPU, else torch's own."""
    from transformers.utils.import_utils import is_flash_attn_2_available

    return "flash_attention_2" if device.type == "cuda" and is_flash_attn_2_available() else "sdpa"


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of a model folder; a missing padding token becomes end-of-text.

    Raises:
        InputError: no such folder, or it holds no tokenizer.
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
    """Load a causal language model in evaluation mode on the recipe's device, in the recipe's type unless told.

    Raises:
        InputError: no such folder, no safetensors weights in it, or not all of them; another release of transformers
            than Juicer is written for is installed.
    """
    require("transformers")
    from transformers import AutoModelForCausalLM

    check_weights(folder)
    device = device_of(compute)
    loading: Any = AutoModelForCausalLM.from_pretrained  # its type knows no report
    with quiet():
        model, loaded = loading(
            folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=dtype or dtype_of(compute),
            attn_implementation=attention_of(device),
            output_loading_info=True,
        )
    refuse_missing(loaded, folder)
    policy: PreTrainedModel = model.to(device).eval()
    return policy


def load_template(folder: Path, settings: TemplateSettings) -> Template:
    """The shared template for the tokenizer of a model folder."""
    return Template(load_tokenizer(folder), settings)


def skip_deepspeed_import() -> None:
    """Let accelerate look for DeepSpeed's wrapper only where DeepSpeed has been imported.

    It would import it whenever a model is trained or saved, more than a second each time, to learn that nothing is
    wrapped in it.
    """
    from accelerate.utils import other

    other.is_deepspeed_available = lambda: "deepspeed" in sys.modules


def save_policy(model: "PreTrainedModel", template: Template, folder: Path, training: dict[str, Any] | None) -> None:
    """Save a policy so that plain transformers loads it and samples as we do, with its training record beside it."""
    model.generation_config.eos_token_id = template.end_of_text
    model.generation_config.pad_token_id = template.padding
    # transformers, left to itself, would draw from the 50 likeliest tokens only.
    model.generation_config.do_sample = True
    model.generation_config.temperature = 1.0
    model.generation_config.top_k = 0
    model.generation_config.top_p = 1.0
    model.generation_config.max_new_tokens = template.settings.max_response_tokens
    save_model(model, template, folder, training)


def save_model(model: "PreTrainedModel", template: Template, folder: Path, training: dict[str, Any] | None) -> None:
    """Save weights (safetensors), tokenizer and training record; nothing in it depends on where it is saved.

    The record's facts get the attention's implementation: it is chosen by what is installed.
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
    """The training record that `save_model` left in a folder; None for a model that came from elsewhere."""
    path = folder / "training.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def check_weights(folder: Path) -> None:
    """Refuse a folder without safetensors weights: pickled weights can run code."""
    _check_folder(folder)
    if not any(folder.glob("*.safetensors")):
        raise InputError("the model folder holds no safetensors weights", where=str(folder))


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' report of missing tensors from standing beside ours."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def refuse_missing(loaded: Mapping[str, Collection[str]], folder: Path, allowed: str | None = None) -> None:
    """Refuse a checkpoint without some of the model's tensors: transformers makes those up at random.

    Args:
        loaded: what transformers says of the loading.
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
