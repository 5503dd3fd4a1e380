"""Other people's rows to our schema: Anthropic-HH, `messages`, `prompt` + `response`, and SPIN's `real`/`generated`.

A row of the wrong shape stops the work with its place; a row of the right shape that cannot be used (no assistant
turn, two different prompts, ...) becomes a typed `Malformed`, which the caller counts and shows.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal

from juicer.data.demonstrations import Demonstration, Message
from juicer.data.sources import Row
from juicer.runtime.errors import InputError

Format = Literal["hh", "messages", "prompt-response", "spin"]
Reason = Literal[
    "no_assistant_turn",
    "different_prompts",
    "empty_prompt",
    "empty_response",
    "prompt_not_from_user",
    "text_before_first_turn",
    "invalid_text",
]

EXPLANATIONS: dict[Reason, str] = {
    "no_assistant_turn": "the dialogue does not end in an assistant turn",
    "different_prompts": "chosen and rejected have different prompts",
    "empty_prompt": "the prompt is empty",
    "empty_response": "the response is empty",
    "prompt_not_from_user": "the prompt does not end in a user turn",
    "text_before_first_turn": "text stands before the first turn",
    "invalid_text": "the text holds half of a surrogate pair, which is no character",
}
KNOWN = "chosen (and rejected), real (and generated), messages, or prompt with response or completion"

WORSE: dict[Format, str] = {"hh": "rejected", "spin": "generated"}
"""Where a row of each format may have a worse response."""

_HUMAN, _ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
_TURN = re.compile(r"\n\n(Human|Assistant):")


@dataclass(frozen=True)
class Malformed:
    """A row that cannot be used: why, and where it stands."""

    reason: Reason
    where: str

    def __str__(self) -> str:
        return f"{self.where}: {EXPLANATIONS[self.reason]}"


class _MalformedError(Exception):
    def __init__(self, reason: Reason) -> None:
        self.reason: Reason = reason
        super().__init__(reason)


def recognise(row: Row) -> Format:
    """The format of a row, by its keys.

    Raises:
        InputError: it has the keys of none.
    """
    keys = row.values.keys()
    if "chosen" in keys:
        return "hh"
    if "real" in keys:
        return "spin"
    if "messages" in keys:
        return "messages"
    if "prompt" in keys and ("response" in keys or "completion" in keys):
        return "prompt-response"
    found = ", ".join(sorted(keys)) or "nothing"
    raise InputError(f"no format that we know; the row has {found}", where=row.where, do=f"known: {KNOWN}")


def convert(
    row: Row, format_: Format, *, held_out: bool = False, first_exchange: bool = False
) -> Demonstration | Malformed:
    """One row in our schema.

    Args:
        row: the raw row.
        format_: what `recognise` found, or what the recipe says.
        held_out: the source keeps the row out of training.
        first_exchange: of `messages`, take the assistant's first turn and drop what follows.

    Raises:
        InputError: a key is missing or a value has the wrong type; names the row's place.
    """
    try:
        if format_ == "hh":
            prompt, response, rejected = _pair(row, "chosen", WORSE[format_])
        elif format_ == "spin":
            prompt, response, rejected = _pair(row, "real", WORSE[format_])
        elif format_ == "messages":
            turns = _messages(row, "messages")
            (prompt, response), rejected = _answered(_first(turns) if first_exchange else turns), None
        else:
            prompt, response, rejected = _prompt_response(row)
        return _checked(prompt, response, rejected, held_out)
    except _MalformedError as malformed:
        return Malformed(malformed.reason, row.where)


def parse_hh(dialogue: str) -> tuple[list[Message], str]:
    """Split an Anthropic-HH dialogue into prompt and response.

    The prompt is everything up to and including the last "\\n\\nAssistant:", the response is the rest; the template's
    blanks around each turn are removed.
    """
    before, marker, response = dialogue.rpartition(_ASSISTANT)
    if not marker or _HUMAN in response:
        raise _MalformedError("no_assistant_turn")
    return _turns(before), response.strip()


def _turns(text: str) -> list[Message]:
    if not text.startswith("\n\n"):
        text = "\n\n" + text.lstrip("\n")
    first, *rest = _TURN.split(text)
    if first.strip():
        raise _MalformedError("text_before_first_turn")
    return [
        {"role": "user" if speaker == "Human" else "assistant", "content": content.strip()}
        for speaker, content in zip(rest[::2], rest[1::2], strict=True)
    ]


def _pair(row: Row, better: str, worse: str) -> tuple[list[Message], str, str | None]:
    """A demonstration and, where there is one that says anything, a worse response to the same prompt."""
    prompt, response = _dialogue(row, better)
    value = row.values.get(worse)
    if (value.strip() if isinstance(value, str) else value) in (None, "", []):
        return prompt, response, None
    other_prompt, other = _dialogue(row, worse)
    if not other:
        # SPIN's own files are such before its first round: who demonstrates has not been answered by a policy yet.
        return prompt, response, None
    if prompt != other_prompt:
        raise _MalformedError("different_prompts")
    return prompt, response, other


def _dialogue(row: Row, key: str) -> tuple[list[Message], str]:
    value = _value(row, key)
    return parse_hh(value) if isinstance(value, str) else _answered(_messages(row, key))


def _prompt_response(row: Row) -> tuple[list[Message], str, None]:
    key = "response" if "response" in row.values else "completion"
    if key not in row.values:
        raise _missing(row, "'response' (or 'completion')")
    value = _value(row, key)
    if isinstance(value, str):
        response = value.strip()
    else:
        turns = _messages(row, key)
        if len(turns) != 1 or turns[0]["role"] != "assistant":
            raise _MalformedError("no_assistant_turn")
        response = turns[0]["content"]
    prompt = _value(row, "prompt")
    if not isinstance(prompt, str):
        return _messages(row, "prompt"), response, None
    if prompt.lstrip().startswith("Human:") and prompt.rstrip().endswith(_ASSISTANT):
        return _turns(prompt.rstrip().removesuffix(_ASSISTANT)), response, None
    return [{"role": "user", "content": prompt.strip()}], response, None


def _first(turns: list[Message]) -> list[Message]:
    """Everything up to and including the assistant's first turn."""
    ends = [place for place, turn in enumerate(turns, 1) if turn["role"] == "assistant"]
    return turns[: ends[0]] if ends else turns


def _answered(turns: list[Message]) -> tuple[list[Message], str]:
    if not turns or turns[-1]["role"] != "assistant":
        raise _MalformedError("no_assistant_turn")
    return turns[:-1], turns[-1]["content"]


def _checked(prompt: list[Message], response: str, rejected: str | None, held_out: bool) -> Demonstration:
    if not prompt or (prompt[-1]["role"] == "user" and not prompt[-1]["content"]):
        raise _MalformedError("empty_prompt")
    if prompt[-1]["role"] != "user":
        raise _MalformedError("prompt_not_from_user")
    if not response:
        raise _MalformedError("empty_response")
    try:
        (rejected or "").encode()
        return Demonstration.make(prompt, response, rejected=rejected, held_out=held_out)
    except UnicodeEncodeError as error:
        raise _MalformedError("invalid_text") from error


def _value(row: Row, key: str) -> Any:
    if key not in row.values:
        raise _missing(row, repr(key))
    return row.values[key]


def _missing(row: Row, key: str) -> InputError:
    found = ", ".join(sorted(row.values)) or "nothing"
    return InputError(f"the row has no {key}, only {found}", where=row.where)


def _messages(row: Row, key: str) -> list[Message]:
    value = _value(row, key)
    if not isinstance(value, list):
        raise InputError(f"{key!r} must be text or a list of messages, not {type(value).__name__}", where=row.where)
    turns: list[Message] = []
    for number, turn in enumerate(value, 1):
        role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, dict) else (None, None)
        if role not in ("system", "user", "assistant") or not isinstance(content, str):
            what = f"message {number} of {key!r} must have a role (system, user or assistant) and a content (text)"
            raise InputError(what, where=row.where)
        turns.append({"role": role, "content": content.strip()})
    return turns
