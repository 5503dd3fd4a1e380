"""Settings of the pairwise judge: whoever says which of two responses is better, without a reward model."""

import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from juicer.settings.base import Settings
from juicer.settings.bounds import Passes, Rows, Tokens, shortened
from juicer.settings.text import SECRET, Commit, Line, Place, Word

Kind = Literal["endpoint", "model", "command"]
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _address(value: str) -> str:
    try:
        parts = urlsplit(value)
        known = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        known = False
    if not known:
        raise ValueError(f"{shortened(value)} is not an address; write it as http://127.0.0.1:8000/v1")
    if parts.username or parts.password or SECRET.search(parts.query):
        raise ValueError(
            "contains a password or key, which params.yaml and dvc.lock would keep; name a variable in key"
        )
    return value.rstrip("/")


def _variable(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(f"{shortened(value)} is not the name of a variable of the environment, such as OPENAI_API_KEY")
    return value


class PairwiseSettings(Settings):
    """A judge that sees a prompt and two responses, in both orders, and names the better one or a tie.

    Every model is compared with the control of the report.
    """

    kind: Kind
    """`endpoint` is an OpenAI-compatible server, `model` a causal language model of this machine, `command` a program
    that reads a question per line of JSON and writes an answer per line."""
    url: Annotated[Line, AfterValidator(_address)] | None = None
    """Address of the endpoint, up to `/v1`."""
    model: Place | None = None
    """Name of the endpoint's model; for `kind: model` a folder or Hugging Face id."""
    revision: Commit | None = None
    """Commit of a model of the hub, 40 hex digits."""
    key: Annotated[Word, AfterValidator(_variable)] | None = None
    """Variable of the environment that has the endpoint's key; null sends none. The key itself is never stored."""
    command: list[Line] = Field(default_factory=list, max_length=50)
    """The program and its arguments; no shell reads them."""
    rubric: Place | None = None
    """File of the project that says what makes a response better; null takes Juicer's own."""
    prompts: Rows | None = Field(None, ge=1)
    """Largest number of prompts that are judged, of the held-out ones and of the validation ones; null judges all."""
    chooses: bool = True
    """Whether it judges responses to validation prompts too, so that `choice.criteria` can ask for `judged_win_rate`.
    That doubles the questions."""
    max_tokens: Tokens = Field(300, ge=1)
    """Longest answer of an endpoint, in tokens."""
    at_a_time: Passes = Field(4, ge=1)
    """Questions that an endpoint is asked at the same time."""
    timeout: float = Field(120, gt=0, le=86_400)
    """Seconds to wait for an answer."""
    retries: Passes = Field(3, ge=0)
    """How often a question is asked again after no answer, or one without a verdict."""
    failures: float = Field(0.1, ge=0, lt=1)
    """Share of questions that may remain without a verdict; with more, the stage stops."""
    price_in: float = Field(0, ge=0, le=10_000)
    """Price of a million tokens that the endpoint reads, for the costs."""
    price_out: float = Field(0, ge=0, le=10_000)
    """Price of a million tokens that it writes."""

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        given = {
            "url": self.url,
            "model": self.model,
            "revision": self.revision,
            "key": self.key,
            "command": self.command or None,
        }
        needed = {"endpoint": ("url", "model"), "model": ("model",), "command": ("command",)}[self.kind]
        for name in needed:
            if given[name] is None:
                raise ValueError(f"pairwise.kind {self.kind} needs pairwise.{name}")
        allowed = (*needed, *{"endpoint": ("key",), "model": ("revision",), "command": ()}[self.kind])
        for name, value in given.items():
            if value is not None and name not in allowed:
                raise ValueError(f"pairwise.{name} is not used with pairwise.kind {self.kind}; remove it")
        return self
