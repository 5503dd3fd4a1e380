"""Policy alignment of RFT by PPO, as in the paper, with the last release of TRL that has it (1.12, experimental).

TRL scores a response at the last token before its padding. The reward was trained at the end-of-text token, and the
two are the same only if padding is a different token than end-of-text: here it always is (`with_padding_token`).
"""

import copy
import io
import os
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from juicer.data.demonstrations import Message
from juicer.data.template import Template
from juicer.models.loading import load_policy, lower_precision
from juicer.models.precision import training_compute
from juicer.models.shape import count_parameters
from juicer.runtime.context import LOCAL, WorkContext
from juicer.runtime.errors import InputError
from juicer.settings.compute import ComputeSettings
from juicer.settings.rft import PolicyAlignmentSettings, PpoSettings
from juicer.training.memory import micro_batch, step_of, weights_of
from juicer.training.record import TrainingRecord
from juicer.training.trainer import progress_callback, trainer_arguments

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CURVES = {
    "loss": "loss/policy_avg",
    "value_loss": "loss/value_avg",
    "reward": "objective/scores",
    "kl": "objective/kl",
    "entropy": "policy/entropy_avg",
}
PADDING = "<|padding|>"


def align_policy_by_ppo(
    policy: "PreTrainedModel",
    initial: Path,
    reward: "PreTrainedModel",
    normaliser: tuple[float, float],
    template: Template,
    prompts: Sequence[list[Message]],
    settings: PolicyAlignmentSettings,
    compute: ComputeSettings,
    seed: int,
    scratch: Path,
    context: WorkContext = LOCAL,
    *,
    ppo: PpoSettings,
) -> TrainingRecord:
    """Take `settings.steps` batches of responses and `ppo.epochs` optimiser steps on each. Changes `policy` in place.

    The value model starts as a copy of the reward and is discarded at the end. TRL's loop does not clip the gradient.

    Args:
        policy: pi_t, where the round starts.
        initial: folder of pi_0, the reference of the KL term in every round.
        reward: r_theta.
        normaliser: mean and deviation of r_theta on the round's pairs.
        prompts: the round's prompts.

    Returns:
        The record: reward, KL to pi_0 per response, entropy and the two losses per batch.

    Raises:
        InputError: there are fewer prompts than a batch takes, or no token is available for padding.
    """
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    import datasets
    from transformers import PrinterCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    batch = settings.prompts_per_step * settings.samples_per_prompt
    if len(prompts) < batch:
        do = "lower rft.policy.prompts_per_step"
        raise InputError(
            f"there are {len(prompts)} prompts, but a step of PPO takes {batch}", where="rft_policy", do=do
        )
    datasets.disable_progress_bars()
    tokenizer = with_padding_token(template.tokenizer, policy.config.vocab_size)
    padding = int(tokenizer.pad_token_id)
    prompt_tokens: list[int] = []
    response_tokens: list[int] = []

    def collate(rows: list[dict[str, list[int]]]) -> dict[str, Tensor]:
        lengths = [len(row["input_ids"]) for row in rows]
        prompt_tokens.append(sum(lengths))
        padded = [[padding] * (max(lengths) - len(row["input_ids"])) + row["input_ids"] for row in rows]
        return {"input_ids": torch.tensor(padded)}

    def count(module: torch.nn.Module, arguments: Any, given: dict[str, Any]) -> None:
        # The reward reads each batch once, in the loader's order of the prompts.
        response_tokens.append(int(given["attention_mask"].sum()) - prompt_tokens[len(response_tokens)])
        context.emit_tokens(response_tokens[-1] * ppo.epochs)

    training = training_compute(compute, count_parameters(policy))
    mean, deviation = normaliser if settings.normalise_reward else (0.0, 1.0)
    judge = NormalisedReward(reward, mean, deviation)
    micro = micro_batch(
        settings.micro_batch_size,
        batch,
        step_of(
            policy,
            settings,
            lower=lower_precision(training),
            sequences=1,
            length=max(len(template.prompt(prompt)) for prompt in prompts) + template.settings.max_response_tokens,
            heads=template.settings.max_response_tokens,
            in_chunks=False,
            # The reference, the reward, and the value model with its gradient and optimiser.
            others=weights_of(policy, reward) + (1 + 3) * weights_of(reward),
        ),
    )
    trainer = PPOTrainer(
        args=PPOConfig(
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=batch // micro,
            local_rollout_forward_batch_size=batch,
            total_episodes=settings.steps * batch,
            num_ppo_epochs=ppo.epochs,
            num_mini_batches=1,
            num_sample_generations=0,
            response_length=template.settings.max_response_tokens,
            # TRL stops at one token only: the one that supervised fine-tuning has taught the policy.
            stop_token_id=template.end_of_text,
            temperature=settings.temperature,
            kl_coef=settings.kl_coefficient,
            cliprange=ppo.clip_range,
            cliprange_value=ppo.clip_range,
            vf_coef=ppo.value_coefficient,
            gamma=1.0,
            lam=ppo.advantage_lambda,
            **trainer_arguments(
                settings.optimiser, training, seed, scratch, settings.gradient_checkpointing, context.tracking
            ),
        ),
        processing_class=tokenizer,
        model=policy,
        ref_model=load_policy(initial, compute),
        reward_model=judge,
        value_model=copy.deepcopy(reward),
        train_dataset=datasets.Dataset.from_list([{"input_ids": template.prompt(prompt)} for prompt in prompts]),
        data_collator=collate,
        callbacks=[progress_callback("rft_policy", CURVES, context)],
    )
    trainer.remove_callback(PrinterCallback)
    counting = judge.trunk.register_forward_pre_hook(count, with_kwargs=True)
    with redirect_stdout(io.StringIO()):  # TRL prints a line
        trainer.train()
    counting.remove()
    tokens = ppo.epochs * sum(response_tokens)
    record = TrainingRecord("rft_policy", steps=settings.steps * ppo.epochs, response_tokens=tokens)
    record.facts = {"precision": "bf16" if lower_precision(training) else "fp32", "micro_batch_size": micro}
    for entry in trainer.state.log_history:
        if "objective/scores" in entry:
            record.log(int(entry["step"]), **{name: entry[key] for name, key in CURVES.items()})
    return record


class NormalisedReward(torch.nn.Module):
    """r_theta with zero mean and unit variance on the round's pairs, under the attribute names that TRL expects."""

    base_model_prefix = "trunk"

    def __init__(self, reward: "PreTrainedModel", mean: float, deviation: float) -> None:
        super().__init__()
        self.trunk = reward.base_model
        self.head = reward.get_submodule("score")
        self.mean, self.deviation = mean, deviation

    def score(self, hidden: Tensor) -> Tensor:
        """Rewards at every position. (batch, length, width) to (batch, length, 1)."""
        values: Tensor = self.head(hidden)
        return (values.float() - self.mean) / self.deviation


def with_padding_token(tokenizer: "PreTrainedTokenizerBase", vocabulary: int) -> "PreTrainedTokenizerBase":
    """A copy of the tokenizer whose padding token is not end-of-text.

    Args:
        vocabulary: size of the policy's vocabulary.

    Raises:
        InputError: the tokenizer has no such token and the policy's vocabulary has no free id for one.
    """
    padded = copy.deepcopy(tokenizer)
    padded.padding_side = "left"
    if padded.pad_token_id in (None, padded.eos_token_id):
        padded.add_special_tokens({"pad_token": PADDING})
    if padded.pad_token_id >= vocabulary:
        raise InputError(
            "PPO needs a padding token other than end-of-text, and the policy's vocabulary has no room for one",
            where="rft_policy",
            do="set rft.optimiser to rloo",
        )
    return padded
