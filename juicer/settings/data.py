"""Settings of the data stages: where demonstrations come from, how they are written as tokens, which are kept."""

from typing import Literal

from pydantic import Field

from juicer.settings.base import Settings


class FetchSettings(Settings):
    """Where demonstrations come from."""

    source: str
    """`world` (the quickstart's generator), a local file or folder, or a Hugging Face dataset id."""
    revision: str | None = None
    """Commit of the dataset; required for a Hugging Face id."""
    subset: str | None = None
    """Configuration or data folder inside the Hugging Face dataset, for example `harmless-base`."""
    train_split: str = "train"
    """Name of the Hugging Face split that demonstrations are taken from."""
    held_out_split: str | None = None
    """Name of a Hugging Face split that must stay held out. Of a folder, files with the word `test`
    in their path inside it do."""
    format: Literal["auto", "hh", "messages", "prompt-response", "spin"] = "auto"
    """Row format; `auto` recognises it from the keys of the first row."""
    exchange: Literal["last", "first"] = "last"
    """Which turn of the assistant in `messages` is the demonstration: the last, or the first (SPIN: UltraChat)."""
    rows: int | None = Field(None, ge=1)
    """Rows to train on at this revision, where known. Only a plan needs it, to count what is scored."""
    licence: str = "unknown"
    """Licence of the data, copied to the provenance."""


class TemplateSettings(Settings):
    """How a dialogue becomes tokens; every stage uses the same."""

    name: Literal["hh", "model"] = "hh"
    """`hh` is Anthropic's "\\n\\nHuman: ... \\n\\nAssistant: ..."; `model` is the tokenizer's own chat template."""
    system: str | None = None
    """Text of a system turn that is put before a dialogue without one; zephyr was trained with an empty one."""
    max_prompt_tokens: int = Field(128, ge=1)
    """Longest prompt, in tokens; a longer one is dropped by `curate`."""
    max_response_tokens: int = Field(384, ge=2)
    """Longest response, in tokens, end-of-text included; also the most that is sampled."""


class ScorerSettings(Settings):
    """The reward model that curates demonstrations and judges responses."""

    kind: Literal["beaver", "sequence-classification", "none"] = "none"
    """`beaver`: PKU-Alignment's LlamaForScore format. `none`: keep rows in the order they came."""
    model: str | None = None
    """Folder or Hugging Face id."""
    revision: str | None = None
    """Commit; required for a Hugging Face id."""
    batch_size: int = Field(32, ge=1)
    """Rows scored at once."""
    end_of_text: bool = False
    """Append end-of-text to what is scored (beaver's model card does not)."""


class CurateSettings(Settings):
    """Which demonstrations are kept."""

    keep: int | None = Field(None, ge=1)
    """Keep this many of the best training demonstrations (the paper: 10,000); null keeps all."""
    validation_share: float = Field(0.05, gt=0, lt=1)
    """Share of prompts, by hash, that choices are made on."""
    held_out_share: float = Field(0.05, ge=0, lt=1)
    """Share of prompts, by hash, that results are reported on. Not used where the source has a held-out
    split; elsewhere above 0."""
