"""IRFT, Algorithm 2 of the paper: the policy is its own reward, and learns to tell demonstrations from its samples."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from juicer.data.pairs import Pair, response_tokens
from juicer.methods.forks import Fork, ForkBatch, fork_log_probabilities, forks_pay
from juicer.methods.objectives import implicit_reward, irft_loss
from juicer.models.log_probability import by_length, by_length_in_chunks, response_log_probabilities, score_dialogues
from juicer.runtime.context import LOCAL, WorkContext
from juicer.settings.irft import IrftTrainingSettings
from juicer.training.backends import Losses
from juicer.training.loop import recompute_activations, shuffled_batches, steps_for, train_loop
from juicer.training.record import TrainingRecord

if TYPE_CHECKING:
    from transformers import PreTrainedModel

AGREE = 1e-4
"""Nats by which a captured log-probability may differ from teacher forcing."""
CHECKED = 16
"""Captured log-probabilities that are compared, at least, where there are so many."""


def train_round(
    policy: "PreTrainedModel",
    reference: "PreTrainedModel",
    pairs: Sequence[Pair],
    settings: IrftTrainingSettings,
    padding: int,
    seed: int,
    context: WorkContext = LOCAL,
) -> TrainingRecord:
    """K steps on one round's pairs; changes `policy` in place.

    Args:
        policy: pi_theta, at theta_t when the round starts: it has made the samples.
        reference: pi_theta_t or pi_0, only read, and only before the first step: its log-probabilities are
            constants of the round. Pass `policy` itself for pi_theta_t: what was captured while sampling is then
            taken for the samples', if teacher forcing gives the same.
        padding: any token id.
        seed: of the order of the pairs.
        context: see `train_loop`.

    Returns:
        The record of the round: loss, implicit rewards' margin and accuracy per step.
    """
    demonstrations, samples = [pair.demonstration for pair in pairs], [pair.sample for pair in pairs]
    lengths = torch.tensor([len(dialogue.response) for dialogue in demonstrations], device=policy.device)
    reference.eval()
    captured = captured_log_probabilities(reference, pairs, padding, context) if reference is policy else None
    log_reference = [
        score_dialogues(reference, demonstrations, padding, context=context),
        score_dialogues(reference, samples, padding, context=context) if captured is None else captured,
    ]
    log_reference = [each.to(policy.device) for each in log_reference]
    log_probabilities = log_probabilities_of(policy, pairs, padding)
    beta = settings.beta

    def loss_of(rows: list[int]) -> Losses:
        y, y_prime = log_probabilities(rows)
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
    train_loop(
        policy,
        batches,
        steps,
        loss_of,
        settings.optimiser,
        settings.micro_batch_size,
        record,
        context,
    )
    record.facts = {"K": steps, "pairs": len(pairs), "captured": captured is not None}
    return record


def captured_log_probabilities(
    policy: "PreTrainedModel", pairs: Sequence[Pair], padding: int, context: WorkContext = LOCAL
) -> Tensor | None:
    """log pi(y'|x) of the samples as captured while sampling, unless teacher forcing says otherwise of some of them.

    In bf16 it does, and where the weights that train are not of the type of those that sampled.

    Returns:
        (pairs,) float32 on the CPU; None where it was not captured or differs by more than `AGREE`.
    """
    known = [pair.captured for pair in pairs if pair.captured is not None]
    if len(known) < len(pairs):
        return None
    # Long ones and short ones alike: errors grow with the length.
    ordered = [row for rows in by_length([pair.sample for pair in pairs], len(pairs)) for row in rows]
    checked = ordered[:: max(1, len(ordered) // CHECKED)]
    forced = score_dialogues(policy, [pairs[row].sample for row in checked], padding, context=context)
    captured = torch.tensor(known)
    return captured if float((captured[checked] - forced).abs().max()) <= AGREE else None


def log_probabilities_of(
    policy: "PreTrainedModel", pairs: Sequence[Pair], padding: int
) -> Callable[[list[int]], tuple[Tensor, Tensor]]:
    """log pi(y|x) and log pi(y'|x), differentiable, of pairs given by their numbers: (rows,) each."""
    forks = [Fork(pair.sample.prompt, pair.demonstration.response, pair.sample.response) for pair in pairs]
    if all(pair.demonstration.prompt == pair.sample.prompt for pair in pairs) and forks_pay(policy, forks):

        def together(rows: list[int]) -> tuple[Tensor, Tensor]:
            compute = partial(fork_log_probabilities, policy)
            both = by_length_in_chunks(
                compute, [forks[row] for row in rows], padding, policy.device, batch_of=ForkBatch.of
            )
            return both[:, 0], both[:, 1]

        return together

    def apart(rows: list[int]) -> tuple[Tensor, Tensor]:
        both = [pairs[row].demonstration for row in rows] + [pairs[row].sample for row in rows]
        compute = partial(response_log_probabilities, policy)
        y, y_prime = by_length_in_chunks(compute, both, padding, policy.device).chunk(2)
        return y, y_prime

    return apart
