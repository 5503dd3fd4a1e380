"""Settings of the quickstart's world and of the tiny models that are trained on it."""

from typing import Self

from pydantic import Field, model_validator

from juicer.settings.base import Settings
from juicer.settings.bounds import Batch, Epochs, GeneratedRows, Heads, Layers, Tokens, Vocabulary, Width, check_tiny
from juicer.settings.text import Place


class WorldSettings(Settings):
    """Generator of dialogues in the shape of Anthropic-HH, with a rule that gives the exact quality of a response."""

    rows: GeneratedRows = Field(3600, ge=100)
    """Number of generated rows, each with a chosen and a rejected response."""
    good_share: float = Field(0.35, gt=0, lt=1)
    """Share of good responses among those generated; each row has two, and the better one is chosen."""
    label_noise: float = Field(0.0, ge=0, lt=0.5)
    """Share of rows in which the worse response is chosen, so that demonstrations of all modes are among the data."""


class TinyPolicySettings(Settings):
    """The tiny base model: a GPT-NeoX (pythia's architecture) trained from scratch as a language model."""

    hidden_size: Width = Field(96, ge=8)
    """Width of the hidden state; a multiple of `heads`."""
    layers: Layers = Field(3, ge=1)
    """Number of transformer blocks."""
    heads: Heads = Field(4, ge=1)
    """Number of attention heads."""
    context: Tokens = Field(512, ge=64)
    """Longest sequence, in tokens."""
    vocabulary: Vocabulary = Field(1024, ge=300)
    """Tokens of the byte-level BPE tokenizer."""
    documents: GeneratedRows = Field(12000, ge=100)
    """Dialogues to train on, at most as many as the corpus has."""
    epochs: Epochs = Field(1.0, gt=0)
    """Passes over the dialogues."""
    learning_rate: float = Field(2e-2, gt=0)
    """Peak learning rate of Muon, for the matrices of the blocks, and of AdamW, for all other weights."""
    batch_size: Batch = Field(32, ge=1)
    """Dialogues per optimiser step."""

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size = {self.hidden_size} is not a multiple of heads = {self.heads}")
        check_tiny(self.hidden_size, self.layers, self.vocabulary)
        return self


class TinyScorerSettings(Settings):
    """The tiny reward model: a Llama with a score head in beaver's checkpoint format, trained on preference pairs."""

    hidden_size: Width = Field(64, ge=8)
    """Width of the hidden state; an even multiple of `heads`, because rotary positions rotate pairs of components."""
    layers: Layers = Field(2, ge=1)
    """Number of transformer blocks."""
    heads: Heads = Field(4, ge=1)
    """Number of attention heads."""
    pairs: GeneratedRows = Field(3000, ge=50)
    """Preference pairs to train on, at most as many as the corpus has."""
    epochs: Epochs = Field(1.0, gt=0)
    """Passes over the pairs."""
    learning_rate: float = Field(2e-3, gt=0)
    """Peak learning rate of Muon, for the matrices of the blocks, and of AdamW, for all other weights."""
    batch_size: Batch = Field(32, ge=1)
    """Pairs per optimiser step."""
    label_noise: float = Field(0.1, ge=0, lt=0.5)
    """Share of pairs whose label is flipped, because a real reward model is imperfect too."""

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.hidden_size % (2 * self.heads):
            raise ValueError(f"hidden_size = {self.hidden_size} is not an even multiple of heads = {self.heads}")
        check_tiny(self.hidden_size, self.layers)
        return self


class PretrainSettings(Settings):
    """The tiny models that take the place of pythia and beaver, so that no model has to be downloaded."""

    corpus: Place = "world"
    """Training data of the tiny models: `world`, or a local file or folder of `chosen`/`rejected` dialogues. Dialogues
    whose prompts `curate` puts into validation or held-out are left out."""
    policy: TinyPolicySettings = TinyPolicySettings()
    """The tiny base model."""
    scorer: TinyScorerSettings = TinyScorerSettings()
    """The tiny reward model."""
