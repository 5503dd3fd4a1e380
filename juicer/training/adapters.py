"""LoRA adapters: added to a policy before a round and merged into its weights after it, so saved models have none."""

from typing import TYPE_CHECKING, Any

from juicer.settings.training import LoraSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def lora_config(lora: LoraSettings, policy: "PreTrainedModel") -> Any:
    """The peft configuration of a recipe: adapters on every linear layer except the output head.

    State-space layers (Mamba) read the weight of their `out_proj` directly on a GPU, past an adapter, so it gets none.
    """
    from peft import LoraConfig

    has_states = any(name.endswith("A_log") for name, _ in policy.named_parameters())
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear",
        exclude_modules=["out_proj"] if has_states else None,
        task_type="CAUSAL_LM",
    )


def add_adapters(policy: "PreTrainedModel", lora: LoraSettings | None, seed: int) -> Any:
    """Add new adapters to `policy`; only they train. Returns the handle for `merge_adapters`, None without LoRA."""
    if lora is None:
        return None
    import torch
    from peft import get_peft_model

    torch.manual_seed(seed)
    return get_peft_model(policy, lora_config(lora, policy))


def merge_adapters(handle: Any) -> None:
    """Merge the adapters into the weights and remove them; does nothing without a handle."""
    if handle is not None:
        handle.merge_and_unload()
