"""LoRA adapters of a round: added to a model before it trains, taken out afterwards, and kept or merged.

The base model is only read. In float32 the adapters are merged into it after the training, as are those of earlier
rounds when it is loaded. In fewer bits a merged difference would be lost to rounding, so they stay beside the weights.
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from juicer.data.template import Template
from juicer.models.adapters import HEAD, Adapter, trained_adapter
from juicer.models.loading import Frozen, KeptAdapters, device_of, dtype_of, save_model, save_policy, write_whole
from juicer.settings.compute import ComputeSettings
from juicer.settings.training import LoraSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TRAINED = "_juicer_adapter"


def frozen_weights(lora: LoraSettings | None, compute: ComputeSettings) -> Frozen:
    """The type of the base model's weights: `auto` is bf16 on a GPU that computes in it, unless ZeRO shards them."""
    if lora is None:
        return "fp32"
    if lora.base != "auto":
        return lora.base
    on_gpu = device_of(compute).type == "cuda" and dtype_of(compute) == torch.bfloat16
    return "bf16" if on_gpu and not compute.zero_stage else "fp32"


def lora_config(lora: LoraSettings, policy: "PreTrainedModel") -> Any:
    """The peft configuration of a recipe: adapters on every linear layer except the output head.

    State-space layers (Mamba) read the weight of their `out_proj` directly on a GPU, past an adapter, so it gets none.
    """
    from peft import LoraConfig

    has_states = any(name.endswith("A_log") for name, _ in policy.named_parameters())
    is_reward = hasattr(policy, HEAD)
    excluded = [*(["out_proj"] if has_states else []), *([HEAD] if is_reward else [])]
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear",
        exclude_modules=excluded or None,
        task_type=None if is_reward else "CAUSAL_LM",
    )


def add_adapters(policy: "PreTrainedModel", lora: LoraSettings | None, seed: int) -> Any:
    """Add new adapters to `policy`; only they train, and the scalar head of a reward.

    Returns:
        The handle for `merge_adapters`, None without LoRA.
    """
    if lora is None:
        return None
    from peft import get_peft_model

    torch.manual_seed(seed)
    handle = get_peft_model(policy, lora_config(lora, policy))
    if hasattr(policy, HEAD):
        train_head(policy)
    return handle


def train_head(reward: "PreTrainedModel") -> None:
    """Have the scalar head of a reward train whole, in float32."""
    head = reward.get_submodule(HEAD).float().requires_grad_(True)
    # The trunk may compute in bf16 without autocast.
    head.register_forward_pre_hook(lambda module, given: (given[0].to(module.weight.dtype),))


def keep_masters(model: Any) -> None:
    """Keep trained parameters in float32; TRL rounds adapters of a quantised model to bf16. Before the optimiser."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def merge_adapters(handle: Any) -> None:
    """Take the trained adapters out of a model, for `kept_adapters`, and merge them if its weights are float32.

    Does nothing without a handle.
    """
    if handle is None:
        return
    model = handle.get_base_model()
    trained = trained_adapter(model)
    if _merges(model):
        handle.merge_and_unload()
    setattr(model, _TRAINED, trained)


def save_trained(
    model: "PreTrainedModel",
    template: Template,
    folder: Path,
    training: dict[str, Any],
    lora: LoraSettings | None,
    start: Path,
) -> None:
    """Save a policy or a reward: as adapters or whole, as `lora` says; whole without LoRA.

    Args:
        start: the folder that the model was loaded from.
    """
    save = save_model if hasattr(model, HEAD) else save_policy
    trained: Adapter | None = getattr(model, _TRAINED, None)
    if lora is None or (lora.save == "merged" and _merges(model)):
        save(model, template, folder, training)
        return
    kept = KeptAdapters(start, trained)
    if lora.save == "adapters":
        save(model, template, folder, training, kept)
        return
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.") as scratch:
        save(model, template, Path(scratch) / "adapters", training, kept)
        write_whole(Path(scratch) / "adapters", folder)


def _merges(model: "PreTrainedModel") -> bool:
    """Whether adapters are merged into the weights, because these are float32."""
    return all(each.dtype == torch.float32 for each in model.parameters())
