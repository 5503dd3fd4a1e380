"""A model's sizes, and what follows from them: operations and bytes of its passes."""

from dataclasses import dataclass
from typing import Any

import torch

from juicer.models.forward import blocks_of
from juicer.runtime.errors import InputError

UNLIMITED = 2**31
"""Positions of a model that has none."""
ADAPTER = "lora_"
"""Part of the names of an adapter's modules and parameters."""


@dataclass(frozen=True)
class Shape:
    """A model's sizes, counted."""

    name: str
    parameters: int
    embedding: int
    """Parameters of the input embedding, which are looked up rather than multiplied."""
    head: int
    """Parameters of the output head, which is applied to some positions only."""
    layers: int
    width: int
    """Width of the hidden state."""
    inner: int
    """Size of the feed-forward network: its width times its number of matrices less one."""
    keys: int
    """Width of a layer's keys, and of its values."""
    vocabulary: int
    positions: int
    """Longest sequence, in tokens."""
    adapters: int
    """Parameters of adapters of rank 1 on every linear layer except the output head."""
    block: int
    """Parameters of one transformer block."""
    norms: int = 2
    """Normalisations of hidden states in a block."""
    head_norms: int = 0
    """Normalisations of queries or keys in a block."""
    is_rms: bool = True
    """Whether these are RMS norms, which transformers computes in float32, and of which it keeps two results."""
    is_fused: bool = False
    """Whether one matrix makes queries, keys and values, which then stay in memory together."""

    def forward(self, tokens: float, length: float, heads: float | None = None) -> float:
        """Operations of a forward pass: 2 per parameter and token, and 2 * layers * width * length for attention.

        Args:
            tokens: number of positions, over all sequences.
            length: length of a sequence in tokens; a causal position attends to half of it on average, twice (keys and
                values).
            heads: positions that the output head is applied to; None means all.
        """
        trunk = self.parameters - self.embedding - self.head
        attention = 2.0 * self.layers * self.width * length
        return tokens * (2.0 * trunk + attention) + 2.0 * self.head * (tokens if heads is None else heads)

    def working(self, tokens: float, bytes_: int) -> float:
        """Bytes of one layer's intermediate results: 8 hidden states and twice the feed-forward network's."""
        return tokens * bytes_ * (8.0 * self.width + 2.0 * self.inner)

    def block_bytes(self, bytes_: int, residual: int) -> float:
        """Bytes per token that a block's training pass keeps for its backward pass on a GPU, under flash attention.

        Counted on the saved tensors of transformers' Llama, Mistral, Qwen3 and GPT-NeoX. Of attention: queries, keys,
        values and results; of the feed-forward network: what goes into and comes out of its activation function.

        Args:
            bytes_: of an activation.
            residual: bytes of a hidden state between blocks: 4 where weights are float32, also under autocast.
        """
        norm = residual + bytes_ + (4 if self.is_rms else 0)
        heads = self.head_norms / 2 * (self.width + self.keys) * (2 * bytes_ + 4)
        fused = bytes_ * (2 * self.width + self.keys) if self.is_fused else 0
        attention = 2 * bytes_ * (self.width + self.keys) + fused
        return self.norms * norm * self.width + heads + attention + 2.0 * bytes_ * self.inner

    def kept_bytes(self, tokens: float, bytes_: int, residual: int, *, depth: float, recomputed: bool) -> float:
        """Bytes of activations on a GPU: those of all blocks that are trained, or of one with recomputation.

        With recomputation every block's input is kept too. The gradients of one block are counted as half of it.

        Args:
            depth: share of the blocks that the backward pass goes through.
        """
        block, layers = self.block_bytes(bytes_, residual), self.layers * depth
        states = layers * residual * self.width if recomputed else 0.0
        return tokens * (states + (1.5 if recomputed else layers + 0.5) * block)

    def activations(self, tokens: float, bytes_: int, *, recomputed: bool) -> float:
        """Bytes kept for the backward pass; with recomputation, a hidden state per layer and one layer's results."""
        layer = self.working(tokens, bytes_)
        return self.layers * tokens * bytes_ * self.width + layer if recomputed else self.layers * layer


def shape_of_model(name: str, model: Any, trunk: Any, head: torch.nn.Module) -> Shape:
    """Count a model, which may be on the meta device; adapters that it has already are left out.

    Args:
        name: the model's name in a plan or an error.
        trunk: the model without its output head.
        head: the linear layer at its end.

    Raises:
        InputError: the transformer blocks of the architecture are not found.
        AttributeError: its configuration has other names for its sizes than a transformer's.
    """
    from transformers.pytorch_utils import Conv1D

    blocks = blocks_of(trunk)
    if blocks is None:
        raise InputError(f"cannot find the transformer blocks of a {type(model).__name__}", where=name)
    # GPT-2's Conv1D is a linear layer with a transposed weight, which makes no difference to the sizes used here.
    linear = [
        _sizes(module)
        for place, module in trunk.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and ADAPTER not in place
    ]
    inner = max(max(sizes) for sizes in linear)
    matrices = sum(inner in sizes for sizes in linear) // len(blocks)
    text = trunk.config.get_text_config(decoder=True)
    shared = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    embedding = trunk.get_input_embeddings().weight
    norms: list[Any] = [module for module in blocks[0].modules() if type(module).__name__.endswith("Norm")]
    whole = [each for each in norms if getattr(each, "weight", None) is None or each.weight.numel() == text.hidden_size]
    keys = text.hidden_size // text.num_attention_heads * shared
    return Shape(
        name=name,
        parameters=count_parameters(model),
        embedding=0 if head.weight is embedding else embedding.numel(),
        head=int(torch.as_tensor(head.weight.shape).prod()),
        layers=len(blocks),
        width=text.hidden_size,
        inner=inner * (matrices - 1),
        keys=keys,
        vocabulary=text.vocab_size,
        positions=getattr(text, "max_position_embeddings", UNLIMITED),
        adapters=sum(sum(sizes) for sizes in linear),
        block=count_parameters(blocks[0]),
        norms=len(whole),
        head_norms=len(norms) - len(whole),
        is_rms=any("RMS" in type(each).__name__ for each in norms),
        is_fused=any(text.hidden_size + 2 * keys in sizes for sizes in linear),
    )


def count_parameters(module: torch.nn.Module) -> int:
    """Parameters without those of adapters; quantised ones as many as they stand for."""
    own = (parameter for name, parameter in module.named_parameters() if ADAPTER not in name)
    # bitsandbytes packs several 4-bit weights into an element, and keeps their shape beside it.
    return sum(getattr(getattr(each, "quant_state", None), "shape", each.shape).numel() for each in own)


def _sizes(module: Any) -> tuple[int, ...]:
    """The two sizes of a linear layer, also of one whose weight is quantised."""
    if isinstance(module, torch.nn.Linear):
        return module.out_features, module.in_features
    return tuple(module.weight.shape)
