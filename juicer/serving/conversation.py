"""Talking to a policy: responses that appear token by token, sampled as the evaluation samples them.

The same seed, model and words give the same response. Two models side by side draw with the same random numbers, so
that a difference is theirs.
"""

import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy

from juicer.data.demonstrations import Message
from juicer.data.template import Template
from juicer.runtime.errors import InputError
from juicer.serving.named import Named
from juicer.settings.compute import ComputeSettings
from juicer.settings.training import SamplingSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that make a terminal do something, or reorder what it shows; line feeds and tabs are not among them."""


def visible(text: str) -> str:
    """The text with its control characters written out, such as \\x1b, so that a terminal only shows them."""
    return _ACTING.sub(lambda found: found.group().encode("unicode-escape").decode("ascii"), text)


@dataclass(frozen=True)
class Said:
    """A response as far as it has come."""

    text: str
    tokens: int
    done: bool = False
    cut: bool = False
    """Whether it ended at the length limit."""


def _check_text(turns: Sequence[Message], name: str) -> None:
    """Refuse what no tokenizer takes: halves of characters, as bytes that are not UTF-8 become."""
    if any("\ud800" <= character <= "\udfff" for turn in turns for character in turn["content"]):
        raise InputError("the text is not valid Unicode", where=name, do="write it as UTF-8")


class Speaker:
    """A loaded model that answers.

    Attributes:
        name: a short name of the model.
        title: what it is.
        sampling: how it is sampled.
    """

    def __init__(
        self,
        name: str,
        title: str,
        policy: "PreTrainedModel",
        template: Template,
        sampling: SamplingSettings,
        context: int | None = None,
    ) -> None:
        """
        Args:
            policy: in evaluation mode.
            context: tokens that the model can attend to; None if it is not known.
        """
        self.name, self.title, self.sampling = name, title, sampling
        self._policy, self._template, self._context = policy, template, context
        self._one_at_a_time = threading.Lock()

    @classmethod
    def load(
        cls, named: Named, compute: ComputeSettings, temperature: float | None = None, top_p: float | None = None
    ) -> "Speaker":
        """Load a model, to be sampled as its recipe evaluates unless `temperature` or `top_p` say otherwise.

        Raises:
            InputError: the model or its tokenizer cannot be loaded.
        """
        from juicer.models.folder import context_of, read_config_values
        from juicer.models.loading import load_policy, load_template

        changes = {"temperature": temperature, "top_p": top_p}
        sampling = named.evaluation.sampling.model_copy(
            update={key: value for key, value in changes.items() if value is not None}
        )
        template = load_template(named.folder, named.template)
        policy = load_policy(named.folder, compute)
        return cls(named.name, named.title, policy, template, sampling, context_of(read_config_values(named.folder)))

    @property
    def longest_response(self) -> int:
        """Tokens after which a response is cut, as in training."""
        return self._template.settings.max_response_tokens

    def note(self, turns: Sequence[Message]) -> str:
        """What is unusual about a prompt; empty if nothing is."""
        _check_text(turns, self.name)
        tokens, trained = len(self._template.prompt(turns)), self._template.settings.max_prompt_tokens
        return f"{tokens} tokens of conversation; prompts in training had at most {trained}" if tokens > trained else ""

    def respond(self, turns: Sequence[Message], seed: int) -> Iterator[Said]:
        """Answer a conversation; yields the response whenever its text has grown, and at last with `done`.

        Args:
            turns: ends with a turn of the user.
            seed: together with the number of turns it determines the random numbers.

        Raises:
            InputError: a text is not valid Unicode, the user's holds the mark of a turn, the template refuses the
                turns, or the conversation is longer than the model's context.
        """
        _check_text(turns, self.name)
        for turn in turns:
            # What the model itself has said before was not written by the user, who could not mend it.
            said = turn["content"] if turn["role"] != "assistant" else ""
            if (mark := self._template.reserved_in(said)) is not None:
                what = f"the text holds {mark!r}, which this model reads as the mark of a turn"
                raise InputError(what, where=self.name, do="write it differently")
        prompt = self._template.prompt(turns)
        limit = self.longest_response
        if self._context is not None and len(prompt) + limit > self._context:
            limit = self._context - len(prompt)
        if limit < 1:
            what = f"the conversation has {len(prompt)} tokens, and the model takes {self._context}"
            raise InputError(what, where=self.name, do="begin a new one")
        with self._one_at_a_time:
            yield from self._said(prompt, limit, seed, len(turns))

    def _said(self, prompt: list[int], limit: int, seed: int, turn: int) -> Iterator[Said]:
        tokens: list[int] = []
        before = ""
        for token in self._tokens(prompt, limit, seed, turn):
            tokens.append(token)
            # A character of several bytes may have come in part, and at its end white space is not yet shown.
            text = self._template.decode(tokens).rstrip("\ufffd")
            if text != before:
                before = text
                yield Said(text, len(tokens))
        cut = tokens[-1] not in self._template.ends
        yield Said(self._template.decode(tokens), len(tokens), done=True, cut=cut)

    def _tokens(self, prompt: list[int], limit: int, seed: int, turn: int) -> Iterator[int]:
        import torch

        from juicer.models.forward import logits_of
        from juicer.sampling.decoding import SampleRequest, draw, seed_of
        from juicer.sampling.steppers import stepper_for

        key = seed_of(seed, SampleRequest("chat", turn, prompt))
        numbers = torch.from_numpy(numpy.random.Generator(numpy.random.Philox(key=key)).random(limit))
        numbers = numbers.to(self._policy.device)
        with torch.inference_mode():
            stepper = stepper_for(self._policy, self._template.padding, [prompt], limit)
            given = stepper.first()
        for place in range(limit):
            # Entered anew for each token: between two, another thread or another model may compute.
            with torch.inference_mode():
                chosen = draw(logits_of(self._policy, given).log_softmax(-1), numbers[place : place + 1], self.sampling)
                token = int(chosen[0])
            yield token
            if token in self._template.ends or place + 1 == limit:
                return
            with torch.inference_mode():
                given = stepper.next(chosen)


def side_by_side(responses: Sequence[Iterator[Said]]) -> Iterator[tuple[int, Said]]:
    """Several responses in turns, token by token, each with its place; one that has ended is left out."""
    waiting = dict(enumerate(responses))
    while waiting:
        for place, response in list(waiting.items()):
            said = next(response, None)
            if said is None:
                del waiting[place]
            else:
                yield place, said
