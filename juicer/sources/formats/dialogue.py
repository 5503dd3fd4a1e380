"""Rows with one list of messages: OpenAI's `messages`, ShareGPT's `conversations`, and those of LLaMA-Factory."""

from typing import Any

from juicer.data.demonstrations import Message
from juicer.sources.formats.turns import Dialogue, TurnReader, worse_of
from juicer.sources.formats.values import Slots, Values, is_list_of_messages, required


def read(values: Values, slots: Slots, reader: TurnReader) -> Dialogue:
    """The dialogue, perhaps followed by a better and a worse answer under keys of their own.

    Raises:
        LeftOutError: a key is missing, or a value is no list of messages.
    """
    value = required(values, slots, "messages")
    turns, untrained, why = reader.read(slots["messages"], value)
    worse = values.get(slots.get("rejected", ""))
    other = None if worse is None else _answer(slots["rejected"], worse, reader)
    if "chosen" not in slots:
        return Dialogue(turns, 0, worse_of(turns, other), untrained, why)
    better = reader.read(slots["chosen"], values[slots["chosen"]])
    answered = [*turns, *better.turns]
    skipped = tuple(place + len(turns) for place in better.untrained)
    return Dialogue(answered, len(turns), worse_of(answered, other), skipped, better.why)


def _answer(key: str, value: Any, reader: TurnReader) -> list[Message]:
    """A worse answer: text, a message, or a whole dialogue."""
    if isinstance(value, str) and not is_list_of_messages(value):
        return [{"role": "assistant", "content": value}] if value else []
    return reader.read(key, value).turns
