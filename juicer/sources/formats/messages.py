"""Rows with one list of messages, such as UltraChat's: an assistant turn of it is the response."""

from juicer.data.demonstrations import Message
from juicer.sources.files import Row
from juicer.sources.formats.rows import Answered, answered, messages_of


def read(row: Row, *, first_exchange: bool) -> Answered:
    """The dialogue up to its last assistant turn, which has to be its last turn.

    Args:
        first_exchange: take the assistant's first turn instead, and drop what follows.

    Raises:
        MalformedError: the dialogue does not end in an assistant turn.
        InputError: there is no list of messages under `messages`.
    """
    turns = messages_of(row, "messages")
    return answered(_first(turns) if first_exchange else turns)


def _first(turns: list[Message]) -> list[Message]:
    """Everything up to and including the assistant's first turn."""
    ends = [place for place, turn in enumerate(turns, 1) if turn["role"] == "assistant"]
    return turns[: ends[0]] if ends else turns
