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
from juicer.training.memory import Training

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Role = Literal["policy", "reward", "scorer"]


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
