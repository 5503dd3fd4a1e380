"""Settings of reward models that are trained on preference pairs: the scorer that curates, the judge that evaluates."""

from typing import Literal, Self

from pydantic import Field, model_validator

from juicer.settings.base import Settings
from juicer.settings.bounds import Batch, Epochs, Rows, Seed, Tokens
from juicer.settings.rft import RewardSettings
from juicer.settings.sources import Format
from juicer.settings.text import Commit, Place
from juicer.settings.training import MicroBatch, OptimiserSettings

Role = Literal["scorer", "judge"]
ROLES: tuple[Role, ...] = ("scorer", "judge")
FOLDERS: dict[Role, str] = {"scorer": "models/preferences/scorer", "judge": "models/preferences/judge"}
"""Where the stage `preferences` writes each model: what `scorer.model` and `judge.model` name."""


class PreferenceModelSettings(RewardSettings):
    """A reward model that is trained on pairs: a trunk with a scalar head, on -log sigmoid(r(chosen) - r(rejected))."""

    share: float = Field(gt=0, le=1)
    """Share of prompts, chosen by hash, whose pairs train this model. They are on no other side: neither among the
    demonstrations, nor the validation or held-out prompts, nor the other model's pairs."""
    model: Place | None = None
    """Model that it is initialised from, without its output head (folder or Hugging Face id); null is the recipe's
    policy, before any training."""
    revision: Commit | None = None
    """Commit of that model, 40 hex digits; required for a Hugging Face id."""
    held_out_share: float = Field(0.2, gt=0, lt=1)
    """Share of its prompts, chosen by hash, that its accuracy is measured on and that it is not trained on."""
    max_tokens: Tokens = Field(512, ge=4)
    """Longest dialogue, in tokens; pairs with a longer one are left out and counted."""
    least_pairs: Rows = Field(100, ge=1)
    """Fewest training pairs; with fewer, the stage stops."""
    epochs: Epochs = Field(2.0, gt=0)
    """Passes over the training pairs."""
    batch_size: Batch = Field(16, ge=1)
    """Pairs per optimiser step."""
    micro_batch_size: MicroBatch = "auto"
    """Pairs per forward pass of one process, to save memory; as in `rft.reward`."""
    h: Literal["logistic"] = "logistic"
    """The function h of the objective: log sigmoid, the Bradley-Terry model."""
    optimiser: OptimiserSettings = OptimiserSettings(learning_rate=1e-5)
    """Optimiser and schedule."""
    lora: None = None
    """A scorer or judge is a whole model: all of its weights train."""


class PreferencesSettings(Settings):
    """Reward models from the preference pairs that the user has: `chosen` and `rejected` responses to one prompt."""

    source: Place | None = None
    """File or folder of pairs; null takes a share of the rows of `fetch`, which need a rejected response."""
    format: Format = "auto"
    """Format of that file; `auto` recognises it by the keys of the first row."""
    seed: Seed = Field(0, ge=0)
    """Seed of these models, apart from the recipe's: the measuring instrument is the same for all seeds."""
    scorer: PreferenceModelSettings | None = None
    """The model that curates demonstrations and chooses rounds, `scorer.model: models/preferences/scorer`."""
    judge: PreferenceModelSettings | None = None
    """The model that judges responses on held-out prompts and chooses nothing, `judge.model:
    models/preferences/judge`."""

    @property
    def models(self) -> dict[Role, PreferenceModelSettings]:
        """The models that are trained, in the order of their shares."""
        found: dict[Role, PreferenceModelSettings | None] = {"scorer": self.scorer, "judge": self.judge}
        return {role: model for role, model in found.items() if model is not None}

    @property
    def withheld(self) -> dict[Role, float]:
        """The shares of the rows of `fetch` that belong to these models; none where the pairs have a file of their
        own."""
        return {} if self.source is not None else {role: model.share for role, model in self.models.items()}

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        if not self.models:
            raise ValueError("preferences has neither scorer nor judge; add one, or remove the section")
        total = sum(model.share for model in self.models.values())
        if total > 1 + 1e-9:
            raise ValueError(f"the shares of preferences.scorer and judge are {total:g} together, more than 1")
        return self
