"""Settings of IRFT, Algorithm 2 of the paper: implicit reward learning by self-play."""

from typing import Literal

from pydantic import Field

from juicer.settings.base import Settings
from juicer.settings.training import GenerationSettings, LoraSettings, OptimiserSettings


class IrftTrainingSettings(Settings):
    """K steps on the demonstration/sample pairs of one round; K = ceil(epochs * pairs / batch_size)."""

    epochs: float = Field(2.0, gt=0)
    """Passes over the pairs of a round."""
    batch_size: int = Field(32, ge=1)
    """Pairs per optimiser step."""
    micro_batch_size: int | None = Field(None, ge=1)
    """Pairs per forward pass of a process; null is its whole share of the batch."""
    reference: Literal["round", "initial"] = "round"
    """`round`: the policy at the round's start (the paper's code, SPIN); `initial`: the SFT policy for all rounds."""
    h: Literal["logistic", "identity"] = "logistic"
    """`logistic`: log sigmoid; `identity`: the raw gradient of equation (2)."""
    beta: float = Field(0.1, gt=0)
    """KL temperature."""
    sft_weight: float = Field(0.0, ge=0)
    """Weight of the mean negative log-likelihood of the demonstration tokens, added to the loss; the paper has 0."""
    optimiser: OptimiserSettings = OptimiserSettings(name="rmsprop", learning_rate=5e-7)
    """Optimiser and schedule, restarted every round."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: slower, much less memory."""
    lora: LoraSettings | None = None
    """Adapters instead of full fine-tuning (the paper's 7B script: r 64, alpha 16)."""


class IrftSettings(Settings):
    """Algorithm 2."""

    rounds: int = Field(5, ge=0)
    """T, the number of generate/train rounds; 0 switches the method off. 1 is SPIN's iteration 0."""
    slice: Literal["split", "all"] = "split"
    """`split`: round t gets the t-th T-th of the shuffled demonstrations; `all`: every round sees all."""
    passes: int = Field(1, ge=1)
    """With `split`, times that the rounds go through the demonstrations: they are cut into T / passes parts."""
    sampling: GenerationSettings = GenerationSettings()
    """How the policy's own responses are sampled."""
    training: IrftTrainingSettings = IrftTrainingSettings()
    """The K steps of a round."""

    @property
    def parts(self) -> list[str]:
        """The part of the demonstrations that each round sees, as `juicer.data.pairs.part_of` reads it."""
        count = self.rounds // self.passes
        return ["all" if self.slice == "all" else f"{t % count + 1}/{count}" for t in range(self.rounds)]
