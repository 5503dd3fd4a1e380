"""What the readers of all formats share: values of a row, lists of messages, and the reasons to reject a row."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from juicer.data.demonstrations import Message
from juicer.runtime.errors import InputError
from juicer.sources.files import Row

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
    "text_before_first_turn": "there is text before the first turn",
    "invalid_text": "the text contains an unpaired surrogate, which UTF-8 cannot encode",
}


class Answered(NamedTuple):
    """What a reader makes of a row."""

    prompt: list[Message]
    response: str
    rejected: str | None = None
    """A worse response to the same prompt; None if the row has none."""


@dataclass(frozen=True)
class Malformed:
    """A row that cannot be used: the reason, and the row's place."""

    reason: Reason
    where: str

    def __str__(self) -> str:
        return f"{self.where}: {EXPLANATIONS[self.reason]}"


class MalformedError(Exception):
    """Raised by a reader for a row that cannot be used; `convert` turns it into `Malformed`."""

    def __init__(self, reason: Reason) -> None:
        self.reason: Reason = reason
        super().__init__(reason)


def value_of(row: Row, key: str) -> Any:
    """The value under `key`.

    Raises:
        InputError: the row has no such key; names its place and its keys.
    """
    if key not in row.values:
        raise missing(row, repr(key))
    return row.values[key]


def missing(row: Row, key: str) -> InputError:
    """The error for a row without `key`."""
    return InputError(f"the row has no {key}, only {keys_of(row)}", where=row.where)


def keys_of(row: Row) -> str:
    """The row's keys, for a message."""
    names = [name if len(name) <= 40 else f"{name[:37]}..." for name in sorted(map(str, row.values))]
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "") or "nothing"


def messages_of(row: Row, key: str) -> list[Message]:
    """The list of messages under `key`, without the white space around each content.

    Raises:
        InputError: the key is missing, or its value is not a list of messages; names the row's place.
    """
    value = value_of(row, key)
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


def answered(turns: list[Message]) -> Answered:
    """Messages whose last turn is the response.

    Raises:
        MalformedError: the last turn is not the assistant's.
    """
    if not turns or turns[-1]["role"] != "assistant":
        raise MalformedError("no_assistant_turn")
    return Answered(turns[:-1], turns[-1]["content"])
