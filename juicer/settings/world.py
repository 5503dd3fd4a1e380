"""Settings of the quickstart world and of the tiny models that are trained in it."""

from typing import Self

from pydantic import Field, model_validator

from juicer.settings.base import Settings


class WorldSettings(Settings):
    """The generator of HH-shaped dialogues whose response quality a rule judges exactly."""

    rows: int = Field(3600, ge=100)
    """Preference rows (chosen and rejected) that the world emits as raw data."""
    good_share: float = Field(0.35, gt=0, lt=1)
    """Share of good responses in what the world's people write; a chosen response is the better of two."""
    label_noise: float = Field(0.0, ge=0, lt=0.5)
    """Share of rows whose people chose the worse of two: demonstrations of the worst modes are among the data."""


class TinyPolicySettings(Settings):
    """A GPT-NeoX (pythia's architecture) trained from scratch as a language model."""

    hidden_size: int = Field(96, ge=8)
    """Width; a multiple of `heads`."""
    layers: int = Field(3, ge=1)
    """Transformer blocks."""
    heads: int = Field(4, ge=1)
    """Attention heads."""
    context: int = Field(512, ge=64)
    """Positions."""
    vocabulary: int = Field(1024, ge=300)
    """Byte-level BPE tokens."""
    documents: int = Field(12000, ge=100)
    """Dialogues trained on (of a corpus, at most as many as it has)."""
    epochs: float = Field(1.0, gt=0)
    """Passes over them."""
    learning_rate: float = Field(2e-2, gt=0)
    """Peak learning rate, of Muon for the matrices of the blocks and of AdamW for the rest."""
    batch_size: int = Field(32, ge=1)
    """Dialogues per step."""

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size = {self.hidden_size} is no multiple of heads = {self.heads}")
        return self


class TinyScorerSettings(Settings):
    """A Llama with a score head in beaver's checkpoint format, trained on preference pairs."""

    hidden_size: int = Field(64, ge=8)
    """Width; an even multiple of `heads`, because positions turn pairs of its components."""
    layers: int = Field(2, ge=1)
    """Transformer blocks."""
    heads: int = Field(4, ge=1)
    """Attention heads."""
    pairs: int = Field(3000, ge=50)
    """Preference pairs trained on (of a corpus, at most as many as it has)."""
    epochs: float = Field(1.0, gt=0)
    """Passes over them."""
    learning_rate: float = Field(2e-3, gt=0)
    """Peak learning rate, of Muon for the matrices of the blocks and of AdamW for the rest."""
    batch_size: int = Field(32, ge=1)
    """Pairs per step."""
    label_noise: float = Field(0.1, ge=0, lt=0.5)
    """Share of pairs whose label is flipped: a real reward model is imperfect too."""

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.hidden_size % (2 * self.heads):
            raise ValueError(f"hidden_size = {self.hidden_size} is no even multiple of heads = {self.heads}")
        return self


class PretrainSettings(Settings):
    """The tiny models that stand in for pythia and beaver where there is no model hub."""

    corpus: str = "world"
    """`world`, or a local file or folder of `chosen`/`rejected` dialogues to train them on. Those whose prompts
    `curate` would choose or report on are left out."""
    policy: TinyPolicySettings = TinyPolicySettings()
    """The tiny base model."""
    scorer: TinyScorerSettings = TinyScorerSettings()
    """The tiny reward model."""
