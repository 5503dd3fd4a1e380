"""The paper's two algorithms, each in one function that reads like its pseudo-code.

They run all rounds in memory with the functions and the seeds of the stages in dvc.yaml, which put files in between
(irft_generate and irft_train; rft_generate, rft_reward and rft_policy), so the same inputs give the same weights
(tests/unit/test_algorithms.py). Only stages resume from checkpoints and sample by vLLM. On a GPU samples may differ: a
stage draws them from weights that are bf16, these functions from float32 weights under autocast. Adapters are merged
into the weights given, after each round; stages keep them beside their base model, so with LoRA the weights are the
same up to rounding.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from juicer.data.demonstrations import Demonstration
from juicer.data.dialogues import Sample
from juicer.data.template import Template
from juicer.methods.irft import irft_round
from juicer.methods.pairs import make_pairs, part_of, with_replay
from juicer.methods.policy_alignment import align_policy
from juicer.methods.ppo import align_policy_by_ppo
from juicer.methods.reward import train_reward
from juicer.models.loading import mixed_precision
from juicer.models.precision import training_compute
from juicer.models.shape import count_parameters
from juicer.runtime.errors import InputError
from juicer.runtime.seeding import derive
from juicer.sampling.decoding import sample_responses
from juicer.settings.compute import ComputeSettings
from juicer.settings.irft import IrftSettings
from juicer.settings.rft import RftSettings
from juicer.training.adapters import add_adapters, merge_adapters
from juicer.training.passes import passes_of
from juicer.training.record import TrainingRecord

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def algorithm_1(
    policy: "PreTrainedModel",
    reward: "PreTrainedModel",
    initial: Path,
    demonstrations: Sequence[Demonstration],
    template: Template,
    settings: RftSettings,
    compute: ComputeSettings,
    seed: int,
    scratch: Path,
) -> list[tuple[TrainingRecord, TrainingRecord]]:
    """RFT: reward alignment and policy alignment in turn. `policy` becomes pi_T and `reward` r_theta_T, in place.

    Args:
        policy: pi_0, the SFT policy.
        reward: r_theta_0, which reads the tokens of the policy; theta is carried from round to round.
        initial: folder of pi_0, the reference of the KL term.
        demonstrations: (x, y).
        scratch: folder for the trainer's files.

    Returns:
        The records of reward alignment and policy alignment, per round.

    Raises:
        InputError: T is not a number.
    """
    _check_rounds(settings.rounds, "rft.rounds")
    optimise = partial(align_policy_by_ppo, ppo=settings.ppo) if settings.optimiser == "ppo" else align_policy
    records, known = [], list[Sample]()
    anchor = copy.deepcopy(policy) if settings.contrast == "initial" else None
    for t, part in enumerate(settings.parts, 1):
        rows = part_of(demonstrations, part, derive(seed, "slices"))
        purposes = ("sampling", "replay", "reward adapters", "reward order", "policy")
        seeds = {name: derive(seed, "rft", f"r{t}", name) for name in purposes}

        # y' ~ pi_t(.|x), or pi_0(.|x)
        prompts = [(row.id, template.prompt(row.prompt)) for row in rows]
        with mixed_precision(compute):
            sampled = policy if anchor is None else anchor
            samples = sample_responses(sampled.eval(), template, prompts, settings.sampling, seeds["sampling"])
        known = [*samples, *(replace(each, earlier=each.earlier + 1) for each in known)]
        pairs = make_pairs(demonstrations, with_replay(known, settings.replay, seeds["replay"]), template)

        # theta <- theta + eta grad h(r(x, y) - r(x, y')), K steps
        adapters = add_adapters(reward, settings.reward.lora, seeds["reward adapters"])
        training = training_compute(compute, count_parameters(reward))
        passes, order = passes_of(training, reward), seeds["reward order"]
        with mixed_precision(training):
            learnt = train_reward(reward, pairs, settings.reward, template.padding, order, passes=passes)
        merge_adapters(adapters)

        # pi_{t+1} = argmax_pi E[r_theta(x, y)] - beta KL(pi || pi_0), by policy gradient from pi_t on
        normaliser = (learnt.facts["normaliser_mean"], learnt.facts["normaliser_deviation"])
        asked = [row.prompt for row in rows]
        aligned = optimise(
            policy, initial, reward, normaliser, template, asked, settings.policy, compute, seeds["policy"], scratch
        )
        records.append((learnt, aligned))
    return records


def algorithm_2(
    policy: "PreTrainedModel",
    demonstrations: Sequence[Demonstration],
    template: Template,
    settings: IrftSettings,
    compute: ComputeSettings,
    seed: int,
) -> list[TrainingRecord]:
    """IRFT: the policy learns to prefer the demonstrations to its own samples. `policy` becomes pi_T, in place.

    Args:
        policy: pi_0, the SFT policy.
        demonstrations: (x, y).

    Returns:
        The record of each round.

    Raises:
        InputError: T is not a number.
    """
    _check_rounds(settings.rounds, "irft.rounds")
    training = training_compute(compute, count_parameters(policy))
    initial = copy.deepcopy(policy) if settings.training.reference == "initial" else None
    records, known = [], list[Sample]()
    for t, part in enumerate(settings.parts, 1):
        rows = part_of(demonstrations, part, derive(seed, "slices"))
        seeds = {name: derive(seed, "irft", f"r{t}", name) for name in ("sampling", "replay", "adapters", "order")}

        # y' ~ pi_theta_t(.|x)
        prompts = [(row.id, template.prompt(row.prompt)) for row in rows]
        with mixed_precision(compute):
            samples = sample_responses(policy.eval(), template, prompts, settings.sampling, seeds["sampling"])
        known = [*samples, *(replace(each, earlier=each.earlier + 1) for each in known)]
        pairs = make_pairs(demonstrations, with_replay(known, settings.replay, seeds["replay"]), template)

        # theta_{t+1}: K steps on -h(beta log pi/ref (y|x) - beta log pi/ref (y'|x)), ref = pi_theta_t or pi_0
        reference = policy if initial is None or t == 1 else initial
        adapters = add_adapters(policy, settings.training.lora, seeds["adapters"])
        passes, order = passes_of(training, policy), seeds["order"]
        with mixed_precision(training):
            learnt = irft_round(policy, reference, pairs, settings.training, template.padding, order, passes=passes)
        records.append(learnt)
        merge_adapters(adapters)
    return records


def _check_rounds(rounds: int | str, key: str) -> None:
    if rounds == "auto":
        what = "the number of rounds has to be known here; `auto` is decided between the stages of a run"
        raise InputError(what, where=key, do="set it to a number, or use juicer run")
