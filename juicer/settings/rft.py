"""Settings of RFT, Algorithm 1 of the paper: an explicit reward, then policy optimisation."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from juicer.settings.auto import AutoRounds, AutoSettings
from juicer.settings.base import Settings
from juicer.settings.bounds import Batch, Blocks, Epochs, Passes, Rows, Samples, Steps, Temperature, Weight
from juicer.settings.text import Commit, Place
from juicer.settings.training import Engine, GenerationSettings, LoraSettings, MicroBatch, OptimiserSettings


class RewardSettings(Settings):
    """Reward alignment: K steps on h(r(x, y) - r(x, y'))."""

    model: Place | None = None
    """Model that the reward is initialised from, without its output head (folder or Hugging Face id); null is the SFT
    policy. One with another tokenizer reads the text of dialogues, in the recipe's template and its own tokens."""
    revision: Commit | None = None
    """Commit of that model, 40 hex digits; required for a Hugging Face id."""
    epochs: Epochs = Field(1.0, gt=0)
    """Passes over the pairs of a round."""
    batch_size: Batch = Field(16, ge=1)
    """Pairs per optimiser step."""
    micro_batch_size: MicroBatch = "auto"
    """Pairs per forward pass of one process, to save memory. `auto` takes the largest part of the process's
    share of the batch that fits by the plan (docs/scale.md), null takes the whole share."""
    h: Literal["logistic", "identity"] = "logistic"
    """The function h of the objective: `logistic` is log sigmoid, `identity` the raw, unbounded difference of
    equation (2)."""
    frozen_blocks: Blocks = Field(0, ge=0)
    """Number of lowest transformer blocks that are not trained, and the embedding with them; the paper's code freezes
    20."""
    optimiser: OptimiserSettings = OptimiserSettings(learning_rate=1e-6)
    """Optimiser and schedule, restarted in every round; the reward's weights are carried over."""
    gradient_checkpointing: bool = False
    """Whether activations are recomputed in the backward pass: slower, but with much less memory."""
    lora: LoraSettings | None = None
    """Low-rank adapters on the trunk instead of full fine-tuning; the scalar head trains whole. null trains everything.
    Without dropout, which would add noise to the difference of the two rewards."""

    @model_validator(mode="after")
    def _one_way_to_train_less(self) -> Self:
        if self.lora is not None and self.frozen_blocks:
            raise ValueError(
                f"frozen_blocks is {self.frozen_blocks}, but with lora every block is frozen; set frozen_blocks to 0, "
                "or lora to null"
            )
        if self.lora is not None and self.lora.dropout:
            raise ValueError("lora.dropout must be 0: it would add noise to the difference of the two rewards")
        return self


class PolicyAlignmentSettings(Settings):
    """Policy alignment: maximise E[r] - kl_coefficient * KL(pi || pi_0), started at the current policy."""

    steps: Steps = Field(2000, ge=1)
    """Optimiser steps of a round."""
    prompts_per_step: Batch = Field(8, ge=1)
    """Prompts per optimiser step."""
    samples_per_prompt: Samples = Field(4, ge=2)
    """Responses per prompt; RLOO's leave-one-out baseline needs at least 2. PPO samples as many responses, but each
    to a prompt of its own."""
    micro_batch_size: MicroBatch = "auto"
    """Responses per forward pass of one process, to save memory. `auto` takes the largest part of the process's
    share of a step that fits by the plan (docs/scale.md), null takes the whole share."""
    kl_coefficient: Weight = Field(0.05, ge=0)
    """beta of the inner problem: the weight of the KL term, on the log-ratio to the SFT policy summed over tokens."""
    temperature: Temperature = Field(1.0, gt=0)
    """Temperature of sampling."""
    engine: Engine = "auto"
    """What samples the responses of each step of RLOO, as `rft.sampling.engine`; vLLM gets the policy's new weights
    before each. PPO samples by itself."""
    normalise_reward: bool = True
    """Whether the reward is shifted and scaled to zero mean and unit variance on the round's pairs."""
    optimiser: OptimiserSettings = OptimiserSettings(learning_rate=1e-6)
    """Optimiser and schedule."""
    gradient_checkpointing: bool = False
    """Whether activations are recomputed in the backward pass: slower, but with much less memory."""
    lora: LoraSettings | None = None
    """Low-rank adapters instead of full fine-tuning; null trains everything. Not with PPO. Without dropout: the KL term
    compares the policy with the SFT policy, and dropout would add noise to that."""

    @field_validator("lora")
    @classmethod
    def _no_dropout(cls, given: LoraSettings | None) -> LoraSettings | None:
        if given is not None and given.dropout:
            raise ValueError("dropout must be 0: the KL term compares pi with pi_0, and dropout would add noise to it")
        return given


class PpoSettings(Settings):
    """Settings of PPO alone: several clipped steps on the same responses, and a value model."""

    epochs: Passes = Field(2, ge=1)
    """Passes over the responses of one step; the paper's code makes 2."""
    clip_range: float = Field(0.2, gt=0)
    """Largest change of the probability ratio from 1, and of the value from the one at sampling, before clipping."""
    value_coefficient: float = Field(0.1, ge=0)
    """Weight of the value model's loss in the total loss."""
    advantage_lambda: float = Field(0.95, ge=0, le=1)
    """lambda of generalised advantage estimation; rewards are not discounted."""


class RftSettings(Settings):
    """Algorithm 1: rounds of generating responses, reward alignment and policy alignment."""

    rounds: AutoRounds = 1
    """T, the number of rounds (generate, reward, policy); 0 switches the method off. `auto` adds rounds while they
    improve, see rft.auto; it needs `slice: all`."""
    auto: AutoSettings = AutoSettings()
    """How `rounds: auto` finds T; a number of rounds does not read it."""
    slice: Literal["split", "all"] = "split"
    """Demonstrations of a round: `split` cuts the shuffled demonstrations into T equal parts, one per round; `all` uses
    all of them in every round."""
    sampling: GenerationSettings = GenerationSettings()
    """How the policy's responses are sampled."""
    contrast: Literal["round", "initial"] = "round"
    """Policy whose responses the reward learns to tell from demonstrations: `round` is the policy at the start of the
    round (Algorithm 1), `initial` the SFT policy, sampled anew in every round. With `initial` the reward keeps its
    direction when the policy passes the demonstrations (docs/methods.md)."""
    replay: float = Field(0.0, ge=0, lt=1)
    """From the second round on, the share of a round's pairs that are taken from all earlier rounds, samples and
    demonstrations; the number of pairs stays the same."""
    watched: Rows = Field(200, ge=0)
    """Validation prompts, at most, on which it is watched whether the reward still prefers demonstrations to the
    policy's samples, and how far it has moved; 0 watches nothing."""
    reward: RewardSettings = RewardSettings()
    """Reward alignment."""
    optimiser: Literal["rloo", "ppo"] = "rloo"
    """Algorithm of policy alignment: `rloo` optimises the paper's KL-regularised objective exactly, `ppo` is what the
    paper ran (needs TRL 1.12)."""
    policy: PolicyAlignmentSettings = PolicyAlignmentSettings()
    """Policy alignment."""
    ppo: PpoSettings = PpoSettings()
    """Settings of PPO; RLOO does not read them."""

    @property
    def parts(self) -> list[str]:
        """The part of the demonstrations that each round sees, as `juicer.methods.pairs.part_of` reads it."""
        rounds = self.most_rounds
        return ["all" if self.slice == "all" else f"{t + 1}/{rounds}" for t in range(rounds)]

    @property
    def most_rounds(self) -> int:
        """T; with `auto` the largest that is tried."""
        return self.auto.most if self.rounds == "auto" else self.rounds
