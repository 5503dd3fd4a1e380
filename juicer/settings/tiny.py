"""Settings of the random tiny models that replace a recipe's real models under `--tiny`."""

from pydantic import Field

from juicer.settings.base import Settings
from juicer.settings.bounds import Heads, Layers, Vocabulary, Width


class TinySettings(Settings):
    """Random models of the same architecture as the recipe's, small enough for a test. `--tiny` adds this section."""

    hidden_size: Width = Field(32, ge=8)
    """Width of the hidden state; a multiple of `heads`."""
    layers: Layers = Field(2, ge=1)
    """Number of transformer blocks."""
    heads: Heads = Field(4, ge=1)
    """Number of attention heads; heads share keys and values as in the real model."""
    vocabulary: Vocabulary = Field(600, ge=300)
    """Tokens of the byte-level BPE tokenizer."""
