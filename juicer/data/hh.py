"""Anthropic-HH's text format, "\\n\\nHuman: ...\\n\\nAssistant: ...": its marks, chat template, parser and writer.

Nothing else in the project spells these marks out.
"""

import re

from juicer.data.demonstrations import Message

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
TURNS = (HUMAN, ASSISTANT)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '\\n\\nHuman: ' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ '\\n\\nAssistant: ' + message['content'] }}"
    "{% if loop.last %}{{ eos_token }}{% endif %}"
    "{% else %}{{ '\\n\\n' + message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n\\nAssistant:' }}{% endif %}"
)
"""The format as a Jinja chat template: a system turn has no mark, and an answered dialogue ends in end-of-text."""
_TURN = re.compile(r"\n\n(Human|Assistant):")
_BEFORE = {"user": f"{HUMAN} ", "assistant": f"{ASSISTANT} ", "system": "\n\n"}


def render(messages: list[Message]) -> str:
    """The text of a dialogue, as `CHAT_TEMPLATE` renders it but without end-of-text."""
    return "".join(_BEFORE[message["role"]] + message["content"] for message in messages)


def parse(dialogue: str) -> tuple[list[Message], str] | None:
    """Split a dialogue into its prompt and the assistant's last turn.

    The prompt is everything before the last "\\n\\nAssistant:", the response is the rest. White space around each turn
    is removed.

    Returns:
        The prompt's turns and the response; None if the dialogue does not end in an assistant turn.

    Raises:
        ValueError: as `parse_turns`.
    """
    before, mark, response = dialogue.rpartition(ASSISTANT)
    if not mark or HUMAN in response:
        return None
    return parse_turns(before), response.strip()


def is_prompt(text: str) -> bool:
    """Whether a text is a prompt in this format: it starts with a human turn and ends where the assistant answers."""
    return text.lstrip().startswith(HUMAN.lstrip()) and text.rstrip().endswith(ASSISTANT)


def parse_prompt(text: str) -> list[Message]:
    """The turns of a text of which `is_prompt` is true.

    Raises:
        ValueError: as `parse_turns`.
    """
    return parse_turns(text.rstrip().removesuffix(ASSISTANT))


def parse_turns(text: str) -> list[Message]:
    """The turns of a text, without the white space around them. The blank lines before the first mark may be missing.

    Raises:
        ValueError: there is text before the first mark.
    """
    if not text.startswith("\n\n"):
        text = "\n\n" + text.lstrip("\n")
    first, *rest = _TURN.split(text)
    if first.strip():
        raise ValueError("there is text before the first turn")
    return [
        {"role": "user" if speaker == "Human" else "assistant", "content": content.strip()}
        for speaker, content in zip(rest[::2], rest[1::2], strict=True)
    ]
