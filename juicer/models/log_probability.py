"""log pi(y|x): the sum of log-probabilities over the response tokens, end-of-text included, prompt excluded."""

import math
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from juicer.data.dialogues import Dialogue
from juicer.models.forward import features, logits_of
from juicer.models.packing import PackedBatch, packed_features
from juicer.runtime.context import LOCAL, WorkContext
from juicer.runtime.processes import max_over_processes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

T = TypeVar("T")
LOGITS_AT_ONCE = 2**24
"""Logits in memory at a time: 64 MB in float32. More than that are recomputed in the backward pass."""


@dataclass(frozen=True)
class Batch:
    """Dialogues padded to one length.

    Attributes:
        tokens: (batch, length) int64.
        attention: (batch, length) int64, 1 on real tokens.
        response: (batch, length) bool, true on response tokens.
        padded_right: padding, if any, follows the real tokens.
    """

    tokens: Tensor
    attention: Tensor
    response: Tensor
    padded_right: bool = False

    @property
    def mask(self) -> Tensor | None:
        """The attention mask that a causal model needs: none if padding follows the tokens that would attend to it.

        Without a mask attention computes half as much and can use its fastest kernel.
        """
        return None if self.padded_right else self.attention

    @staticmethod
    def of(dialogues: Sequence[Dialogue], padding: int, device: torch.device) -> "Batch":
        """Pad `dialogues` on the right to the longest; `padding` is any token id, no real token attends to it."""
        length = max(len(dialogue) for dialogue in dialogues)
        tokens = torch.full((len(dialogues), length), padding, dtype=torch.int64)
        attention = torch.zeros((len(dialogues), length), dtype=torch.int64)
        response = torch.zeros((len(dialogues), length), dtype=torch.bool)
        for row, dialogue in enumerate(dialogues):
            tokens[row, : len(dialogue)] = torch.tensor(dialogue.prompt + dialogue.response)
            attention[row, : len(dialogue)] = 1
            response[row, len(dialogue.prompt) : len(dialogue)] = True
        return Batch(tokens.to(device), attention.to(device), response.to(device), padded_right=True)


def dialogues_of(tokens: Tensor, attention: Tensor, response: Tensor) -> list[Dialogue]:
    """The dialogues of a batch that is padded on either side.

    Args:
        tokens: (batch, length) int64.
        attention: (batch, length) true or 1 on real tokens.
        response: (batch, length) true or 1 on response tokens; on padding it is ignored.
    """
    real, answered = attention.bool(), response.bool()
    return [
        Dialogue(row[here & ~answer].tolist(), row[here & answer].tolist())
        for row, here, answer in zip(tokens, real, answered, strict=True)
    ]


def response_log_probabilities(policy: "PreTrainedModel", batch: Batch | PackedBatch) -> Tensor:
    """log pi(y|x) = sum_t log pi(y_t | x, y_<t).

    Only positions that predict a response token reach the output head, so no logits are computed for prompts.

    Returns:
        (batch,) float32, differentiable.
    """
    return response_sums(policy, _log_likelihoods, batch)


def response_sums(
    policy: "PreTrainedModel", function: Callable[[Tensor, Tensor], Tensor], batch: Batch | PackedBatch
) -> Tensor:
    """A function of logits and tokens, see `apply_to_logits`, summed over the response tokens of each dialogue.

    Returns:
        (batch, ...) float32, differentiable.
    """
    if isinstance(batch, PackedBatch):
        given = packed_features(policy, batch)[batch.sources]
        tokens = apply_to_logits(policy, function, given, batch.targets)
        return torch.zeros(len(batch.ends), *tokens.shape[1:], device=tokens.device).index_add(0, batch.rows, tokens)
    given = features(policy, batch.tokens, batch.mask, use_cache=False)
    predicted = batch.response[:, 1:]
    tokens = apply_to_logits(policy, function, given[:, :-1][predicted], batch.tokens[:, 1:][predicted])
    rows = predicted.nonzero()[:, 0]
    return torch.zeros(len(batch.tokens), *tokens.shape[1:], device=tokens.device).index_add(0, rows, tokens)


def token_log_probabilities(policy: "PreTrainedModel", given: Tensor, targets: Tensor) -> Tensor:
    """log pi of tokens, each given the tokens before it.

    Args:
        given: (positions, width or vocabulary) the model's features there.
        targets: (positions,) the predicted tokens.

    Returns:
        (positions,) float32, differentiable.
    """
    return apply_to_logits(policy, _log_likelihoods, given, targets)


def _log_likelihoods(logits: Tensor, targets: Tensor) -> Tensor:
    return -cross_entropy(logits, targets, reduction="none")


def apply_to_logits(
    policy: "PreTrainedModel", function: Callable[[Tensor, Tensor], Tensor], given: Tensor, targets: Tensor
) -> Tensor:
    """A function of the logits at each position, in memory that does not grow with vocabulary times positions.

    More than `LOGITS_AT_ONCE` logits are computed in chunks, and recomputed in the backward pass.

    Args:
        function: maps logits (n, vocabulary) float32 and targets (n,) to (n, ...).
        given: (positions, width or vocabulary) the model's features there.
        targets: (positions,) tokens.

    Returns:
        (positions, ...), differentiable.
    """

    def compute(given: Tensor, targets: Tensor) -> Tensor:
        return function(logits_of(policy, given), targets)

    chunks = math.ceil(len(targets) * policy.config.get_text_config().vocab_size / LOGITS_AT_ONCE)
    if hasattr(getattr(policy.get_output_embeddings(), "weight", None), "ds_id"):
        # DeepSpeed gathers sharded weights in each call, so every process must make the same number of calls.
        chunks = max_over_processes(chunks, given.device)
    if chunks <= 1:
        return compute(given, targets)
    parts = zip(given.tensor_split(chunks), targets.tensor_split(chunks), strict=True)
    return torch.cat([checkpoint(compute, *part, use_reentrant=False, preserve_rng_state=False) for part in parts])


def compute_in_chunks(
    compute: Callable[[Any], Tensor],
    dialogues: Sequence[Any],
    padding: int,
    device: torch.device,
    chunk: int = 16,
    batch_of: Callable[[list[Any], int, torch.device], Any] = Batch.of,
    *,
    packed: bool = False,
) -> Tensor:
    """`compute` over dialogues in chunks of similar length, in the order given: less padding, the same gradient.

    Args:
        compute: maps a batch to values (batch, ...).
        batch_of: makes a batch of dialogues, given padding token and device.
        packed: whether all dialogues are one `PackedBatch` instead; they are the pass that the caller has planned.

    Returns:
        (dialogues, ...), differentiable.
    """
    if packed:
        return compute(PackedBatch.of(dialogues, padding, device))
    chunks = list(length_sorted_batches(dialogues, chunk))
    values = torch.cat([compute(batch_of([dialogues[row] for row in rows], padding, device)) for rows in chunks])
    order = torch.tensor([row for rows in chunks for row in rows], device=device)
    return torch.empty_like(values).index_copy(0, order, values)


def score_dialogues(
    policy: "PreTrainedModel",
    dialogues: Sequence[Dialogue],
    padding: int,
    batch_size: int = 64,
    context: WorkContext = LOCAL,
    *,
    tokens: int | None = None,
) -> Tensor:
    """log pi(y|x) of many dialogues, batched by length, in the order given.

    Args:
        tokens: of a packed row, where the policy computes packed rows (`packed_passes`); None for padded rows.

    Returns:
        (dialogues,) float32 on the CPU.
    """
    compute = partial(response_log_probabilities, policy)
    if tokens is None:
        return compute_in_batches(compute, dialogues, padding, policy.device, batch_size, context)

    def one(rows: list[int]) -> list[float]:
        values: list[float] = compute(PackedBatch.of([dialogues[row] for row in rows], padding, policy.device)).tolist()
        return values

    return torch.tensor(in_given_batches(one, token_batches(dialogues, tokens), context))


def compute_in_batches(
    compute: Callable[[Batch], Tensor],
    dialogues: Sequence[Dialogue],
    padding: int,
    device: torch.device,
    batch_size: int,
    context: WorkContext = LOCAL,
) -> Tensor:
    """`compute` over dialogues in batches of similar length, distributed over the processes; no gradient.

    Args:
        compute: maps a batch to values (batch,).

    Returns:
        (dialogues,) float32 on the CPU, in the order given, on every process.
    """

    def one(rows: list[int]) -> list[float]:
        values: list[float] = compute(Batch.of([dialogues[row] for row in rows], padding, device)).tolist()
        return values

    return torch.tensor(in_batches(one, dialogues, batch_size, context))


@torch.no_grad()
def in_batches(
    compute: Callable[[list[int]], list[T]], rows: Sequence[Sized], batch_size: int, context: WorkContext = LOCAL
) -> list[T]:
    """`compute` over rows in batches of similar length, distributed over the processes; no gradient.

    Args:
        compute: maps the indices of a batch to a value each.
        context: its memo keeps the batches' values.

    Returns:
        A value per row, in the order given, on every process.
    """
    return in_given_batches(compute, list(length_sorted_batches(rows, batch_size)), context)


@torch.no_grad()
def in_given_batches(
    compute: Callable[[list[int]], list[T]], batches: Sequence[list[int]], context: WorkContext = LOCAL
) -> list[T]:
    """As `in_batches`, in batches that hold every row once."""
    values = context.processes.distribute(batches, lambda batch: context.memo(partial(compute, batch)))
    found = {
        row: value for batch, each in zip(batches, values, strict=True) for row, value in zip(batch, each, strict=True)
    }
    return [found[row] for row in range(len(found))]


def length_sorted_batches(dialogues: Sequence[Sized], batch_size: int) -> Iterator[list[int]]:
    """Row indices in batches of similar length, longest first, so that a batch too large for memory fails at once."""
    order = sorted(range(len(dialogues)), key=lambda row: (-len(dialogues[row]), row))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def token_batches(dialogues: Sequence[Sized], tokens: int) -> list[list[int]]:
    """Row indices in batches of similar length and at most so many tokens each, longest first."""
    batches: list[list[int]] = []
    room = 0
    for row in sorted(range(len(dialogues)), key=lambda row: (-len(dialogues[row]), row)):
        if not batches or len(dialogues[row]) > room:
            batches.append([])
            room = tokens
        batches[-1].append(row)
        room -= len(dialogues[row])
    return batches
