"""Scoring token sequences in batches of similar length, for all scorers."""

import logging
from collections.abc import Callable, Collection, Sequence
from functools import partial

import torch

from juicer.runtime.context import LOCAL, WorkContext
from juicer.runtime.errors import InputError

log = logging.getLogger(__name__)


def score_sequences(
    sequences: Sequence[Sequence[int]],
    end_scores: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    *,
    batch_size: int,
    padding: int,
    positions: int | None,
    first: Collection[int | None] = (),
    device: torch.device,
    context: WorkContext = LOCAL,
) -> list[float]:
    """Score token sequences in batches of similar length, which need little padding.

    Args:
        sequences: token ids, one sequence per row.
        end_scores: maps ids (batch, length) and mask (batch, length) to scores (batch,).
        batch_size: rows per batch.
        padding: token id that fills short rows on the right.
        positions: maximal length of a sequence, None for no limit. A longer one is truncated at its beginning, because
            the score is read at the end; a warning is logged.
        first: token ids that are kept at the start of a truncated sequence, such as an encoder's [CLS], where the score
            is read.
        device: where the model is.
        context: the batches are distributed over its processes; its memo keeps scored batches.

    Returns:
        One number per sequence, in the order given.

    Raises:
        InputError: a score is not finite.
    """
    if positions is not None and (long := sum(len(sequence) > positions for sequence in sequences)):
        log.warning(
            "%d dialogues exceed the scorer's %d positions and are scored without their beginning", long, positions
        )
        sequences = [_end_of(sequence, positions, first) for sequence in sequences]
    order = sorted(range(len(sequences)), key=lambda row: (-len(sequences[row]), row))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]

    def one(rows: list[int]) -> list[float]:
        length = len(sequences[rows[0]])
        ids = torch.full((len(rows), length), padding, dtype=torch.long)
        mask = torch.zeros((len(rows), length), dtype=torch.long)
        for place, row in enumerate(rows):
            ids[place, : len(sequences[row])] = torch.tensor(sequences[row], dtype=torch.long)
            mask[place, : len(sequences[row])] = 1
        values = end_scores(ids.to(device), mask.to(device)).float()
        if not bool(torch.isfinite(values).all()):
            raise InputError(
                "a score is NaN or infinite", where="scorer", do="check its weights, or set compute.precision to fp32"
            )
        return [float(value) for value in values]

    scores = [0.0] * len(sequences)
    with torch.inference_mode():
        results = context.processes.distribute(batches, lambda rows: context.memo(partial(one, rows)))
        for rows, values in zip(batches, results, strict=True):
            for row, value in zip(rows, values, strict=True):
                scores[row] = value
    return scores


def _end_of(sequence: Sequence[int], positions: int, first: Collection[int | None]) -> Sequence[int]:
    """The last `positions` tokens, or the first one and the last `positions - 1` if the first is to be kept."""
    if len(sequence) <= positions:
        return sequence
    kept = 1 if sequence[0] in first else 0
    return [*sequence[:kept], *sequence[len(sequence) - positions + kept :]]
