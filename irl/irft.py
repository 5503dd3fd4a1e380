"""IRFT, Algorithm 2 of the paper: the policy is its own reward, and learns to tell demonstrations from its samples."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch

from irl.checkpoint import Checkpoint
from irl.descent import Losses
from irl.log_probability import by_length_in_chunks, response_log_probabilities, score_dialogues
from irl.objectives import implicit_reward, irft_loss
from irl.optimisation import (
    Progress,
    TrainingRecord,
    descend,
    recompute_activations,
    shuffled_batches,
    steps_for,
)
from irl.pairs import Pair, response_tokens
from irl.processes import ALONE, Processes
from irl.settings.irft import IrftTrainingSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def train_round(
    policy: "PreTrainedModel",
    reference: "PreTrainedModel",
    pairs: Sequence[Pair],
    settings: IrftTrainingSettings,
    padding: int,
    seed: int,
    progress: Progress = lambda steps: None,
    checkpoint: Checkpoint | None = None,
    processes: Processes = ALONE,
) -> TrainingRecord:
    """K steps on one round's pairs; changes `policy` in place.

    Args:
        policy: pi_theta, at theta_t when the round starts.
        reference: pi_theta_t or pi_0, only read, and only before the first step: its log-probabilities are
            constants of the round, so it may be the same object as `policy`.
        padding: any token id.
        seed: of the order of the pairs.
        checkpoint: see `descend`.
        processes: over which the pairs of each step are divided.

    Returns:
        The record of the round: loss, implicit rewards' margin and accuracy per step.
    """
    demonstrations, samples = [pair.demonstration for pair in pairs], [pair.sample for pair in pairs]
    lengths = torch.tensor([len(dialogue.response) for dialogue in demonstrations], device=policy.device)
    reference.eval()
    log_reference = [
        score_dialogues(reference, each, padding, processes=processes).to(policy.device)
        for each in (demonstrations, samples)
    ]
    beta = settings.beta

    def loss_of(rows: list[int]) -> Losses:
        both = [demonstrations[row] for row in rows] + [samples[row] for row in rows]
        y, y_prime = by_length_in_chunks(
            partial(response_log_probabilities, policy), both, padding, policy.device
        ).chunk(2)
        ref_y, ref_y_prime = (each[rows] for each in log_reference)
        loss = irft_loss((y, y_prime), (ref_y, ref_y_prime), beta, settings.h)
        if settings.sft_weight:
            # Per token on average over the round, so that no row's weight depends on the rows that it is passed with.
            loss = loss - settings.sft_weight * y / lengths.float().mean()
        with torch.no_grad():
            margin = implicit_reward(y, ref_y, beta) - implicit_reward(y_prime, ref_y_prime, beta)
            accuracy = (margin > 0).float()
            return loss, {
                "margin": margin,
                "accuracy": accuracy,
                "demonstration_log_probability": y / lengths[rows],
            }

    steps = steps_for(settings.epochs, len(pairs), settings.batch_size)
    batches = list(shuffled_batches(len(pairs), settings.batch_size, settings.epochs, seed))
    record = TrainingRecord("irft_train", response_tokens=response_tokens(pairs, batches))
    # Dropout stays off: the objective compares pi with itself at the round's start, and noise is no difference.
    policy.eval()
    if settings.gradient_checkpointing:
        recompute_activations(policy)
    descend(
        policy,
        batches,
        steps,
        loss_of,
        settings.optimiser,
        settings.micro_batch_size,
        record,
        progress,
        checkpoint,
        processes,
    )
    record.facts = {"K": steps, "pairs": len(pairs)}
    return record
