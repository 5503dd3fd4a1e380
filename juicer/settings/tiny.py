"""Settings of the random tiny models that stand in for a recipe's real ones."""

from pydantic import Field

from juicer.settings.base import Settings


class TinySettings(Settings):
    """Random models of the architecture of the recipe's own, small enough for a test; written by `--tiny`."""

    hidden_size: int = Field(32, ge=8)
    """Width; a multiple of `heads`."""
    layers: int = Field(2, ge=1)
    """Transformer blocks."""
    heads: int = Field(4, ge=1)
    """Attention heads; where the real model shares keys and values among heads, so do these."""
    vocabulary: int = Field(600, ge=300)
    """Byte-level BPE tokens."""
