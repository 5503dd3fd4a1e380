"""One round of IRFT, Algorithm 2 of the paper: the policy is its own reward and learns to prefer demonstrations.

All rounds in one function: `juicer.methods.algorithms.algorithm_2`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from juicer.methods.objectives import implicit_reward, irft_loss
from juicer.methods.pairs import Pair, response_tokens
from juicer.models.forks import Fork, ForkBatch, fork_log_probabilities, forks_are_faster
from juicer.models.log_probability import (
    compute_in_chunks,
    length_sorted_batches,
    response_log_probabilities,
    score_dialogues,
)
from juicer.runtime.context import LOCAL, WorkContext
from juicer.settings.irft import IrftTrainingSettings
from juicer.training.backends import Losses
from juicer.training.loop import recompute_activations, shuffled_batches, steps_for, train_loop
from juicer.training.memory import micro_batch, step_of, weights_of
from juicer.training.record import TrainingRecord

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOLERANCE = 1e-4
"""Largest difference, in nats, between a log-probability recorded while sampling and the one of a forward pass."""
CHECKED = 16
"""Number of recorded log-probabilities that are compared with a forward pass, where there are that many."""

PairLogProbabilities = Callable[[list[int]], tuple[Tensor, Tensor]]
"""log pi(y|x) and log pi(y'|x) of the pairs with the given indices: (rows,) each."""


def irft_round(
    policy: "PreTrainedModel",
    reference: "PreTrainedModel",
    pairs: Sequence[Pair],
    settings: IrftTrainingSettings,
    padding: int,
    seed: int,
    context: WorkContext = LOCAL,
) -> TrainingRecord:
    """K optimiser steps on one round's pairs (x, y, y'): theta_t becomes theta_{t+1}. Changes `policy` in place.

    Args:
        policy: pi_theta_t, which has sampled y'.
        reference: pi_theta_t or pi_0. Only read, and only before the first step: its log-probabilities are constants
            of the round. Pass `policy` itself for pi_theta_t: the log-probabilities recorded while sampling then serve
            as log ref(y'|x), if a forward pass confirms them.
        padding: any token id.
        seed: determines the order of the pairs.
        context: see `train_loop`.

    Returns:
        The record of the round: loss, margin and accuracy of the implicit reward per step.
    """
    steps = steps_for(settings.epochs, len(pairs), settings.batch_size)  # K
    batches = list(shuffled_batches(len(pairs), settings.batch_size, settings.epochs, seed))
    record = TrainingRecord("irft_train", response_tokens=response_tokens(pairs, batches))
    log_ref, from_sampling = reference_log_probabilities(
        reference, pairs, padding, reused=reference is policy, context=context
    )
    log_pi = pair_log_probabilities(policy, pairs, padding)
    lengths = torch.tensor([len(pair.demonstration.response) for pair in pairs], device=policy.device)

    def loss_of(rows: list[int]) -> Losses:
        y, y_prime = log_pi(rows)
        ref_y, ref_y_prime = log_ref(rows)
        # -h( beta [log pi(y|x) - log ref(y|x)] - beta [log pi(y'|x) - log ref(y'|x)] )
        loss = irft_loss((y, y_prime), (ref_y, ref_y_prime), settings.beta, settings.h)
        if settings.sft_weight:
            # Divided by the round's mean length, so that a row's weight does not depend on its micro-batch.
            loss = loss - settings.sft_weight * y / lengths.float().mean()
        with torch.no_grad():
            margin = implicit_reward(y, ref_y, settings.beta) - implicit_reward(y_prime, ref_y_prime, settings.beta)
            return loss, {
                "margin": margin,
                "accuracy": (margin > 0).float(),
                "demonstration_log_probability": y / lengths[rows],
            }

    # Dropout stays off: the objective compares pi with itself at the round's start, and dropout would add noise to it.
    policy.eval()
    if settings.gradient_checkpointing:
        recompute_activations(policy)
    both = [dialogue for pair in pairs for dialogue in (pair.demonstration, pair.sample)]
    step = step_of(
        policy,
        settings,
        lower=torch.is_autocast_enabled(policy.device.type),
        sequences=2,
        length=max(map(len, both)),
        heads=max(len(dialogue.response) for dialogue in both),
        in_chunks=True,
        others=0.0 if reference is policy else weights_of(reference),
        processes=context.processes,
    )
    micro = micro_batch(settings.micro_batch_size, settings.batch_size, step, context.processes)
    tokens = [len(pair.demonstration) + len(pair.sample) for pair in pairs]
    train_loop(policy, batches, steps, loss_of, settings.optimiser, micro, record, context, lengths=tokens)
    record.facts |= {"K": steps, "pairs": len(pairs), "captured": from_sampling}
    return record


def reference_log_probabilities(
    reference: "PreTrainedModel", pairs: Sequence[Pair], padding: int, reused: bool, context: WorkContext = LOCAL
) -> tuple[PairLogProbabilities, bool]:
    """log ref(y|x) and log ref(y'|x), computed once for the whole round.

    Args:
        reused: whether the log-probabilities recorded while sampling may serve as log ref(y'|x).

    Returns:
        The lookup by the pairs' indices, and whether recorded log-probabilities are used.
    """
    demonstrations, samples = [pair.demonstration for pair in pairs], [pair.sample for pair in pairs]
    reference.eval()
    recorded = recorded_log_probabilities(reference, pairs, padding, context) if reused else None
    log_ref_y = score_dialogues(reference, demonstrations, padding, context=context)
    log_ref_y_prime = score_dialogues(reference, samples, padding, context=context) if recorded is None else recorded
    both = [each.to(reference.device) for each in (log_ref_y, log_ref_y_prime)]
    return lambda rows: (both[0][rows], both[1][rows]), recorded is not None


def recorded_log_probabilities(
    policy: "PreTrainedModel", pairs: Sequence[Pair], padding: int, context: WorkContext = LOCAL
) -> Tensor | None:
    """log pi(y'|x) of the samples as recorded while sampling, unless a forward pass over some of them disagrees.

    They disagree in bf16, and where the weights that train have another type than the weights that sampled.

    Returns:
        (pairs,) float32 on the CPU; None where any is missing or differs by more than `TOLERANCE`.
    """
    known = [pair.sample_log_probability for pair in pairs if pair.sample_log_probability is not None]
    if len(known) < len(pairs):
        return None
    # Samples of all lengths are checked, because errors grow with the length.
    batches = length_sorted_batches([pair.sample for pair in pairs], len(pairs))
    ordered = [row for rows in batches for row in rows]
    checked = ordered[:: max(1, len(ordered) // CHECKED)]
    computed = score_dialogues(policy, [pairs[row].sample for row in checked], padding, context=context)
    recorded = torch.tensor(known)
    return recorded if float((recorded[checked] - computed).abs().max()) <= TOLERANCE else None


def pair_log_probabilities(policy: "PreTrainedModel", pairs: Sequence[Pair], padding: int) -> PairLogProbabilities:
    """log pi(y|x) and log pi(y'|x), differentiable, looked up by the pairs' indices.

    Where it is faster, on some CPU models only (`forks_are_faster`), both responses of a pair share one row and their
    prompt is computed once. The values are the same up to rounding.
    """
    forks = [Fork(pair.sample.prompt, pair.demonstration.response, pair.sample.response) for pair in pairs]
    same_prompts = all(pair.demonstration.prompt == pair.sample.prompt for pair in pairs)

    def in_one_row(rows: list[int]) -> tuple[Tensor, Tensor]:
        chosen, compute = [forks[row] for row in rows], partial(fork_log_probabilities, policy)
        both = compute_in_chunks(compute, chosen, padding, policy.device, batch_of=ForkBatch.of)
        return both[:, 0], both[:, 1]

    def in_two_rows(rows: list[int]) -> tuple[Tensor, Tensor]:
        dialogues = [pairs[row].demonstration for row in rows] + [pairs[row].sample for row in rows]
        compute = partial(response_log_probabilities, policy)
        y, y_prime = compute_in_chunks(compute, dialogues, padding, policy.device).chunk(2)
        return y, y_prime

    return in_one_row if same_prompts and forks_are_faster(policy, forks) else in_two_rows
