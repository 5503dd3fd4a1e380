"""Formulas for the cost of a stage: parameters, floating-point operations, memory and time, from configurations.

Models are built on the meta device, so parameters are counted exactly without loading a weight. Everything else is the
usual estimate for dense transformers, with its formula in the docstring.
"""

import math
from typing import TYPE_CHECKING, Any, Literal

import torch

from juicer.models.forward import body_of
from juicer.models.shape import Shape, shape_of_model
from juicer.runtime.devices import Device
from juicer.runtime.errors import InputError
from juicer.sampling.rows import cache_bytes
from juicer.settings.training import LoraSettings
from juicer.training.memory import COPY, NF4, WEIGHT, Training

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Role = Literal["policy", "reward", "scorer"]
Base = Literal["fp32", "bf16", "nf4"]
"""Types of the weights under adapters."""


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
    return shape_of_model(name, model, trunk, head)


def _scalar_head(model: Any) -> torch.nn.Module:
    """The last linear layer of a sequence classifier: `score` of a decoder, or the end of an encoder's `classifier`."""
    head: torch.nn.Module = getattr(model, "score", None) or model.get_submodule("classifier")
    return [module for module in head.modules() if isinstance(module, torch.nn.Linear)][-1]


def training_of(
    shape: Shape,
    optimiser: Literal["adamw", "rmsprop"],
    *,
    lora: LoraSettings | None = None,
    frozen_blocks: int = 0,
    recomputed: bool = False,
    base: Base = "fp32",
) -> Training:
    """The number of trainable parameters, and how deep the backward pass goes.

    Args:
        base: of the weights under LoRA, which are frozen.

    Raises:
        InputError: more blocks are frozen than the model has.
    """
    if frozen_blocks > shape.layers:
        what = f"rft.reward.frozen_blocks = {frozen_blocks}, but {shape.name} has {shape.layers} blocks"
        raise InputError(what, do="lower it")
    trained, depth, frozen = shape.parameters, 1.0, float(WEIGHT)
    if lora is not None:
        trained = lora.r * shape.adapters
        frozen = {"fp32": frozen, "bf16": float(COPY), "nf4": _quantised(shape)}[base]
    elif frozen_blocks:
        trained -= frozen_blocks * shape.block + shape.embedding
        depth = 1 - frozen_blocks / shape.layers
    return Training(shape, trained, depth, recomputed, optimiser, frozen, lora is not None)


def _quantised(shape: Shape) -> float:
    """Mean bytes of a weight where those of the blocks are quantised; embedding and output head stay in bf16."""
    blocks = shape.layers * shape.block
    return (NF4 * blocks + COPY * (shape.parameters - blocks)) / shape.parameters


def decoding_seconds(
    shape: Shape,
    rows: int,
    batch: int,
    prompt: float,
    response: float,
    bytes_: int,
    device: Device,
    utilisation: float,
    *,
    longest: float | None = None,
    refilled: bool = False,
    host: float = 0.0,
) -> float:
    """Seconds that one device decodes. A step takes the longer of reading weights and cache once and computing.

    Args:
        longest: tokens of the longest response: a batch goes on until that has ended, with few rows at its end. None
            takes the mean, as if all were of one length.
        refilled: whether waiting prompts take the rows of ended responses, so that only the last batch has such an end.
        host: least seconds of a step, in which the host starts the kernels.
    """
    batches = math.ceil(rows / batch)
    live = rows / batches if batches else 0
    length = prompt + response
    compute = shape.forward(live, length) / device.operations
    weights = shape.parameters * bytes_ / device.bandwidth
    read = weights + cache_bytes(shape, live, prompt + response / 2, bytes_) / device.bandwidth
    prefill = shape.forward(live * prompt, length, live) / device.operations
    tail = max(0.0, (longest or response) - response) * (min(1, batches) if refilled else batches)
    full = batches * (prefill / utilisation + response * max(compute / utilisation, read / utilisation, host))
    return full + tail * max(weights / utilisation, host)
