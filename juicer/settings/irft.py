"""Settings of IRFT, Algorithm 2 of the paper: implicit reward learning by self-play."""

from typing import Literal

from pydantic import Field, field_validator

from juicer.settings.auto import AutoRounds, AutoSettings
from juicer.settings.base import Settings
from juicer.settings.bounds import Batch, Epochs, Rounds
from juicer.settings.training import GenerationSettings, LoraSettings, MicroBatch, OptimiserSettings


class IrftTrainingSettings(Settings):
    """K steps on the demonstration/sample pairs of one round; K = ceil(epochs * pairs / batch_size)."""

    epochs: Epochs = Field(2.0, gt=0)
    """Passes over the pairs of a round."""
    batch_size: Batch = Field(32, ge=1)
    """Pairs per optimiser step."""
    micro_batch_size: MicroBatch = "auto"
    """Pairs per forward pass of one process, to save memory. `auto` takes the largest part of the process's
    share of the batch that fits by the plan (docs/scale.md), null takes the whole share."""
    reference: Literal["round", "initial"] = "round"
    """Reference policy: `round` is the policy at the start of the round (the paper's code, SPIN), `initial` the SFT
    policy in every round."""
    h: Literal["logistic", "identity"] = "logistic"
    """The function h of the objective: `logistic` is log sigmoid, `identity` gives the raw gradient of equation (2)."""
    beta: float = Field(0.1, gt=0)
    """Temperature of the KL term: scales the log-ratios to the reference."""
    sft_weight: float = Field(0.0, ge=0)
    """Weight of the mean negative log-likelihood of the demonstration tokens, added to the loss; the paper has 0."""
    optimiser: OptimiserSettings = OptimiserSettings(name="rmsprop", learning_rate=5e-7)
    """Optimiser and schedule, restarted in every round."""
    gradient_checkpointing: bool = False
    """Whether activations are recomputed in the backward pass: slower, but with much less memory."""
    lora: LoraSettings | None = None
    """Low-rank adapters instead of full fine-tuning (the paper's 7B script: r 64, alpha 16); null trains everything.
    Without dropout: the objective compares the policy with itself, and dropout would add noise to that."""

    @field_validator("lora")
    @classmethod
    def _no_dropout(cls, given: LoraSettings | None) -> LoraSettings | None:
        if given is not None and given.dropout:
            raise ValueError(
                "dropout must be 0: the objective compares pi with itself, and dropout would add noise to it"
            )
        return given


class IrftSettings(Settings):
    """Algorithm 2: rounds of generating responses and training on the demonstration/sample pairs."""

    rounds: AutoRounds = 5
    """T, the number of rounds (generate, then train); 0 switches the method off, 1 is SPIN's iteration 0. `auto` adds
    rounds while they improve, see irft.auto; it needs `slice: all`."""
    auto: AutoSettings = AutoSettings()
    """How `rounds: auto` finds T; a number of rounds does not read it."""
    slice: Literal["split", "all"] = "split"
    """Demonstrations of a round: `split` cuts the shuffled demonstrations into T equal parts, one per round; `all` uses
    all of them in every round."""
    passes: Rounds = Field(1, ge=1)
    """With `split`, how often the rounds go through the demonstrations, which are then cut into T / passes parts."""
    sampling: GenerationSettings = GenerationSettings()
    """How the policy's responses are sampled."""
    training: IrftTrainingSettings = IrftTrainingSettings()
    """The K optimiser steps of a round."""

    @property
    def parts(self) -> list[str]:
        """The part of the demonstrations that each round sees, as `juicer.methods.pairs.part_of` reads it."""
        rounds = self.most_rounds
        count = rounds // self.passes
        return ["all" if self.slice == "all" else f"{t % count + 1}/{count}" for t in range(rounds)]

    @property
    def most_rounds(self) -> int:
        """T; with `auto` the largest that is tried."""
        return self.auto.most if self.rounds == "auto" else self.rounds
