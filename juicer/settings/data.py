"""Settings of the data stages after `fetch`: chat template, scorer and curation."""

import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from juicer.settings.base import Settings
from juicer.settings.bounds import Batch, Rows, Tokens, shortened
from juicer.settings.text import Commit, Line, Place, Text, Word

GIVEN = ("messages", "tools", "documents", "add_generation_prompt", "strftime_now")
"""Variables of a chat template that are always given."""


def _day(value: Any) -> Any:
    """A date as text: YAML reads 2025-01-01 as a date unless it is quoted."""
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return value.isoformat()
    try:
        if isinstance(value, str) and datetime.date.fromisoformat(value).isoformat() == value:
            return value
    except ValueError:
        pass
    raise ValueError(f"{shortened(value)} is not a date; write it as 2025-01-01")


class TemplateSettings(Settings):
    """How a dialogue becomes tokens, in every stage."""

    name: Literal["hh", "model"] = "hh"
    """`hh` is Anthropic's "\\n\\nHuman: ... \\n\\nAssistant: ..."; `model` is the tokenizer's own chat template."""
    system: Text | None = None
    """Text of a system turn that is added to dialogues without one; null adds none. Zephyr was trained with an empty
    one."""
    arguments: dict[Word, bool | int | float | Line] = Field({}, max_length=20)
    """Variables of the chat template with values other than its own, for example `{enable_thinking: false}`."""
    date: Annotated[str, BeforeValidator(_day)] = "2025-01-01"
    """The day that a chat template gets when it asks for today's, so that the same recipe gives the same tokens on
    every day."""
    max_prompt_tokens: Tokens = Field(128, ge=1)
    """Longest prompt, in tokens; `curate` drops rows with a longer one."""
    max_response_tokens: Tokens = Field(384, ge=2)
    """Longest response, in tokens including end-of-text; `curate` drops rows with a longer one, and sampling stops
    there."""

    @field_validator("arguments")
    @classmethod
    def _check_names(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        for name in arguments:
            if not name.isidentifier():
                raise ValueError(f"{shortened(name)} is not the name of a variable")
            if name in GIVEN:
                raise ValueError(f"{name} is given by Juicer; choose from the template's other variables")
        return arguments

    @model_validator(mode="after")
    def _check_arguments(self) -> Self:
        if self.arguments and self.name == "hh":
            raise ValueError("template.arguments are for a model's own chat template; set template.name to model")
        return self


class ScorerSettings(Settings):
    """The reward model that curates demonstrations and judges responses."""

    kind: Literal["beaver", "sequence-classification", "none"] = "none"
    """Checkpoint format: `beaver` is PKU-Alignment's LlamaForScore, `sequence-classification` is transformers' with one
    label; `none` scores nothing and keeps rows in the order of the source."""
    model: Place | None = None
    """Folder or Hugging Face id of the reward model."""
    revision: Commit | None = None
    """Commit of the reward model, 40 hex digits; required for a Hugging Face id."""
    batch_size: Batch = Field(32, ge=1)
    """Dialogues per forward pass."""
    end_of_text: bool = False
    """Whether end-of-text is appended to a scored dialogue (beaver's model card does not)."""
    pairs: Literal["auto"] | bool = "auto"
    """Whether a sequence classifier gets prompt and response as a pair of texts, with its segments: `auto` does so for
    encoders (BERT, DeBERTa, ...) without a chat template."""
    accept_chance: bool = False
    """Whether a model is used that was trained here on pairs (`preferences`) and is no better than chance on held-out
    ones; otherwise it is refused."""


class JudgeSettings(ScorerSettings):
    """A reward model that judges the evaluated responses beside the scorer, and chooses nothing: neither demonstrations
    nor rounds nor learning rates."""

    kind: Literal["beaver", "sequence-classification", "none"] = "none"
    """Checkpoint format, as `scorer.kind`; `none` judges nothing."""


class CurateSettings(Settings):
    """Which demonstrations are kept."""

    keep: Rows | None = Field(None, ge=1)
    """Number of training demonstrations to keep, the best by the scorer (the paper: 10,000); null keeps all."""
    validation_share: float = Field(0.05, gt=0, lt=1)
    """Share of prompts, chosen by hash, on which rounds and learning rates are selected."""
    held_out_share: float = Field(0.05, ge=0, lt=1)
    """Share of prompts, chosen by hash, on which results are reported. Not used if the source holds out rows itself;
    must be above 0 otherwise."""
