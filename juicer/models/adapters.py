"""Models that are kept as low-rank adapters beside the one base model that they are for.

A folder of such a model holds what peft writes (adapter_model.safetensors, adapter_config.json), the tokenizer and
config.json, and base.json (`juicer.models.folder.BaseRecord`) in place of weights. It has the adapters of all trainings
since the base model: the differences B A of several rounds add up to one of the sum of their ranks, so every round is
one adapter of one base model, which any program with peft loads. The scale alpha / r is multiplied into B, and
adapter_config.json says alpha = r.

Contract: merging adds B A to the weights in float32, once, and rounds to another type afterwards. Adapters are never
merged into weights of fewer bits that are saved.
Pitfall: a base model with other weights would give another model silently, so its digest is compared whenever weights
are loaded.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from juicer.models.digest import unchanged_digest
from juicer.models.folder import ADAPTER_CONFIG, ADAPTERS, BASE, BaseRecord, base_folder, base_record, read_small_json
from juicer.runtime.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PREFIX = "base_model.model."
"""What peft writes before the name of every tensor."""
NAME = "default"
"""peft's name of the adapter that trains."""
HEAD = "score"
"""The scalar head of a reward, which trains whole."""
ADDED = ("added_a", "added_b")
"""Buffers of a layer whose adapters of earlier rounds are added to what it computes."""


@dataclass
class Adapter:
    """A low-rank difference between two models, and the parameters that were trained whole."""

    factors: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Per linear layer, A (rank, inputs) and B (outputs, rank): the difference of its weight is B A."""
    transposed: bool = False
    """Whether weights are stored as (inputs, outputs), as GPT-2 does."""
    whole: dict[str, Tensor] = field(default_factory=dict)
    """Parameters that replace the base model's, or that it does not have, such as the head of a reward; by name."""
    error: float = 0.0
    """The largest norm of what is left of a matrix's difference, relative to the difference; 0 for one that was
    trained."""

    @property
    def rank(self) -> int:
        """The largest rank of a layer; 0 without layers."""
        return max((len(a) for a, _ in self.factors.values()), default=0)

    @property
    def elements(self) -> int:
        """Elements of the factors."""
        return sum(a.numel() + b.numel() for a, b in self.factors.values())


def joined(earlier: Adapter, later: Adapter) -> Adapter:
    """The sum of two differences: their ranks add."""
    factors = dict(earlier.factors)
    for layer, new in later.factors.items():
        old = factors.get(layer)
        factors[layer] = new if old is None else (torch.cat([old[0], new[0]]), torch.cat([old[1], new[1]], dim=1))
    return Adapter(factors, earlier.transposed or later.transposed, {**earlier.whole, **later.whole})


def write_adapter(found: Adapter, base: str, out: Path) -> None:
    """Write what `peft.PeftModel.from_pretrained` loads; the bytes depend on nothing else.

    Args:
        base: what stands as the base model in adapter_config.json.
        out: the folder, which may be there already.
    """
    from peft import LoraConfig
    from safetensors.torch import save_file

    rank = found.rank
    ranks = {layer: len(a) for layer, (a, _) in found.factors.items()}
    other = {re.escape(layer): own for layer, own in sorted(ranks.items()) if own != rank}
    out.mkdir(parents=True, exist_ok=True)
    LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=sorted(ranks),
        modules_to_save=sorted({name.rpartition(".")[0] for name in found.whole}) or None,
        rank_pattern=dict(other),
        alpha_pattern=dict(other),
        fan_in_fan_out=found.transposed,
        task_type="SEQ_CLS" if found.whole else "CAUSAL_LM",
        base_model_name_or_path=base,
        inference_mode=True,
    ).save_pretrained(str(out))
    path = out / ADAPTER_CONFIG
    values = json.loads(path.read_text(encoding="utf-8"))
    values["target_modules"] = sorted(ranks)  # peft writes a set, in an order that differs from process to process
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    tensors = {f"{PREFIX}{name}": tensor.contiguous() for name, tensor in found.whole.items()}
    for layer, (a, b) in found.factors.items():
        tensors[f"{PREFIX}{layer}.lora_A.weight"] = a.contiguous()
        tensors[f"{PREFIX}{layer}.lora_B.weight"] = b.contiguous()
    save_file(tensors, str(out / ADAPTERS), metadata={"format": "pt"})


def read_adapter(folder: Path) -> Adapter:
    """The adapters of all trainings since the base model, float32 on the CPU.

    Raises:
        InputError: the file is damaged, or holds something else.
    """
    from safetensors.torch import load_file

    record = base_record(folder)
    if record is None or not record.ranks:
        return Adapter()
    path = folder / ADAPTERS
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"the safetensors file is damaged: {error}", where=str(path), do="copy it again") from error
    found = Adapter(transposed=bool(read_small_json(folder / ADAPTER_CONFIG).get("fan_in_fan_out")))
    for name, tensor in tensors.items():
        own = name.removeprefix(PREFIX)
        layer, kind, _ = own.partition(".lora_")
        if not kind:
            found.whole[own] = tensor
        elif own.endswith(".lora_A.weight"):
            other = tensors.get(name.replace(".lora_A.", ".lora_B."))
            if other is None or tensor.ndim != 2 or other.ndim != 2 or len(tensor) != other.shape[1]:
                raise InputError(f"the two parts of the adapter of {layer} do not fit", where=str(path))
            found.factors[layer] = tensor.float(), other.float()
    return found


def save_adapters(trained: Adapter | None, start: Path, out: Path) -> None:
    """Write the adapters of a model, and base.json, into its folder.

    Args:
        trained: what the training added; None for the very model that it would have started from.
        start: the folder that the training started from: a whole model, which becomes the base model, or adapters,
            whose base model stays.
    """
    record = base_record(start) or BaseRecord(base=start.as_posix(), digest=unchanged_digest(start), ranks=[])
    ranks = [*record.ranks, *([trained.rank] if trained is not None else [])]
    found = joined(read_adapter(start), trained or Adapter())
    if found.factors or found.whole:
        write_adapter(found, record.base, out)
    write_record(record.model_copy(update={"ranks": ranks}), out)


def write_record(record: BaseRecord, folder: Path) -> None:
    """Write base.json."""
    (folder / BASE).write_text(json.dumps(record.model_dump(), indent=1) + "\n", encoding="utf-8")


def checked_base(folder: Path, record: BaseRecord) -> Path:
    """The base model of a folder with adapters, if its weights are the recorded ones.

    Raises:
        InputError: it is not there, or has other weights.
    """
    base = base_folder(folder, record)
    if (found := unchanged_digest(base)) != record.digest:
        what = (
            f"the adapters are for {record.base} with the digest {record.digest[:12]}, but its digest is {found[:12]}"
        )
        do = f"restore the base model: dvc checkout {record.base}; or train again: juicer run"
        raise InputError(what, where=str(folder), do=do)
    return base


@torch.no_grad()
def merge(model: torch.nn.Module, adapter: Adapter, folder: Path, device: torch.device) -> None:
    """Add B A to the weights of a base model, in float32 and in place, and put in what was trained whole.

    Args:
        folder: the adapters' folder, for errors.
        device: where B A is computed.

    Raises:
        InputError: the model has no such layer, or one of another shape.
    """
    modules = dict(model.named_modules())
    for layer, (a, b) in adapter.factors.items():
        weight = _weight_of(modules, layer, folder)
        change = b.to(device) @ a.to(device)
        change = change.T if adapter.transposed else change
        if change.shape != weight.shape:
            raise _does_not_fit(layer, folder)
        weight.copy_(weight.float() + change.to(weight.device))
    put_whole(model, adapter, folder)


def attach(model: torch.nn.Module, adapter: Adapter, folder: Path) -> None:
    """Have a base model compute with adapters beside its weights, which stay as they are; the adapters never train.

    For weights of fewer bits, in which a merged difference would be lost to rounding. peft knows nothing of them, so
    that it trains, saves and resumes the round's own adapters alone.

    Raises:
        InputError: as `merge`.
    """
    modules = dict(model.named_modules())
    for layer, (a, b) in adapter.factors.items():
        _weight_of(modules, layer, folder)
        module = modules[layer]
        for name, factor in zip(ADDED, (a, b), strict=True):
            module.register_buffer(name, factor.to(torch.bfloat16), persistent=False)
        module.register_forward_hook(_add)
    put_whole(model, adapter, folder)


@torch.no_grad()
def trained_adapter(model: torch.nn.Module) -> Adapter:
    """What a training has added to a model, as copies on the CPU: the scale alpha / r is in B."""
    from peft.tuners.lora import LoraLayer

    found = Adapter()
    for name, module in model.named_modules():
        if not isinstance(module, LoraLayer) or NAME not in module.lora_A:
            continue
        a, b = (part[NAME].get_parameter("weight") for part in (module.lora_A, module.lora_B))
        found.factors[name] = a.float().cpu().clone(), module.scaling[NAME] * b.float().cpu()
        found.transposed |= bool(getattr(module, "fan_in_fan_out", False))
    if hasattr(model, HEAD):
        found.whole = {
            f"{HEAD}.{name}": value.float().cpu().clone()
            for name, value in model.get_submodule(HEAD).named_parameters()
        }
    return found


def unchanging_adapter(model: "PreTrainedModel") -> Adapter:
    """An adapter of rank 1 that changes nothing, on every linear layer of a causal model but its output head."""
    from transformers.pytorch_utils import Conv1D

    found, head = Adapter(), model.get_output_embeddings()
    for name, module in model.named_modules():
        if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not head:
            sizes = module.weight.shape
            inputs, outputs = sizes if isinstance(module, Conv1D) else reversed(sizes)
            found.factors[name] = torch.zeros(1, inputs), torch.zeros(outputs, 1)
            found.transposed |= isinstance(module, Conv1D)
    return found


def attached_adapter(model: torch.nn.Module) -> Adapter:
    """What `attach` has added to a model, as copies on the CPU."""
    from transformers.pytorch_utils import Conv1D

    found = Adapter()
    for name, module in model.named_modules():
        if all(hasattr(module, each) for each in ADDED):
            found.transposed |= isinstance(module, Conv1D)
            a, b = (module.get_buffer(each).float().cpu() for each in ADDED)
            found.factors[name.removesuffix(".base_layer")] = a, b  # of a layer that peft has wrapped since
    return found


def _add(module: torch.nn.Module, given: tuple[Any, ...], output: Tensor) -> Tensor:
    a, b = (module.get_buffer(name) for name in ADDED)
    inner = torch.nn.functional.linear(given[0].to(a.dtype), a)
    return output + torch.nn.functional.linear(inner, b).to(output.dtype)


@torch.no_grad()
def put_whole(model: torch.nn.Module, adapter: Adapter, folder: Path) -> None:
    """Put the parameters that were trained whole into a model."""
    parameters = dict(model.named_parameters())
    for name, tensor in adapter.whole.items():
        if name not in parameters or parameters[name].shape != tensor.shape:
            raise _does_not_fit(name, folder)
        parameters[name].copy_(tensor)


@torch.no_grad()
def round_weights(model: Any, dtype: torch.dtype) -> None:
    """Give float32 weights another type, but those that transformers keeps in float32; buffers keep theirs."""
    kept = {*(model._keep_in_fp32_modules or ()), *(model._keep_in_fp32_modules_strict or ())}
    for name, parameter in model.named_parameters():
        if parameter.dtype == torch.float32 and not any(each in name for each in kept):
            parameter.data = parameter.data.to(dtype)
    model.config.dtype = dtype


def _weight_of(modules: Mapping[str, torch.nn.Module], layer: str, folder: Path) -> Tensor:
    weight = getattr(modules.get(layer), "weight", None)
    if not isinstance(weight, Tensor):
        raise _does_not_fit(layer, folder)
    return weight


def _does_not_fit(name: str, folder: Path) -> InputError:
    what = f"the base model has no {name} as the adapters have it"
    return InputError(what, where=str(folder / ADAPTERS), do="make the folder again: juicer run")
