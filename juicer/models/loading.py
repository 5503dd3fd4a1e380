"""Loading and saving policies as Hugging Face folders: safetensors, tokenizer, chat template, settings.

A folder may hold adapters in place of weights (`juicer.models.adapters`). They are merged when it is loaded in float32;
beside weights of fewer bits they stay as they are.
"""

import copy
import importlib.util
import json
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError

from juicer.data.template import Template
from juicer.models.adapters import (
    Adapter,
    attach,
    checked_base,
    merge,
    read_adapter,
    round_weights,
    save_adapters,
    write_record,
)
from juicer.models.building import quiet, unbuildable
from juicer.models.casts import WeightCasts
from juicer.models.folder import (
    ADAPTER_CONFIG,
    ADAPTERS,
    BASE,
    base_record,
    check_folder,
    read_config_values,
    read_small_json,
    stored_types,
)
from juicer.models.forward import confirm_forward, usable_attention
from juicer.runtime import determinism
from juicer.runtime.devices import card_in_use
from juicer.runtime.errors import InputError
from juicer.runtime.libraries import require
from juicer.settings.compute import ComputeSettings
from juicer.settings.data import TemplateSettings

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class KeptAdapters:
    """A model that is saved as adapters."""

    start: Path
    """The folder that its training started from: a whole model, or adapters."""
    trained: Adapter | None
    """What the training added; None if nothing was trained."""


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
    """The recipe's floating-point type of weights and activations.

    Raises:
        InputError: the recipe asks for bf16, and the GPU has none.
    """
    if compute.precision == "fp32" or device_of(compute).type == "cpu":
        return torch.bfloat16 if compute.precision == "bf16" else torch.float32
    if has_bf16():
        return torch.bfloat16
    if compute.precision == "bf16":
        what = f"compute.precision is bf16, which {torch.cuda.get_device_name()} does not compute in"
        raise InputError(what, do="set it to fp32, or to auto, which is fp32 there")
    return torch.float32


def has_bf16() -> bool:
    """Whether this process's GPU computes in bf16; torch emulates it on older ones, slower than fp32."""
    return torch.cuda.is_bf16_supported(including_emulation=False)


TRAINING_DTYPE = torch.float32
"""The dtype of weights that are trained and saved. A step of the paper's size, and most of a round, would be lost to
rounding in bf16, which has 8 significant bits."""
Frozen = Literal["fp32", "bf16", "nf4"]
"""Type of weights that stay as they are while adapters train. In float32 adapters of earlier rounds are merged into
them, in fewer bits they are added to what each layer computes."""


@contextmanager
def mixed_precision(compute: ComputeSettings, casts: WeightCasts | None = None) -> Iterator[None]:
    """Autocast, in which float32 weights train in the recipe's precision; disabled where that is float32.

    On a CPU weights are cast once per optimiser step.

    Args:
        casts: those of another block in the same step; None if the block is the whole training.
    """
    lower, device = lower_precision(compute), device_of(compute).type
    with ExitStack() as entered:
        # Autocast's own cache would become stale when a step changes the weights.
        entered.enter_context(torch.autocast(device, torch.bfloat16, enabled=lower, cache_enabled=False))
        if lower and device == "cpu" and not compute.zero_stage:  # DeepSpeed replaces weights behind torch's back
            if casts is None:
                casts = WeightCasts()
                entered.enter_context(casts.dropped_after_steps())
            entered.enter_context(casts)
        yield


def lower_precision(compute: ComputeSettings) -> bool:
    """Whether forward and backward passes over trainable weights are in bf16."""
    return dtype_of(compute) != TRAINING_DTYPE


def attention_of(compute: ComputeSettings) -> str:
    """The attention implementation for rows that are not packed: the recipe's, or the fastest that is there.

    `auto` is `flash_attention_2` on a GPU where it is installed, otherwise torch's `sdpa`; `varlen` is for packed rows
    only, and `sdpa` elsewhere.

    Raises:
        InputError: the recipe asks for flash-attention, and it is not installed, or for what needs a GPU without one.
    """
    from transformers.utils.import_utils import is_flash_attn_2_available

    wanted, on_gpu = compute.attention, device_of(compute).type == "cuda"
    if wanted in ("flash_attention_2", "varlen") and not on_gpu:
        what = f"compute.attention is {wanted}, which needs a GPU, and this stage computes on a CPU"
        raise InputError(what, do="set compute.attention to auto")
    if wanted == "flash_attention_2" and not is_flash_attn_2_available():
        do = "install flash-attn for this torch and CUDA, or set compute.attention to auto"
        raise InputError("compute.attention is flash_attention_2, but flash-attn is not installed", do=do)
    if wanted == "auto":
        return "flash_attention_2" if on_gpu and is_flash_attn_2_available() else "sdpa"
    return "sdpa" if wanted == "varlen" else wanted


def attention_settings(compute: ComputeSettings) -> dict[str, Any]:
    """The settings of `load_weights` that decide over attention.

    Raises:
        InputError: as `attention_of`.
    """
    return {"attn_implementation": attention_of(compute), "only_attention": is_asked(compute)}


def is_asked(compute: ComputeSettings) -> bool:
    """Whether the recipe names an attention implementation, so that no other one may take its place."""
    return compute.attention not in ("auto", "varlen")


def attention_for(folder: Path, compute: ComputeSettings) -> str:
    """The attention implementation for the model in a folder: the fastest that is exact for it, or the recipe's.

    Raises:
        InputError: the recipe's is not there, or not exact for the model.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return usable_attention(config, attention_of(compute), only=is_asked(compute))


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of a model folder; a missing padding token is set to end-of-text.

    Raises:
        InputError: the folder is missing or holds no tokenizer.
    """
    values = read_config_values(folder)
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise InputError(
            "the model folder holds no tokenizer",
            where=str(folder),
            do="save one beside the weights: tokenizer.save_pretrained(folder)",
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the parsers of tokenizers raise plain Exceptions
        raise unbuildable("tokenizer", str(folder), error) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    _check_vocabulary(tokenizer, values, folder)
    return tokenizer


def _check_vocabulary(tokenizer: "PreTrainedTokenizerBase", values: dict[str, Any], folder: Path) -> None:
    """Raise InputError for a tokenizer with tokens that the model has no embedding for.

    Added tokens that no text of this pipeline contains may be beyond the embedding, as those for images are.
    """
    if (known := _vocabulary(values)) is None:
        return
    ends = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    largest = max([tokenizer.vocab_size - 1, *(token for token in ends if token is not None)])
    if largest >= known:
        what = f"the tokenizer has a token {largest}, but the model only {known} (vocab_size in config.json)"
        do = "save the model's own tokenizer beside its weights, or resize the embedding"
        raise InputError(what, where=str(folder), do=do)


def _vocabulary(values: dict[str, Any]) -> int | None:
    """Number of tokens that a model has an embedding for, by its config.json; None if it does not say."""
    size = values.get("vocab_size", (values.get("text_config") or {}).get("vocab_size"))
    return size if isinstance(size, int) else None


def read_ends(folder: Path) -> list[int]:
    """The tokens at which a model's generation_config.json ends a response; none without the file.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / "generation_config.json"
    given = read_small_json(path).get("eos_token_id") if path.is_file() else None
    ends = given if isinstance(given, list) else [given]
    return [end for end in ends if isinstance(end, int)]


def load_policy(
    folder: Path, compute: ComputeSettings, dtype: torch.dtype | None = None, frozen: Frozen | None = None
) -> "PreTrainedModel":
    """Load a causal language model in evaluation mode on the recipe's device, by default in the recipe's dtype.

    Args:
        frozen: other than fp32: the weights are only read, in this type in place of `dtype`. None is bf16 for a model
            that is kept as adapters and loaded in bf16, else fp32.

    Raises:
        InputError: the folder is missing, holds no safetensors weights, or lacks some of the model's tensors; the base
            model of its adapters is not here or has other weights; an unsupported release of transformers is
            installed.
    """
    check_folder(folder)  # before imports that take seconds
    require("transformers")
    from transformers import AutoModelForCausalLM

    device = device_of(compute)
    model, loaded = load_weights(
        AutoModelForCausalLM,
        folder,
        frozen,
        device,
        dtype=dtype or dtype_of(compute),
        **attention_settings(compute),
    )
    check_missing(loaded, folder)
    policy: PreTrainedModel = model.to(device).eval()
    check_finite(policy, folder)
    confirm_forward(policy)
    return policy


def load_weights(
    kind: Any, folder: Path, frozen: Frozen | None = None, device: torch.device | None = None, **settings: Any
) -> tuple[Any, dict[str, Any]]:
    """Load a model by one of transformers' AutoModel classes, from safetensors alone and without code of its own.

    Args:
        kind: the class, for example AutoModelForCausalLM.
        frozen: as `load_policy`.
        device: where adapters are multiplied, and quantised weights lie; None is the CPU.
        settings: of `from_pretrained`; another attention implementation is taken where the asked one is not exact,
            unless `only_attention` is true.

    Returns:
        The model, and transformers' report of missing and other tensors.

    Raises:
        InputError: the folder is not a whole model, its shapes contradict its configuration, transformers has no such
            model, or the only attention implementation that is allowed is not exact for it; or as `load_policy`.
    """
    from transformers import AutoConfig

    only = settings.pop("only_attention", False)
    shapes, record = check_folder(folder), base_record(folder)
    source, adapter, wanted = folder, Adapter(), settings.get("dtype")
    device = device or torch.device("cpu")
    if frozen is None:
        # Merged into weights of bf16, small differences would be lost to rounding: the base is on bf16's own grid.
        frozen = "bf16" if record is not None and wanted == torch.bfloat16 else "fp32"
    if record is not None:
        source, adapter = checked_base(folder, record), read_adapter(folder)
        if frozen == "fp32" and wanted is not None and stored_types(source) != {str(wanted)}:
            settings["dtype"] = TRAINING_DTYPE  # so that a weight is rounded once, after merging
    if frozen != "fp32":
        settings |= _frozen_settings(frozen, device)
    labels = {name: settings[name] for name in ("num_labels",) if name in settings}
    with quiet():
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **labels)
            with torch.device("meta"):
                expected = kind.from_config(config, trust_remote_code=False).state_dict()
        except Exception as error:  # whatever a configuration makes the model's own code raise
            raise unbuildable("model", str(folder), error) from error
        check_shapes({name: tuple(tensor.shape) for name, tensor in expected.items()}, shapes, folder)
        if "attn_implementation" in settings:
            settings["attn_implementation"] = usable_attention(config, settings["attn_implementation"], only=only)
        if record is not None:
            settings = {**settings, "config": config}
            for name in labels:
                del settings[name]
        try:
            model, loaded = kind.from_pretrained(
                source,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **settings,
            )
        except InputError:
            raise
        except (RuntimeError, ValueError, SafetensorError) as error:
            if "out of memory" in str(error):
                raise
            raise unbuildable("model", str(folder), error) from error
    if frozen != "fp32":
        attach(model, adapter, folder)
    elif record is not None:
        merge(model, adapter, folder, device)
        if settings.get("dtype") != wanted and isinstance(wanted, torch.dtype):
            round_weights(model, wanted)
    loaded["missing_keys"] = {name for name in loaded["missing_keys"] if name not in adapter.whole}
    return model, loaded


def _frozen_settings(frozen: Frozen, device: torch.device) -> dict[str, Any]:
    """Arguments of `from_pretrained` for weights that are only read."""
    if frozen == "bf16":
        return {"dtype": torch.bfloat16}
    from transformers import BitsAndBytesConfig

    check_quantisation()
    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"dtype": torch.bfloat16, "quantization_config": quantisation, "device_map": {"": device}}


def check_quantisation() -> None:
    """Raise InputError if the package that quantises weights is not installed."""
    if importlib.util.find_spec("bitsandbytes") is None:
        what = "lora.base nf4 (QLoRA) needs the package bitsandbytes, which is not installed"
        raise InputError(what, do="pip install 'juicer[qlora]', or pip install bitsandbytes; or set lora.base to bf16")


def check_shapes(expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]], folder: Path) -> None:
    """Raise InputError for the first tensor whose shape is not the one that config.json asks for."""
    for name, shape in expected.items():
        if name in found and found[name] != shape:
            what = f"the shape of {name} is {list(found[name])}, but config.json asks for {list(shape)}"
            raise InputError(what, where=str(folder), do="download or save the model again")


def check_finite(model: torch.nn.Module, folder: Path) -> None:
    """Raise InputError for a model with a weight that is NaN or infinite; names the tensor.

    One pass over the weights where they are, without a copy: NaN and infinities remain in the extremes of a tensor.
    """
    names, ends = [], []
    with torch.inference_mode():
        for name, tensor in model.named_parameters():
            if tensor.is_floating_point() and tensor.numel() and not tensor.is_meta:
                names.append(name)
                ends.append(torch.stack(torch.aminmax(tensor)).float())
        finite = torch.isfinite(torch.stack(ends)).all(1).tolist() if ends else []
    wrong = [name for name, good in zip(names, finite, strict=True) if not good]
    if wrong:
        others = f", and {len(wrong) - 1} more tensors" if len(wrong) > 1 else ""
        what = f"{wrong[0]} holds NaN or infinite weights{others}"
        raise InputError(what, where=str(folder), do="use another checkpoint of the model")


def load_template(folder: Path, settings: TemplateSettings) -> Template:
    """The shared template for the tokenizer of a model folder, with the ends of its generation_config.json.

    Raises:
        InputError: as `load_tokenizer` and `Template`.
    """
    tokenizer = load_tokenizer(folder)
    return Template(tokenizer, settings, read_ends(folder), _vocabulary(read_config_values(folder)))


def skip_deepspeed_import() -> None:
    """Keep accelerate from importing DeepSpeed where nothing has imported it before.

    accelerate imports it whenever a model is trained or saved, more than a second each time, only to check whether the
    model is wrapped in it.
    """
    from accelerate.utils import other

    other.is_deepspeed_available = lambda: "deepspeed" in sys.modules


def save_policy(
    model: "PreTrainedModel",
    template: Template,
    folder: Path,
    training: dict[str, Any] | None,
    adapters: KeptAdapters | None = None,
) -> None:
    """Save a policy, with its training record, so that plain transformers loads it and samples as Juicer does.

    Args:
        adapters: as `save_model`.
    """
    model.generation_config = sampling_config(template)
    save_model(model, template, folder, training, adapters)


def sampling_config(template: Template) -> "GenerationConfig":
    """How plain transformers samples as Juicer does: from the whole distribution, until one of the template's ends.

    It has nothing of the base model's own configuration, such as penalties, beams or a smallest length, and no
    `max_new_tokens`, which would take precedence over the length that a caller like lm-eval asks for.
    """
    from transformers import GenerationConfig

    ends = sorted(template.ends)
    return GenerationConfig(
        bos_token_id=template.tokenizer.bos_token_id,
        eos_token_id=ends if len(ends) > 1 else ends[0],
        pad_token_id=template.padding,
        do_sample=True,
        temperature=1.0,
        # transformers' default is to sample from the 50 likeliest tokens only.
        top_k=0,
        top_p=1.0,
    )


def save_model(
    model: "PreTrainedModel",
    template: Template,
    folder: Path,
    training: dict[str, Any] | None,
    adapters: KeptAdapters | None = None,
) -> None:
    """Save weights (safetensors), tokenizer and training record; the bytes do not depend on the folder.

    What depends on the machine is added to the record's facts: the attention implementation and, on a GPU, the card and
    whether operations were deterministic.

    Args:
        adapters: what is saved in place of the weights; None saves the weights.
    """
    folder.mkdir(parents=True)
    skip_deepspeed_import()
    model.config._name_or_path = ""
    model.config.pad_token_id = template.padding
    if adapters is None:
        model.save_pretrained(folder)
    else:
        save_adapters(adapters.trained, adapters.start, folder)
        _save_configuration(model, folder)
    template.tokenizer.save_pretrained(folder)
    if training is not None:
        facts = {**training.get("facts", {}), "attention": model.config._attn_implementation, **_facts_of_card()}
        text = json.dumps({**training, "facts": facts}, indent=1, allow_nan=False)
        (folder / "training.json").write_text(text + "\n", encoding="utf-8")


def _facts_of_card() -> dict[str, Any]:
    card = card_in_use()
    return {} if card is None else {"device": f"{card}, {card.versions}", "deterministic": determinism.is_on()}


def _save_configuration(model: "PreTrainedModel", folder: Path) -> None:
    """Write config.json and generation_config.json as `save_pretrained` does for the merged model."""
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.dtype = TRAINING_DTYPE
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.save_pretrained(folder)
    if model.can_generate() and model.generation_config is not None:
        model.generation_config.save_pretrained(folder)


@contextmanager
def whole_folder(folder: Path, scratch: Path | None = None) -> Iterator[Path]:
    """The folder of a whole model: the same one, or one with merged adapters that is there while the block runs.

    Args:
        scratch: where to write it; None is the system's folder of temporary files.
    """
    if base_record(folder) is None:
        yield folder
        return
    if scratch is not None:
        scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch, prefix="merged-") as made:
        write_whole(folder, Path(made) / folder.name)
        yield Path(made) / folder.name


def write_whole(folder: Path, out: Path, dtype: torch.dtype = TRAINING_DTYPE, *, base: Path | None = None) -> None:
    """Write a model that is kept as adapters as an ordinary folder: merged in float32, then rounded to `dtype`.

    Args:
        out: the folder to create.
        base: where the base model is; None where base.json says.

    Raises:
        InputError: as `load_weights`.
    """
    if base is not None and (record := base_record(folder)) is not None:
        with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
            moved = Path(scratch) / folder.name
            shutil.copytree(folder, moved)
            write_record(record.model_copy(update={"base": base.as_posix()}), moved)
            write_whole(moved, out, dtype)
        return
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    names = read_config_values(folder).get("architectures") or [""]
    classifies = str(names[0]).endswith("ForSequenceClassification")
    kind = AutoModelForSequenceClassification if classifies else AutoModelForCausalLM
    model, loaded = load_weights(kind, folder, "fp32", dtype=dtype)
    check_missing(loaded, folder)
    skip_deepspeed_import()
    model.config._name_or_path = ""
    model.save_pretrained(out)
    own = {ADAPTERS, ADAPTER_CONFIG, BASE, "config.json"}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in own and not path.name.startswith("."):
            shutil.copyfile(path, out / path.name)


def read_training(folder: Path) -> dict[str, Any] | None:
    """The training record that `save_model` wrote; None for a model that another program saved."""
    path = folder / "training.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


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
