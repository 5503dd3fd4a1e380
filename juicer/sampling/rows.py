"""How many responses are decoded at the same time, where the recipe leaves it to the device."""

from typing import TYPE_CHECKING

import torch

from juicer.models.forward import body_of
from juicer.models.shape import Shape, shape_of_model
from juicer.runtime.errors import InputError
from juicer.runtime.processes import SINGLE_PROCESS, Processes
from juicer.sampling.steppers import PREFILL_BATCH_SIZE, SPARE
from juicer.settings.training import ROWS, SamplingSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MOST_ROWS = 1024
"""More hardly raise the rate: a step of so many rows is limited by arithmetic, not by reading the weights."""
STEP = 64
"""Rows are a multiple of this, where they are more."""
MEMORY_SHARE = 0.85
"""Share of a GPU's free memory that decoding may take: blocks are fragmented."""
LOGIT = 32
"""Bytes of a step per row and token of the vocabulary: logits, log-probabilities and weights in float32, their sum in
float64, and one more copy of that."""


def rows_for(
    policy: "PreTrainedModel", settings: SamplingSettings, longest: int, processes: Processes = SINGLE_PROCESS
) -> int:
    """The rows of `batch_size`, the same in all processes.

    Args:
        longest: tokens of the longest prompt and response together.
    """
    if settings.batch_size != "auto":
        return settings.batch_size
    if policy.device.type == "cpu":
        return ROWS
    shape, (free, _) = shape_of(policy), torch.cuda.mem_get_info(policy.device)
    if torch.are_deterministic_algorithms_enabled():
        return ROWS  # what happens to be free decides nothing
    unused = torch.cuda.memory_reserved(policy.device) - torch.cuda.memory_allocated(policy.device)
    own = ROWS if shape is None else fitting_rows(shape, longest, MEMORY_SHARE * (free + unused), policy.dtype.itemsize)
    return min(processes.gather(own))


def fitting_rows(shape: Shape, longest: float, memory: float, bytes_: int) -> int:
    """Rows whose keys, values and logits fit into so many bytes, which are free beside the weights; 1 to `MOST_ROWS`.

    Args:
        longest: tokens of the longest prompt and response together.
        bytes_: of a weight and an activation.
    """
    prefill = shape.working(PREFILL_BATCH_SIZE * longest, bytes_)
    # The rows that stay are copied a layer at a time when others leave.
    row = cache_bytes(shape, 1, longest + SPARE, bytes_) * (1 + 1 / shape.layers) + LOGIT * shape.vocabulary
    rows = max(1, min(MOST_ROWS, int((memory - prefill) / row)))
    return rows if rows < STEP else rows // STEP * STEP


def cache_bytes(shape: Shape, rows: float, length: float, bytes_: int) -> float:
    """Bytes of the cache of keys and values in decoding: two vectors per layer and position."""
    return 2.0 * shape.layers * shape.keys * rows * length * bytes_


def shape_of(policy: "PreTrainedModel") -> Shape | None:
    """The policy's sizes; None for an architecture that the count does not know."""
    try:
        return shape_of_model(type(policy).__name__, policy, body_of(policy), policy.get_output_embeddings())
    except (InputError, AttributeError):
        return None
