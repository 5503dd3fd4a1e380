"""Settings of the source: where demonstrations come from, and how their rows are read."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from juicer.settings.base import ALTERNATIVE, Settings
from juicer.settings.bounds import Rows
from juicer.settings.text import Commit, Line, Place, Word

WORLD = "world"
Format = Literal[
    "auto",
    "alpaca",
    "dolly",
    "hh",
    "kto",
    "messages",
    "oasst-messages",
    "oasst-tree",
    "preference",
    "prompt-response",
    "question-answer",
    "sharegpt",
    "spin",
]
MOST_SOURCES = 8
"""Files and folders of one recipe. Each is a dependency of the stage `fetch` in dvc.yaml, which has so many places."""


class RoleSettings(Settings):
    """The names that a file gives to the roles, beside the usual ones."""

    user: list[Line] = Field([])
    """Values that mean the user, for example `[customer]`."""
    assistant: list[Line] = Field([])
    """Values that mean the assistant."""
    system: list[Line] = Field([])
    """Values that mean the system."""


class ColumnsSettings(Settings):
    """The names of the columns (keys) in a file of no known format. Either prompt and response, or messages."""

    prompt: Word | None = None
    """Column of the prompt: text, or a list of messages."""
    response: Word | None = None
    """Column of the response: text, or a list of one message."""
    system: Word | None = None
    """Column of the system turn."""
    context: Word | None = None
    """Column of a text that belongs to the prompt, and is appended to it after a blank line."""
    rejected: Word | None = None
    """Column of a worse response to the same prompt."""
    messages: Word | None = None
    """Column of the list of messages, instead of prompt and response."""
    role: Word | None = None
    """Key of a message's role; null recognises the usual ones."""
    content: Word | None = None
    """Key of a message's text; null recognises the usual ones."""
    roles: RoleSettings = RoleSettings()
    """What the roles are called."""

    @property
    def named(self) -> bool:
        """Whether the columns of the prompt and the response, or of the messages, are given."""
        return self.messages is not None or self.response is not None

    @model_validator(mode="after")
    def _check_pairs(self) -> Self:
        if self.messages is not None and (self.prompt is not None or self.response is not None):
            raise ValueError("fetch.columns has messages, and prompt or response too; name one or the others")
        if (self.prompt is None) != (self.response is None):
            raise ValueError("fetch.columns needs both prompt and response, or messages")
        if self.prompt is not None and self.prompt == self.response:
            raise ValueError("fetch.columns has the same column for prompt and response; name two")
        return self


class ReadingSettings(Settings):
    """How the rows of a source are read."""

    format: Format = "auto"
    """Format of the rows; `auto` recognises it by the keys of the first row."""
    columns: ColumnsSettings = ColumnsSettings()
    """Names of the columns in a file of no known format."""
    exchange: Literal["last", "first", "all"] = "last"
    """Assistant turns that become demonstrations: the last of a dialogue, the first (as SPIN does with UltraChat), or
    all of them, a row for each."""
    roles_to_train: list[Line] | None = Field(None, min_length=1)
    """Names of roles, as the file writes them, whose turns may become demonstrations; null takes all that mean the
    assistant."""


class SourceSettings(Settings):
    """One source of a mixture."""

    path: Place
    """A file, a folder or a glob."""
    weight: float | None = Field(None, gt=0, le=1000)
    """Share of the training rows in the mixture, relative to the other weights: as many rows are kept as the
    proportions allow, and none is repeated. Null, in all sources, keeps all rows."""
    format: Format | None = None
    """Format of this source; null takes `fetch.format`."""
    columns: ColumnsSettings | None = None
    """Columns of this source; null takes `fetch.columns`."""
    exchange: Literal["last", "first", "all"] | None = None
    """Assistant turns of this source; null takes `fetch.exchange`."""


@dataclass(frozen=True)
class Source:
    """One source, with all that says how it is read."""

    path: str
    """A file, a folder or a glob; or the id of a dataset of the hub; or `world`."""
    weight: float | None
    """None where the recipe gives no weights: all rows are kept."""
    reading: ReadingSettings
    among_others: bool = False
    """Whether the recipe has other sources too."""


def _is_list(value: Any) -> str:
    return f"{ALTERNATIVE}list" if isinstance(value, list) else f"{ALTERNATIVE}path"


def _is_section(value: Any) -> str:
    return f"{ALTERNATIVE}section" if isinstance(value, (dict, SourceSettings)) else f"{ALTERNATIVE}path"


class LocationSettings(Settings):
    """Where demonstrations come from."""

    source: Annotated[
        Annotated[Place, Tag("=path")]
        | Annotated[
            list[
                Annotated[
                    Annotated[Place, Tag("=path")] | Annotated[SourceSettings, Tag("=section")],
                    Discriminator(_is_section),
                ]
            ],
            Tag("=list"),
        ],
        Discriminator(_is_list),
    ]
    """`world` (the quickstart's generator), a local file, folder or glob, a Hugging Face dataset id; or a list of local
    ones, each perhaps with a weight."""
    revision: Commit | None = None
    """Commit of the dataset, 40 hex digits; required for a Hugging Face id."""
    subset: Word | None = None
    """Configuration or data folder inside the Hugging Face dataset, for example `harmless-base`."""
    train_split: Word = "train"
    """Hugging Face split that demonstrations are taken from."""
    held_out_split: Word | None = None
    """Hugging Face split that is held out from training. Of local files, those are held out whose name has a word such
    as `test` or `valid`, and rows whose column `split` says so."""


class FetchSettings(ReadingSettings, LocationSettings):
    """Where demonstrations come from, and how they are read."""

    unusable_share: float = Field(0.05, ge=0, le=1)
    """Largest share of rows that may be unusable (no answer, an empty prompt, wrong types, ...). They are left out and
    counted; with more, the run stops. One row never stops it."""
    rows: Rows | None = Field(None, ge=1)
    """Number of training rows at this revision. Only `juicer plan` reads it, to count the rows that are scored."""
    licence: Line = "unknown"
    """Licence of the data, copied to the provenance."""

    @model_validator(mode="after")
    def _check_sources(self) -> Self:
        if isinstance(self.source, list):
            if not self.source:
                raise ValueError("fetch.source is an empty list; name a file")
            if len(self.source) > MOST_SOURCES:
                what = f"fetch.source has {len(self.source)} entries, more than {MOST_SOURCES}"
                raise ValueError(f"{what}; put the files into a folder and name that")
            if any(source.path == WORLD for source in self.sources):
                raise ValueError("fetch.source: world cannot be mixed with files")
            if len({source.weight is None for source in self.sources}) > 1:
                raise ValueError("some entries of fetch.source have a weight and some have none; give all of them one")
        return self

    @property
    def sources(self) -> list[Source]:
        """Every source, in the order of the recipe."""
        given = self.source if isinstance(self.source, list) else [self.source]
        return [self._source(each if isinstance(each, SourceSettings) else SourceSettings(path=each)) for each in given]

    def _source(self, whole: SourceSettings) -> Source:
        reading = ReadingSettings(
            format=whole.format or self.format,
            columns=whole.columns or self.columns,
            exchange=whole.exchange or self.exchange,
            roles_to_train=self.roles_to_train,
        )
        return Source(whole.path, whole.weight, reading, isinstance(self.source, list) and len(self.source) > 1)

    @property
    def is_world(self) -> bool:
        """Whether the quickstart's generator is the source."""
        return self.source == WORLD
