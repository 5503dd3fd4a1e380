"""Settings of RFT, Algorithm 1 of the paper: an explicit reward, then policy optimisation."""

from typing import Literal

from pydantic import Field

from juicer.settings.base import Settings
from juicer.settings.training import GenerationSettings, OptimiserSettings


class RewardSettings(Settings):
    """Reward alignment: K steps on h(r(x, y) - r(x, y'))."""

    model: str | None = None
    """Trunk that the reward starts from (folder or Hugging Face id); null is the SFT policy."""
    revision: str | None = None
    """Commit of the trunk; required for a Hugging Face id."""
    epochs: float = Field(1.0, gt=0)
    """Passes over the pairs of a round."""
    batch_size: int = Field(16, ge=1)
    """Pairs per optimiser step."""
    micro_batch_size: int | None = Field(None, ge=1)
    """Pairs per forward pass of a process; null is its whole share of the batch."""
    h: Literal["logistic", "identity"] = "logistic"
    """`logistic`: log sigmoid; `identity`: the raw difference of equation (2), unbounded."""
    frozen_blocks: int = Field(0, ge=0)
    """Number of lowest transformer blocks (and the embedding) that do not train; the paper's code freezes 20."""
    optimiser: OptimiserSettings = OptimiserSettings(learning_rate=1e-6)
    """Optimiser and schedule, restarted every round; the reward's weights are carried."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: slower, much less memory."""


class PolicyAlignmentSettings(Settings):
    """Policy alignment: maximise E[r] - kl_coefficient * KL(pi || pi_0), started at the current policy."""

    steps: int = Field(2000, ge=1)
    """Optimiser steps."""
    prompts_per_step: int = Field(8, ge=1)
    """Prompts per step."""
    samples_per_prompt: int = Field(4, ge=2)
    """Responses per prompt; the leave-one-out baseline needs two. PPO takes as many, each to another prompt."""
    micro_batch_size: int | None = Field(None, ge=1)
    """Responses per forward pass of a process; null is its whole share of a step."""
    kl_coefficient: float = Field(0.05, ge=0)
    """beta of the inner problem, on the summed log-ratio to the SFT policy."""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature."""
    normalise_reward: bool = True
    """Shift and scale the reward to zero mean and unit variance on the round's pairs."""
    optimiser: OptimiserSettings = OptimiserSettings(learning_rate=1e-6)
    """Optimiser and schedule."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: slower, much less memory."""


class PpoSettings(Settings):
    """What only PPO has: several clipped steps on the same responses, and a value model."""

    epochs: int = Field(2, ge=1)
    """Passes over the responses of one step; the paper's code takes 2."""
    clip_range: float = Field(0.2, gt=0)
    """How far the probability ratio (and the value) may move from where the responses were sampled."""
    value_coefficient: float = Field(0.1, ge=0)
    """Weight of the value model's loss."""
    advantage_lambda: float = Field(0.95, ge=0, le=1)
    """lambda of generalised advantage estimation; rewards are not discounted."""


class RftSettings(Settings):
    """Algorithm 1."""

    rounds: int = Field(1, ge=0)
    """T, the number of generate/reward/policy rounds; 0 switches the method off."""
    slice: Literal["split", "all"] = "split"
    """`split`: round t gets the t-th T-th of the shuffled demonstrations; `all`: every round sees all."""
    sampling: GenerationSettings = GenerationSettings()
    """How the policy's own responses are sampled."""
    reward: RewardSettings = RewardSettings()
    """Reward alignment."""
    optimiser: Literal["rloo", "ppo"] = "rloo"
    """RLOO optimises the KL-regularised objective of the paper exactly; PPO is what the paper ran (needs TRL 1.12)."""
    policy: PolicyAlignmentSettings = PolicyAlignmentSettings()
    """Policy alignment."""
    ppo: PpoSettings = PpoSettings()
    """What PPO needs besides; not read by RLOO."""

    @property
    def parts(self) -> list[str]:
        """The part of the demonstrations that each round sees, as `juicer.data.pairs.part_of` reads it."""
        return ["all" if self.slice == "all" else f"{t + 1}/{self.rounds}" for t in range(self.rounds)]
