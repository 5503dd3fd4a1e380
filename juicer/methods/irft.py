"""One round of IRFT, Algorithm 2 of the paper: the policy is its own reward and learns to prefer demonstrations.

All rounds in one function: `juicer.methods.algorithms.algorithm_2`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from juicer.methods.objectives import implicit_reward, irft_loss
from juicer.methods.pairs import Pair, contrasts_of, response_tokens
from juicer.models.forks import Fork, ForkBatch, fork_log_probabilities, forks_are_faster
from juicer.models.log_probability import (
    compute_in_chunks,
    length_sorted_batches,
    response_log_probabilities,
    score_dialogues,
)
from juicer.models.packing import on_device
from juicer.runtime.context import LOCAL, WorkContext
from juicer.runtime.errors import InputError
from juicer.settings.irft import IrftTrainingSettings
from juicer.training.backends import Losses
from juicer.training.loop import recompute_activations, shuffled_batches, steps_for, train_loop
from juicer.training.memory import step_of, weights_of
from juicer.training.passes import PADDED, Passes, before_training, pass_size
from juicer.training.record import TrainingRecord

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOLERANCE = 1e-4
"""Largest difference, in nats, between a log-probability recorded while sampling and the one of a forward pass."""
CHECKED = 16
"""Number of recorded log-probabilities that are compared with a forward pass, where there are that many."""

ContrastLogProbabilities = Callable[[list[int]], tuple[Tensor, Tensor]]
"""log pi(y|x), (rows,), and log pi(y'|x) of n samples of each, (rows, n), of the contrasts with the given indices."""
Lookup = Callable[[Tensor], tuple[Tensor, Tensor]]
"""The same as constants, by indices on the device."""


def irft_round(
    policy: "PreTrainedModel",
    reference: "PreTrainedModel",
    pairs: Sequence[Pair],
    settings: IrftTrainingSettings,
    padding: int,
    seed: int,
    context: WorkContext = LOCAL,
    passes: Passes = PADDED,
) -> TrainingRecord:
    """K optimiser steps on one round's pairs (x, y, y'): theta_t becomes theta_{t+1}. Changes `policy` in place.

    Pairs of the same contrast (one demonstration, n samples of it) are one row of a batch; n is the same for all.

    Args:
        policy: pi_theta_t, which has sampled y'.
        reference: pi_theta_t or pi_0. Only read, and only before the first step: its log-probabilities are constants
            of the round. Pass `policy` itself for pi_theta_t: the log-probabilities recorded while sampling then serve
            as log ref(y'|x), if a forward pass confirms them.
        padding: any token id.
        seed: determines the order of the pairs.
        context: see `train_loop`.
        passes: how `policy` and `reference` compute.

    Returns:
        The record of the round: loss, margin and accuracy of the implicit reward per step.
    """
    contrasts = contrasts_of(pairs)
    steps = steps_for(settings.epochs, len(contrasts), settings.batch_size)  # K
    batches = list(shuffled_batches(len(contrasts), settings.batch_size, settings.epochs, seed))
    record = TrainingRecord("irft_train", response_tokens=response_tokens(pairs, batches, contrasts))
    demonstrations = [pairs[each[0]].demonstration for each in contrasts]
    lengths = torch.tensor([len(each.response) for each in demonstrations], device=policy.device)
    tokens = [
        len(demonstration) + sum(len(pairs[place].sample) for place in each)
        for demonstration, each in zip(demonstrations, contrasts, strict=True)
    ]

    def loss_of(rows: list[int]) -> Losses:
        at = on_device(torch.tensor(rows), policy.device)
        y, y_prime = log_pi(rows)
        ref_y, ref_y_prime = log_ref(at)
        # -h( beta [log pi(y|x) - log ref(y|x)] - beta [log pi(y'|x) - log ref(y'|x)] ), or another objective
        loss = irft_loss((y, y_prime), (ref_y, ref_y_prime), settings.beta, settings.objective, settings.contrast)
        if settings.sft_weight:
            # Divided by the round's mean length, so that a row's weight does not depend on its micro-batch.
            loss = loss - settings.sft_weight * y / lengths.float().mean()
        with torch.no_grad():
            r_y, r_y_prime = (implicit_reward(*each, settings.beta) for each in ((y, ref_y), (y_prime, ref_y_prime)))
            margin = r_y[:, None] - r_y_prime
            return loss, {
                "margin": margin.mean(1),
                "accuracy": (margin > 0).float().mean(1),
                "demonstration_log_probability": y / lengths[at],
            }

    # Dropout stays off: the objective compares pi with itself at the round's start, and dropout would add noise to it.
    policy.eval()
    reference.eval()
    both = [dialogue for pair in pairs for dialogue in (pair.demonstration, pair.sample)]
    # Copies in bf16 of float32 weights lie beside those; weights frozen in bf16 need none.
    copied = passes.copies and reference.dtype == torch.float32
    step = step_of(
        policy,
        settings,
        lower=passes.copies or torch.is_autocast_enabled(policy.device.type),
        sequences=1 + max(map(len, contrasts)),
        length=max(map(len, both)),
        heads=max(len(dialogue.response) for dialogue in both),
        in_chunks=True,
        others=0.0 if reference is policy else weights_of(reference) * (1.5 if copied else 1.0),
        processes=context.processes,
        copies=passes.copies,
    )
    micro, pass_tokens = pass_size(passes, settings, step, max(tokens), context)
    with passes.entered(policy, reference) as masters:
        log_pi = contrast_log_probabilities(policy, pairs, padding, packed=passes.packed)
        if pass_tokens is not None:
            # In the passes of the first epoch, so that pi and ref are the same to the last bit as long as theta is.
            of_reference = contrast_log_probabilities(reference, pairs, padding, packed=True)
            listed = before_training(partial(_listed, of_reference), batches, pass_tokens, tokens, context)
            ref = [torch.tensor(each, device=policy.device) for each in zip(*listed, strict=True)]
            log_ref, from_sampling = (lambda at: (ref[0][at], ref[1][at])), False
        else:
            log_ref, from_sampling = reference_log_probabilities(
                reference, pairs, padding, reused=reference is policy, context=context
            )
        if settings.gradient_checkpointing:
            recompute_activations(policy)
        train_loop(
            policy,
            batches,
            steps,
            loss_of,
            settings.optimiser,
            micro,
            record,
            context,
            lengths=tokens,
            tokens_per_pass=pass_tokens,
            masters=masters,
        )
    record.facts |= {"K": steps, "pairs": len(pairs), "captured": from_sampling}
    if len(pairs) > len(contrasts):
        record.facts["samples_per_demonstration"] = len(pairs) // len(contrasts)
    return record


def reference_log_probabilities(
    reference: "PreTrainedModel", pairs: Sequence[Pair], padding: int, reused: bool, context: WorkContext = LOCAL
) -> tuple[Lookup, bool]:
    """log ref(y|x) and log ref(y'|x), computed once for the whole round.

    Args:
        reused: whether the log-probabilities recorded while sampling may serve as log ref(y'|x).

    Returns:
        The lookup by the contrasts' indices, and whether recorded log-probabilities are used.
    """
    contrasts = _places(contrasts_of(pairs))
    places = torch.tensor(contrasts, device=reference.device)
    demonstrations, samples = [pairs[each[0]].demonstration for each in contrasts], [pair.sample for pair in pairs]
    reference.eval()
    recorded = recorded_log_probabilities(reference, pairs, padding, context) if reused else None
    log_ref_y = score_dialogues(reference, demonstrations, padding, context=context)
    log_ref_y_prime = score_dialogues(reference, samples, padding, context=context) if recorded is None else recorded
    ref_y, ref_y_prime = (each.to(reference.device) for each in (log_ref_y, log_ref_y_prime))
    return lambda at: (ref_y[at], ref_y_prime[places[at]]), recorded is not None


def _listed(compute: ContrastLogProbabilities, rows: list[int]) -> list[tuple[float, list[float]]]:
    y, y_prime = compute(rows)
    return list(zip(y.tolist(), y_prime.tolist(), strict=True))


def _places(contrasts: Sequence[Sequence[int]]) -> list[list[int]]:
    """The contrasts, all of which have to have as many samples.

    Raises:
        InputError: they have not.
    """
    counts = sorted({len(each) for each in contrasts})
    if len(counts) > 1:
        what = f"some demonstrations have {counts[0]} samples and others {counts[-1]}"
        raise InputError(what, where="irft_train", do="generate the samples again")
    return [list(each) for each in contrasts]


def recorded_log_probabilities(
    policy: "PreTrainedModel", pairs: Sequence[Pair], padding: int, context: WorkContext = LOCAL
) -> Tensor | None:
    """log pi(y'|x) of the samples as recorded while sampling, unless a forward pass over some of them disagrees.

    They disagree in bf16, and where the weights that train have another type than the weights that sampled. Those of
    earlier policies' samples are not recorded, and are computed.

    Returns:
        (pairs,) float32 on the CPU; None where none is recorded or one differs by more than `TOLERANCE`.
    """
    known = [row for row, pair in enumerate(pairs) if pair.sample_log_probability is not None]
    if not known:
        return None
    # Samples of all lengths are checked, because errors grow with the length.
    batches = length_sorted_batches([pairs[row].sample for row in known], len(known))
    ordered = [known[row] for rows in batches for row in rows]
    checked = ordered[:: max(1, len(ordered) // CHECKED)]
    computed = score_dialogues(policy, [pairs[row].sample for row in checked], padding, context=context)
    recorded = torch.tensor([pair.sample_log_probability or 0.0 for pair in pairs])
    if float((recorded[checked] - computed).abs().max()) > TOLERANCE:
        return None
    if missing := sorted({*range(len(pairs))} - {*known}):
        others = score_dialogues(policy, [pairs[row].sample for row in missing], padding, context=context)
        recorded[missing] = others.to(recorded.dtype)
    return recorded


def contrast_log_probabilities(
    policy: "PreTrainedModel", pairs: Sequence[Pair], padding: int, *, packed: bool = False
) -> ContrastLogProbabilities:
    """log pi(y|x) and log pi(y'|x), differentiable, looked up by the contrasts' indices.

    Where it is faster, on some CPU models only (`forks_are_faster`), all responses of a contrast share one row and
    their prompt is computed once. The values are the same up to rounding.

    Args:
        packed: whether the given contrasts are one packed row.
    """
    contrasts = [[pairs[place] for place in each] for each in _places(contrasts_of(pairs))]
    forks = [
        Fork(each[0].sample.prompt, each[0].demonstration.response, *(pair.sample.response for pair in each))
        for each in contrasts
    ]
    same_prompts = all(pair.demonstration.prompt == pair.sample.prompt for pair in pairs)

    def in_one_row(rows: list[int]) -> tuple[Tensor, Tensor]:
        chosen, compute = [forks[row] for row in rows], partial(fork_log_probabilities, policy)
        values = compute_in_chunks(compute, chosen, padding, policy.device, batch_of=ForkBatch.of)
        return values[:, 0], values[:, 1:]

    def in_rows(rows: list[int]) -> tuple[Tensor, Tensor]:
        dialogues = [contrasts[row][0].demonstration for row in rows]
        dialogues += [pair.sample for row in rows for pair in contrasts[row]]
        compute = partial(response_log_probabilities, policy)
        values = compute_in_chunks(compute, dialogues, padding, policy.device, packed=packed)
        return values[: len(rows)], values[len(rows) :].view(len(rows), -1)

    return in_one_row if same_prompts and not packed and forks_are_faster(policy, forks) else in_rows
