"""Model FLOPs utilisation (MFU): the share of a GPU's peak that a training run uses."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from juicer.data.dialogues import Dialogue
from juicer.runtime.devices import device_by_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def operations_per_response_token(model: "PreTrainedModel", dialogues: Sequence[Dialogue]) -> float:
    """Operations of training per response token, by the usual estimate: without attention, recomputation and padding.

    Per parameter and token: 2 forward, 2 for the gradients of activations, 2 for the gradients of trainable weights.
    Parameters below the first trainable one, such as frozen lowest blocks, take part in the forward pass only.
    All tokens of a dialogue go through the trunk; only response tokens reach an output head.
    """
    head: torch.nn.Module | None = model.get_output_embeddings()
    heads = set(head.parameters()) if head is not None else set()
    tokens, responses = sum(map(len, dialogues)), sum(len(dialogue.response) for dialogue in dialogues)
    looked_up = set(model.get_input_embeddings().parameters()) - heads
    total, reached = 0.0, False
    for parameter in model.parameters():
        reached = reached or parameter.requires_grad
        if parameter not in looked_up:
            passes = 6.0 if parameter.requires_grad else 4.0 if reached else 2.0
            total += passes * parameter.numel() * (1.0 if parameter in heads else tokens / responses)
    return total


def peak_share(model: "PreTrainedModel", dialogues: Sequence[Dialogue]) -> float | None:
    """The share of its GPU's bf16 peak that training `model` uses at one response token per second.

    None on a CPU or a GPU whose peak is unknown.
    """
    if model.device.type != "cuda":
        return None
    device = device_by_name(torch.cuda.get_device_name(model.device))
    return None if device is None else operations_per_response_token(model, dialogues) / device.operations
