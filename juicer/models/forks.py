"""Responses to one prompt in one row: the prompt is computed once, and no response attends to another."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from juicer.data.dialogues import Dialogue
from juicer.models.forward import features
from juicer.models.log_probability import in_batches, score_dialogues, token_log_probabilities
from juicer.runtime.context import LOCAL, WorkContext

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FORKABLE = ("gpt_neox", "llama")
"""Model types that apply given positions and masks unchanged; others may add a window or keep a recurrent state."""


class Fork:
    """A prompt and responses to it, as tokens."""

    def __init__(self, prompt: list[int], *responses: list[int]) -> None:
        self.prompt, self.responses = prompt, responses

    def __len__(self) -> int:
        return len(self.prompt) + sum(map(len, self.responses))


@dataclass(frozen=True)
class ForkBatch:
    """Forks padded on the right, each [prompt, first response, second response, ...].

    Responses are numbered through the batch, those of the first fork first.

    Attributes:
        tokens: (batch, length) int64.
        positions: (batch, length) int64; in every response they continue from the prompt's.
        mask: (batch, 1, length, length) bool, true where the row's token may attend to the column's.
        sources: (predictions,) int64, the flattened batch's indices of hidden states that predict a response token.
        targets: (predictions,) int64, that token.
        responses: (predictions,) int64, the number of the response that the token belongs to.
        ends: (all responses,) int64, the flattened batch's index of each response's last token; the prompt's if empty.
    """

    tokens: Tensor
    positions: Tensor
    mask: Tensor
    sources: Tensor
    targets: Tensor
    responses: Tensor
    ends: Tensor

    @staticmethod
    def of(forks: Sequence[Fork], padding: int, device: torch.device) -> "ForkBatch":
        """Pad `forks` to the longest of them; `padding` is any token id, because no response attends to it."""
        length = max(map(len, forks))
        tokens = torch.full((len(forks), length), padding, dtype=torch.int64)
        positions = torch.zeros((len(forks), length), dtype=torch.int64)
        mask = torch.ones(len(forks), length, length, dtype=torch.bool).tril()
        sources: list[int] = []
        targets: list[int] = []
        numbers: list[int] = []
        ends: list[int] = []
        for row, fork in enumerate(forks):
            begin, first = len(fork.prompt), row * length
            tokens[row, : len(fork)] = torch.tensor([*fork.prompt, *chain(*fork.responses)])
            positions[row, :begin] = torch.arange(begin)
            start = begin
            for response in fork.responses:
                end = start + len(response)
                positions[row, start:end] = torch.arange(begin, begin + len(response))
                mask[row, end:, start:end] = False
                if response:
                    # The prompt's last token predicts the first token of every response.
                    sources += [first + begin - 1, *range(first + start, first + end - 1)]
                    targets += response
                    numbers += [len(ends)] * len(response)
                ends.append(first + (end if response else begin) - 1)
                start = end
        tensors = (tokens, positions, mask[:, None], *map(torch.tensor, (sources, targets, numbers, ends)))
        return ForkBatch(*(each.to(device) for each in tensors))


def forks_are_faster(model: "PreTrainedModel", forks: Sequence[Fork]) -> bool:
    """Whether forks are faster than a row per response: measured on CPUs, not on GPUs (docs/performance.md).

    They save the prompt's work in the blocks, for all responses but one. They cost more in attention, which computes
    all pairs of tokens under a custom mask, but only half of them under a causal one. Flash attention does not support
    custom masks.
    """
    config = model.config
    if model.device.type != "cpu" or config.model_type not in FORKABLE or config._attn_implementation != "sdpa":
        return False
    saved = sum(3 * config.hidden_size * len(fork.prompt) * (len(fork.responses) - 1) for fork in forks)
    added = sum(
        len(fork) ** 2 - sum((len(fork.prompt) + len(each)) ** 2 for each in fork.responses) / 2 for fork in forks
    )
    return added < saved


def fork_features(model: "PreTrainedModel", batch: ForkBatch) -> Tensor:
    """The model's features at each position of the flattened batch: (batch * length, width), differentiable."""
    given = features(model, batch.tokens, batch.mask, position_ids=batch.positions, use_cache=False)
    return given.flatten(0, 1)


def fork_log_probabilities(policy: "PreTrainedModel", batch: ForkBatch) -> Tensor:
    """log pi(y|x) of all responses of each fork, as `response_log_probabilities` computes it; every fork has as many.

    Returns:
        (batch, responses of each) float32, differentiable.
    """
    return _log_probabilities(policy, batch).view(len(batch.tokens), -1)


def _log_probabilities(policy: "PreTrainedModel", batch: ForkBatch) -> Tensor:
    """log pi(y|x) of all responses of a batch: (all responses,)."""
    tokens = token_log_probabilities(policy, fork_features(policy, batch)[batch.sources], batch.targets)
    return torch.zeros(len(batch.ends), device=tokens.device).index_add(0, batch.responses, tokens)


def score_forks(
    policy: "PreTrainedModel", forks: Sequence[Fork], padding: int, batch_size: int = 32, context: WorkContext = LOCAL
) -> list[list[float]]:
    """log pi(y|x) of the responses of many forks, which may have different numbers of them; no gradient.

    They share their prompt's work where that is faster (`forks_are_faster`), with the same values up to rounding.
    """
    if not forks_are_faster(policy, forks):
        dialogues = [Dialogue(fork.prompt, response) for fork in forks for response in fork.responses]
        values = iter(score_dialogues(policy, dialogues, padding, context=context).tolist())
        return [list(islice(values, len(fork.responses))) for fork in forks]

    def one(rows: list[int]) -> list[list[float]]:
        batch = ForkBatch.of([forks[row] for row in rows], padding, policy.device)
        values = iter(_log_probabilities(policy, batch).tolist())
        return [list(islice(values, len(forks[row].responses))) for row in rows]

    return in_batches(one, forks, batch_size, context)
