"""Attention of one new token per row where heads share keys and values: they are read once, not copied for each head.

Under a mask, transformers' `sdpa` copies keys and values for every head that shares them, in every step and layer. Here
the heads that share them are passed to the same kernel as further queries.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "sdpa_shared_keys"


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """transformers' `sdpa` attention, with the same result up to rounding.

    Args:
        query: (rows, heads, positions, width).
        key: (rows, shared heads, all positions, width), as `value`.
        attention_mask: (rows or 1, 1, positions, all positions).

    Returns:
        (rows, positions, heads, width), and no weights.
    """
    rows, heads, positions, _ = query.shape
    special = any(each is not None for name, each in more.items() if name in ("position_bias", "cache", "softcap"))
    if positions > 1 or heads == key.shape[1] or dropout or special:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling=scaling, is_causal=is_causal, **more
        )
    shared = query.view(rows, key.shape[1], heads // key.shape[1], -1)
    result = scaled_dot_product_attention(shared, key, value, attn_mask=attention_mask, scale=scaling)
    return result.reshape(rows, 1, heads, -1), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


@contextmanager
def shared_keys(policy: "PreTrainedModel") -> Iterator[None]:
    """Within the block `attend` is the attention of a model whose attention is `sdpa` and whose heads share keys."""
    config = policy.config
    heads, shared = (getattr(config, name, None) for name in ("num_attention_heads", "num_key_value_heads"))
    before = config._attn_implementation
    if before != "sdpa" or shared is None or shared == heads:
        yield
        return
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
