"""How near a round comes to the limit of its arithmetic: the operations that it needs, and the matrix products' speed.

Operations are those of the products with the weights, without attention and padding, and each prompt counts as often as
the way at hand has to read it. The limit is the fastest matrix product that was measured on as many threads.
"""

import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from juicer.data.dialogues import Dialogue
from juicer.methods.pairs import Pair
from juicer.models.forks import Fork, forks_are_faster
from juicer.training.utilisation import operations_per_response_token

SHAPES = ((1024, 256, 1024), (1024, 576, 1536), (1024, 1024, 1024), (2048, 1024, 4096))
"""Rows, inner and outer width: what the layers of the measured sizes multiply, and larger."""
TRAINED, READ = 6, 2
"""Operations per weight and token: forward and backward; forward alone."""


def product_speed(rows: int, inner: int, outer: int, dtype: torch.dtype, seconds: float) -> float:
    """Operations per second of processor time of one matrix product."""
    given, weights = torch.randn(rows, inner).to(dtype), torch.randn(outer, inner).to(dtype)
    torch.nn.functional.linear(given, weights)
    begun, done = time.process_time(), 0
    while (taken := time.process_time() - begun) < seconds or not done:
        torch.nn.functional.linear(given, weights)
        done += 1
    return 2.0 * rows * inner * outer * done / taken


@torch.no_grad()
def limit(dtype: torch.dtype = torch.float32, seconds: float = 0.3) -> float:
    """Operations per second of the fastest of `SHAPES`, the better of two tries."""
    return max(product_speed(*shape, dtype, seconds) for _ in range(2) for shape in SHAPES)


def operations(policy: PreTrainedModel, dialogues: Sequence[Dialogue], kind: int = TRAINED) -> float:
    """Operations of the dialogues' tokens, once each: of training, or of reading them."""
    responses = sum(len(each.response) for each in dialogues)
    return operations_per_response_token(policy, dialogues) * responses * kind / TRAINED


def of_training(policy: PreTrainedModel, pairs: Sequence[Pair], epochs: float, captured: bool) -> float:
    """Operations of a round's training: the passes, and the reference's log-probabilities.

    Args:
        captured: whether those of the samples were recorded while sampling.
    """
    forks = [Fork(pair.sample.prompt, pair.demonstration.response, pair.sample.response) for pair in pairs]
    apart = [each for pair in pairs for each in (pair.demonstration, pair.sample)]
    together = [Dialogue(fork.prompt, [token for response in fork.responses for token in response]) for fork in forks]
    passes = operations(policy, together if forks_are_faster(policy, forks) else apart)
    reference = [pair.demonstration for pair in pairs] if captured else apart
    return epochs * passes + operations(policy, reference, READ)


def of_sampling(policy: PreTrainedModel, samples: Sequence[Dialogue]) -> float:
    """Operations of reading each prompt and decoding its response."""
    return operations(policy, samples, READ)


def share(needed: float, seconds: float, speed: float) -> dict[str, Any]:
    """What the arithmetic alone would take at the limit, and its share of the seconds that were taken."""
    return {
        "operations": round(needed),
        "gflops": round(needed / seconds / 1e9, 1),
        "share_of_limit": round(needed / speed / seconds, 3),
    }
