"""Formulas for the cost of a stage: parameters, floating-point operations, memory and time, from configurations.

Models are built on the meta device, so parameters are counted exactly without loading a weight. Everything else is the
usual estimate for dense transformers, with its formula in the docstring.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from juicer.models.forward import blocks_of, body_of
from juicer.models.log_probability import LOGITS_AT_ONCE
from juicer.runtime.devices import GIB, Device
from juicer.runtime.errors import InputError
from juicer.settings.training import LoraSettings

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Role = Literal["policy", "reward", "scorer"]
WEIGHT = 4
"""Bytes of a weight that is trained or saved."""
OVERHEAD = 1 * GIB
"""Bytes per device of CUDA's context, the libraries' workspaces and fragmentation."""


@dataclass(frozen=True)
class Shape:
    """A model's sizes, counted on the meta device."""

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

    def activations(self, tokens: float, bytes_: int, *, recomputed: bool) -> float:
        """Bytes kept for the backward pass; with recomputation, a hidden state per layer and one layer's results."""
        layer = self.working(tokens, bytes_)
        return self.layers * tokens * bytes_ * self.width + layer if recomputed else self.layers * layer


@dataclass(frozen=True)
class Training:
    """How a model is trained."""

    shape: Shape
    trained: int
    """Trainable parameters."""
    depth: float
    """Share of the blocks that the backward pass goes through, from 0 to 1."""
    recomputed: bool
    """Whether activations are recomputed in the backward pass."""
    optimiser: Literal["adamw", "rmsprop"]

    def operations(self, forward: float) -> float:
        """Operations of forward and backward passes, of which `forward` are the forward pass's.

        The gradients of activations cost as much as a forward pass, those of weights too, and so does recomputation.
        """
        weights = min(1.0, self.trained / self.shape.parameters / max(self.depth, 1e-9)) * self.depth
        return forward * (1 + self.depth + weights + (self.depth if self.recomputed else 0))

    def memory(self, devices: int, zero_stage: int) -> float:
        """Bytes per device of weights, gradients and optimiser state, all in float32.

        ZeRO shards the optimiser state from stage 1, gradients from stage 2 and weights from stage 3 (arXiv
        1910.02054, section 3).
        """
        moments = 2 if self.optimiser == "adamw" else 1
        weights, gradients = WEIGHT * self.shape.parameters, WEIGHT * self.trained
        return (
            weights / (devices if zero_stage == 3 else 1)
            + gradients / (devices if zero_stage >= 2 else 1)
            + moments * gradients / (devices if zero_stage else 1)
        )


UNLIMITED = 2**31
"""Positions of a model that has none."""


def shape_of(name: str, config: "PretrainedConfig", role: Role) -> Shape:
    """`_shape_of`, with an error in one line for a model whose sizes have other names than a transformer's."""
    try:
        return _shape_of(name, config, role)
    except AttributeError as error:
        what = f"a plan cannot count the operations of a {config.model_type}: {error}"
        raise InputError(what, where=name, do="run the recipe without a plan") from error


def _shape_of(name: str, config: "PretrainedConfig", role: Role) -> Shape:
    """Build a model on the meta device and count its parameters.

    Args:
        name: the model's name in the plan.
        config: the configuration of the model without its head.
        role: decides the output head: over the vocabulary for a policy, a scalar without bias for a reward, beaver's
            scalar with bias for a Llama scorer.

    Raises:
        InputError: the transformer blocks of the architecture are not found.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig
    from transformers.pytorch_utils import Conv1D

    from juicer.scorers.beaver import BeaverModel

    model: Any
    with torch.device("meta"):
        if role == "scorer" and isinstance(config, LlamaConfig):
            model = BeaverModel.create(config)
            trunk, head = model.trunk, model.score_head
        elif role == "policy":
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
            trunk, head = body_of(model), model.get_output_embeddings()
        else:
            config.num_labels = 1
            model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
            trunk, head = model.base_model, _scalar_head(model)
    blocks = blocks_of(trunk)
    if blocks is None:
        raise InputError(f"cannot find the transformer blocks of a {type(model).__name__}", where=name)
    # GPT-2's Conv1D is a linear layer with a transposed weight, which makes no difference to the sizes used here.
    linear = [module.weight.shape for module in trunk.modules() if isinstance(module, (torch.nn.Linear, Conv1D))]
    inner = max(max(sizes) for sizes in linear)
    matrices = sum(inner in sizes for sizes in linear) // len(blocks)
    text = config.get_text_config(decoder=True)
    shared = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    tied = head.weight is trunk.get_input_embeddings().weight
    return Shape(
        name=name,
        parameters=_count(model),
        embedding=0 if tied else trunk.get_input_embeddings().weight.numel(),
        head=head.weight.numel(),
        layers=len(blocks),
        width=text.hidden_size,
        inner=inner * (matrices - 1),
        keys=text.hidden_size // text.num_attention_heads * shared,
        vocabulary=text.vocab_size,
        positions=getattr(text, "max_position_embeddings", UNLIMITED),
        adapters=sum(sum(sizes) for sizes in linear),
        block=_count(blocks[0]),
    )


def _scalar_head(model: Any) -> torch.nn.Module:
    """The last linear layer of a sequence classifier: `score` of a decoder, or the end of an encoder's `classifier`."""
    head: torch.nn.Module = getattr(model, "score", None) or model.get_submodule("classifier")
    return [module for module in head.modules() if isinstance(module, torch.nn.Linear)][-1]


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def training_of(
    shape: Shape,
    optimiser: Literal["adamw", "rmsprop"],
    *,
    lora: LoraSettings | None = None,
    frozen_blocks: int = 0,
    recomputed: bool = False,
) -> Training:
    """The number of trainable parameters, and how deep the backward pass goes.

    Raises:
        InputError: more blocks are frozen than the model has.
    """
    if frozen_blocks > shape.layers:
        what = f"rft.reward.frozen_blocks = {frozen_blocks}, but {shape.name} has {shape.layers} blocks"
        raise InputError(what, do="lower it")
    trained, depth = shape.parameters, 1.0
    if lora is not None:
        trained = lora.r * shape.adapters
    elif frozen_blocks:
        trained -= frozen_blocks * shape.block + shape.embedding
        depth = 1 - frozen_blocks / shape.layers
    return Training(shape, trained, depth, recomputed, optimiser)


def logit_bytes(shape: Shape, positions: float, groups: int | None = None) -> float:
    """Bytes of the logits of a number of positions: in bf16, an fp32 copy, and its softmax or gradient.

    Args:
        groups: forward passes whose logits are held at the same time, each in chunks of `LOGITS_AT_ONCE`; None means
            that logits are not computed in chunks.
    """
    logits = positions * shape.vocabulary
    return 10.0 * (logits if groups is None else min(logits, groups * LOGITS_AT_ONCE))


def cache_bytes(shape: Shape, rows: float, length: float, bytes_: int) -> float:
    """Bytes of the cache of keys and values in decoding: two vectors per layer and position."""
    return 2.0 * shape.layers * shape.keys * rows * length * bytes_


def decoding_seconds(
    shape: Shape, rows: int, batch: int, prompt: float, response: float, bytes_: int, device: Device, utilisation: float
) -> float:
    """Seconds that one device decodes. A step takes the longer of reading weights and cache once and computing."""
    batches = math.ceil(rows / batch)
    live = rows / batches if batches else 0
    length = prompt + response
    compute = shape.forward(live, length) / device.operations
    read = (shape.parameters * bytes_ + cache_bytes(shape, live, prompt + response / 2, bytes_)) / device.bandwidth
    prefill = shape.forward(live * prompt, length, live) / device.operations
    return batches * (prefill + response * max(compute, read)) / utilisation
