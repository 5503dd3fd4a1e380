"""Scoring by beaver-7b, which curates 160,000 dialogues and judges every evaluation."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch

from bench.gpu_parts.common import Context, lengths_within, model_of, peak, seconds_of, utilisation
from juicer.planning.costs import shape_of
from juicer.scorers.batches import score_sequences


def measurements(context: Context) -> dict[str, Callable[[], dict[str, Any]]]:
    """The lengths that curation meets, and the longest that it lets through."""
    rows, full = (8, 4) if context.tiny else (512, 64)

    def real() -> dict[str, Any]:
        lengths = lengths_within(128, 384)
        return scored(context, [sum(lengths[row % len(lengths)][:2]) for row in range(rows)])

    return {"lengths of Anthropic-HH, 32 rows": real, "512 tokens, 32 rows": lambda: scored(context, [512] * full)}


def scored(context: Context, lengths: Sequence[int]) -> dict[str, Any]:
    """Tokens per second through the batches that curation makes; the share of the peak counts no padding."""
    drawn, values = random.Random(3), dict[str, Any]()
    with peak(context, values):
        model = model_of(context, "beaver-7b-v3.0-reward", "scorer", torch.bfloat16)
        vocabulary = model.trunk.config.vocab_size
        sequences = [[drawn.randrange(2, vocabulary) for _ in range(length)] for length in lengths]

        def work() -> None:
            score_sequences(
                sequences, model, batch_size=32, padding=1, positions=None, device=context.device
            )  # fmt: skip

        seconds = seconds_of(work, context.device, 1 if context.tiny else 2)
    shape = shape_of("beaver", model.trunk.config, "scorer")
    operations = sum(shape.forward(length, length, 1) for length in lengths)
    return {
        "tokens_per_second": round(sum(lengths) / seconds),
        "rows_per_second": round(len(lengths) / seconds, 1),
        "mfu": utilisation(context, operations, seconds),
        **values,
    }
