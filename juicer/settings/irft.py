"""Settings of IRFT, Algorithm 2 of the paper: implicit reward learning by self-play."""

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from juicer.settings.auto import AutoRounds, AutoSettings
from juicer.settings.base import Settings
from juicer.settings.bounds import Batch, Epochs, Rounds, Weight
from juicer.settings.training import GenerationSettings, LoraSettings, MicroBatch, OptimiserSettings

Objective = Literal["logistic", "identity", "space", "bernoulli", "brier", "hinge", "kliep", "lsif", "spif"]
ABSOLUTE: tuple[Objective, ...] = ("space", "bernoulli", "brier", "hinge", "kliep", "lsif", "spif")
"""Objectives of the two rewards themselves, not of their difference: they estimate how much likelier a response is
among demonstrations than among samples, so the reference has to be the policy that sampled."""
Contrast = Literal["mean", "best"]


class IrftTrainingSettings(Settings):
    """K steps on the demonstrations of one round and their samples; K = ceil(epochs * demonstrations / batch_size)."""

    epochs: Epochs = Field(2.0, gt=0)
    """Passes over the demonstrations of a round, each with its samples."""
    batch_size: Batch = Field(32, ge=1)
    """Demonstrations per optimiser step."""
    micro_batch_size: MicroBatch = "auto"
    """Demonstrations per forward pass of one process, to save memory. `auto` takes the largest part of the process's
    share of the batch that fits by the plan (docs/scale.md), null takes the whole share."""
    reference: Literal["round", "initial"] = "round"
    """Reference policy: `round` is the policy at the start of the round (the paper's code, SPIN), `initial` the SFT
    policy in every round."""
    objective: Objective = "logistic"
    """What is minimised, as a function of the rewards beta log(pi / ref) of demonstration and sample (docs/methods.md):
    `logistic` is the paper's (and SPIN's) -log sigmoid of their difference, `identity` the raw gradient of equation
    (2); `space` is noise-contrastive (SPACE); `bernoulli`, `brier`, `hinge`, `kliep` and `lsif` are GSIL's; `spif`
    bounds the reward (chi-squared)."""
    contrast: Contrast = "mean"
    """With several samples of a demonstration (`irft.sampling.samples_per_prompt`): `mean` averages the loss over them,
    `best` takes the one whose reward is the highest at that step."""
    beta: Weight = Field(0.1, gt=0)
    """Temperature of the KL term: scales the log-ratios to the reference."""
    sft_weight: Weight = Field(0.0, ge=0)
    """Weight of the mean negative log-likelihood of the demonstration tokens, added to the loss; the paper has 0."""
    optimiser: OptimiserSettings = OptimiserSettings(name="rmsprop", learning_rate=5e-7)
    """Optimiser and schedule, restarted in every round."""
    gradient_checkpointing: bool = False
    """Whether activations are recomputed in the backward pass: slower, but with much less memory."""
    lora: LoraSettings | None = None
    """Low-rank adapters instead of full fine-tuning (the paper's 7B script: r 64, alpha 16); null trains everything.
    Without dropout: the objective compares the policy with itself, and dropout would add noise to that."""

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, values: Any) -> Any:
        if isinstance(values, dict) and "h" in values:
            raise ValueError("h is now called objective; write objective: logistic or objective: identity")
        return values

    @model_validator(mode="after")
    def _has_its_reference(self) -> Self:
        if self.objective not in ABSOLUTE:
            return self
        # Such a reward is the log-ratio to the policy that sampled, which is then not the reference.
        if self.reference == "initial":
            raise ValueError(
                f"objective {self.objective} compares with the policy that sampled, but reference is initial; set "
                "reference to round, or objective to logistic or identity"
            )
        if self.contrast == "best":
            raise ValueError(
                f"objective {self.objective} needs samples of the reference as they come, but contrast is best, which "
                "selects; set contrast to mean, or objective to logistic or identity"
            )
        return self

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
    replay: float = Field(0.0, ge=0, lt=1)
    """From the second round on, the share of a round's contrasts (a demonstration and its samples) that are taken from
    all earlier rounds; the number of contrasts stays the same."""
    training: IrftTrainingSettings = IrftTrainingSettings()
    """The K optimiser steps of a round."""

    @model_validator(mode="after")
    def _samples_its_reference(self) -> Self:
        objective, sampling = self.training.objective, self.sampling
        if objective not in ABSOLUTE or not self.rounds:
            return self
        if self.replay:
            raise ValueError(
                f"training.objective {objective} needs samples of the reference, but replay takes some of earlier "
                "policies; set replay to 0, or the objective to logistic or identity"
            )
        if sampling.temperature != 1 or sampling.top_p != 1:
            raise ValueError(
                f"training.objective {objective} needs samples drawn with the reference's own probabilities, which "
                "another temperature or top_p excludes; set sampling.temperature and sampling.top_p to 1"
            )
        return self

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
