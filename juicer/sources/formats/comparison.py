"""Rows with a better and perhaps a worse dialogue: Anthropic-HH's `chosen`/`rejected`, SPIN's `real`/`generated`.

Each dialogue is text in HH's format or a list of messages.
"""

from typing import Any

from juicer.data import hh
from juicer.sources.formats.reasons import LeftOutError
from juicer.sources.formats.turns import Dialogue, TurnReader, Turns, worse_of
from juicer.sources.formats.values import Slots, Values, is_blank, is_list_of_messages, required, wrong_type


def read(values: Values, slots: Slots, reader: TurnReader) -> Dialogue:
    """The better dialogue and, if it is not empty, the worse response to the same prompt.

    Raises:
        LeftOutError: a key is missing, a dialogue does not end in an assistant turn, or the two prompts differ.
    """
    turns, untrained, why = _dialogue(slots.get("messages", ""), required(values, slots, "messages"), reader)
    worse = values.get(slots.get("rejected", ""))
    if worse is None or (turns and turns[-1]["role"] != "assistant"):
        return Dialogue(turns, 0, None, untrained, why)
    # SPIN publishes files without worse responses for its first round, before a policy has generated anything.
    empty = worse == [] or (isinstance(worse, str) and is_blank(worse))
    other = [] if empty else _dialogue(slots["rejected"], worse, reader).turns
    return Dialogue(turns, 0, worse_of(turns, other), untrained, why)


def _dialogue(key: str, value: Any, reader: TurnReader) -> Turns:
    if not isinstance(value, str | list | dict):
        raise wrong_type(key, "text or a list of messages", value)
    if not isinstance(value, str) or is_list_of_messages(value):
        return reader.read(key, value)
    if hh.ASSISTANT not in value:
        raise LeftOutError("no_assistant_turn")
    try:
        answered = hh.parse(value)
        turns = hh.parse_turns(value) if answered is None else answered[0]
    except ValueError as error:
        raise LeftOutError("text_before_first_turn") from error
    return Turns(turns if answered is None else [*turns, {"role": "assistant", "content": answered[1]}])
