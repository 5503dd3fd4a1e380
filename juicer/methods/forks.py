"""Two responses to one prompt in one row: the prompt is computed once, and neither response attends to the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from juicer.models.forward import features
from juicer.models.log_probability import token_log_probabilities

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FORKABLE = ("gpt_neox", "llama")
"""Model types that apply given positions and masks unchanged; others may add a window or keep a recurrent state."""


@dataclass(frozen=True)
class Fork:
    """A prompt and two responses to it, as tokens."""

    prompt: list[int]
    one: list[int]
    other: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.one) + len(self.other)


@dataclass(frozen=True)
class ForkBatch:
    """Forks padded on the right, each [prompt, one, other].

    Attributes:
        tokens: (batch, length) int64.
        positions: (batch, length) int64; in both responses they continue from the prompt's.
        mask: (batch, 1, length, length) bool, true where the row's token may attend to the column's.
        sources: (predictions,) int64, the flattened batch's indices of hidden states that predict a response token.
        targets: (predictions,) int64, that token.
        responses: (predictions,) int64, the response that the token belongs to: 2 * row or 2 * row + 1.
    """

    tokens: Tensor
    positions: Tensor
    mask: Tensor
    sources: Tensor
    targets: Tensor
    responses: Tensor

    @staticmethod
    def of(forks: Sequence[Fork], padding: int, device: torch.device) -> "ForkBatch":
        """Pad `forks` to the longest of them; `padding` is any token id, because no response attends to it."""
        length = max(map(len, forks))
        tokens = torch.full((len(forks), length), padding, dtype=torch.int64)
        positions = torch.zeros((len(forks), length), dtype=torch.int64)
        hidden = torch.zeros((len(forks), length, length), dtype=torch.bool)
        sources: list[int] = []
        targets: list[int] = []
        responses: list[int] = []
        for row, fork in enumerate(forks):
            begin, middle, end = len(fork.prompt), len(fork.prompt) + len(fork.one), len(fork)
            tokens[row, :end] = torch.tensor(fork.prompt + fork.one + fork.other)
            positions[row, :middle] = torch.arange(middle)
            positions[row, middle:end] = torch.arange(begin, begin + len(fork.other))
            hidden[row, middle:, begin:middle] = True
            first = row * length
            for number, (response, start) in enumerate(((fork.one, begin), (fork.other, middle))):
                if response:
                    # The prompt's last token predicts the first token of both responses.
                    sources += [first + begin - 1, *range(first + start, first + start + len(response) - 1)]
                    targets += response
                    responses += [2 * row + number] * len(response)
        mask = torch.ones(length, length, dtype=torch.bool).tril() & ~hidden
        tensors = (tokens, positions, mask[:, None], *map(torch.tensor, (sources, targets, responses)))
        return ForkBatch(*(each.to(device) for each in tensors))


def forks_are_faster(policy: "PreTrainedModel", forks: Sequence[Fork]) -> bool:
    """Whether forks are faster than two rows per pair: measured on CPUs, not on GPUs (docs/performance.md).

    They save the prompt's work in the blocks once. They cost more in attention, which computes all pairs of tokens
    under a custom mask, but only half of them under a causal one. Flash attention does not support custom masks.
    """
    config = policy.config
    if policy.device.type != "cpu" or config.model_type not in FORKABLE or config._attn_implementation != "sdpa":
        return False
    saved = sum(3 * config.hidden_size * len(fork.prompt) for fork in forks)
    added = sum(
        len(fork) ** 2 - sum((len(fork.prompt) + len(each)) ** 2 for each in (fork.one, fork.other)) / 2
        for fork in forks
    )
    return added < saved


def fork_log_probabilities(policy: "PreTrainedModel", batch: ForkBatch) -> Tensor:
    """log pi(y|x) of both responses of each fork, as `response_log_probabilities` computes it.

    Returns:
        (batch, 2) float32, differentiable.
    """
    given = features(policy, batch.tokens, batch.mask, position_ids=batch.positions, use_cache=False)
    tokens = token_log_probabilities(policy, given.flatten(0, 1)[batch.sources], batch.targets)
    sums = torch.zeros(2 * len(batch.tokens), device=tokens.device).index_add(0, batch.responses, tokens)
    return sums.view(-1, 2)
