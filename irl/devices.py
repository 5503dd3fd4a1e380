"""Accelerators by their data sheets, and what share of one's peak a training run uses (MFU)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from irl.log_probability import Dialogue

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

GIB = 2**30


@dataclass(frozen=True)
class Device:
    """One accelerator, by its data sheet."""

    memory: float
    """Bytes."""
    operations: float
    """Dense bf16 multiply-adds times two, per second, at the peak."""
    bandwidth: float
    """Bytes per second between memory and cores."""


DEVICES = {
    "A100-40GB": Device(40 * GIB, 312e12, 1.56e12),
    "A100-80GB": Device(80 * GIB, 312e12, 2.04e12),
    "H100": Device(80 * GIB, 989e12, 3.35e12),
    "H200": Device(141 * GIB, 989e12, 4.8e12),
    "L40S": Device(48 * GIB, 362e12, 0.86e12),
    "RTX4090": Device(24 * GIB, 165e12, 1.01e12),
}


def device_called(name: str) -> Device | None:
    """The device of DEVICES that CUDA calls `name`, for example "NVIDIA A100-SXM4-80GB"; None if it is none."""
    words = name.replace(" ", "")
    for known, device in DEVICES.items():
        if all(part in words for part in known.split("-")):
            return device
    return None


def operations_per_response_token(model: "PreTrainedModel", dialogues: Sequence[Dialogue]) -> float:
    """Operations of training per response token, by the usual estimate: without attention, recomputation and padding.

    Per parameter and token 2 forward, 2 for the gradients of activations and 2 for those of the weights that train.
    All tokens of a dialogue go through the trunk; only response tokens reach an output head.
    """
    head: torch.nn.Module | None = model.get_output_embeddings()
    heads = set(head.parameters()) if head is not None else set()
    tokens, responses = sum(map(len, dialogues)), sum(len(dialogue.response) for dialogue in dialogues)
    looked_up = set(model.get_input_embeddings().parameters()) - heads
    total = 0.0
    for parameter in model.parameters():
        if parameter not in looked_up:
            passes = 6.0 if parameter.requires_grad else 4.0
            total += passes * parameter.numel() * (1.0 if parameter in heads else tokens / responses)
    return total


def peak_share(model: "PreTrainedModel", dialogues: Sequence[Dialogue]) -> float | None:
    """The share of its GPU's bf16 peak that training `model` uses at one response token per second.

    None where the peak is not known.
    """
    import torch

    if model.device.type != "cuda":
        return None
    device = device_called(torch.cuda.get_device_name(model.device))
    return None if device is None else operations_per_response_token(model, dialogues) / device.operations
