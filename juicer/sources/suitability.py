"""Whether a demonstration reaches the policy as it is: its template and tokenizer keep every character of it.

A special token inside a text would be read as that token, so that a response would end there, or a user's text would
begin a turn. A template may refuse a dialogue or change it; a tokenizer may lack characters. No row is repaired.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from juicer.data.demonstrations import Message
from juicer.data.template import Template
from juicer.runtime.errors import InputError

REFUSED, MARKUP, BY_TEMPLATE, BY_TOKENIZER = (
    "refused_by_template",
    "markup_in_text",
    "changed_by_template",
    "changed_by_tokenizer",
)


@dataclass(frozen=True)
class Unsuitable:
    """Why a row cannot be used."""

    reason: str
    """One of the names above."""
    what: str
    """What is wrong, as a clause."""


@dataclass(frozen=True)
class Rendered:
    """A demonstration as the template renders it."""

    start: str
    """The prompt."""
    rest: str
    """The response, with all that the template writes after the prompt."""
    response: str
    """The response alone."""
    stripped: bool = False
    """Whether the template strips white space around the response."""


def rendered(template: Template, prompt: Sequence[Message], response: str) -> Rendered | Unsuitable:
    """A demonstration under the template, or why that is not the demonstration itself."""
    for message in prompt:
        if (found := template.reserved_in(message["content"])) is not None:
            return Unsuitable(MARKUP, f"the {message['role']}'s text holds {found!r}, which is read as markup")
    if (found := template.reserved_in(response)) is not None:
        return Unsuitable(MARKUP, f"the response holds {found!r}, which is read as markup")
    try:
        start = template.render_prompt(prompt)
        rest = template.render_response(prompt, response, start)
    except InputError as error:
        return Unsuitable(REFUSED, error.what)
    for message in template.turns(prompt):
        # Templates leave thoughts out of the assistant's earlier turns.
        if message["role"] != "assistant" and message["content"].strip() not in start:
            return Unsuitable(BY_TEMPLATE, f"the chat template does not render the {message['role']}'s text as it is")
    written = template.answer_in(rest)
    if written is None or written.strip() != response.strip():
        return Unsuitable(BY_TEMPLATE, "the chat template does not render the response as it is")
    return Rendered(start, rest, response, stripped=written != response)


def survives(template: Template, tokens: Sequence[int], response: str) -> bool:
    """Whether `tokens`, those of `response`, spell it. Accents may be composed: many tokenizers normalise to NFC."""
    found, text = template.decode(tokens), response.strip()
    return found == text or unicodedata.normalize("NFC", found) == unicodedata.normalize("NFC", text)
