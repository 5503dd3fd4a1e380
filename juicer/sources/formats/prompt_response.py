"""Rows with a prompt and a response under keys of their own: Alpaca, Dolly, questions and answers, TRL's prompts.

Prompt and response are text or messages; a prompt may be HH's text. A better response may have a worse one beside it.
"""

from typing import Any

from juicer.data import hh
from juicer.data.demonstrations import Message
from juicer.sources.formats.reasons import LeftOutError
from juicer.sources.formats.turns import Dialogue, TurnReader, Turns, same, worse_of
from juicer.sources.formats.values import (
    Slots,
    Values,
    is_list_of_messages,
    joined,
    parsed,
    required,
    text_of,
    wrong_type,
)


def read(values: Values, slots: Slots, reader: TurnReader) -> Dialogue:
    """The history, the prompt with its context, and the response.

    Raises:
        LeftOutError: a key is missing, or a value has the wrong type.
    """
    given, answer = required(values, slots, "prompt"), required(values, slots, "response")
    past = _history(slots.get("history", ""), values.get(slots.get("history", ""), []), reader)
    prompt = _prompt(slots["prompt"], given, reader)
    if context := text_of(values, slots, "context"):
        prompt = _with_context(prompt, context)
    response = _response(slots["response"], answer, reader)
    worse = values.get(slots.get("rejected", ""))
    rejected = None if worse is None else _response(slots["rejected"], worse, reader).turns
    if response.turns and response.turns[0]["role"] != "assistant":
        before = _end_of(prompt, response.turns)
        return Dialogue(response.turns, before, worse_of(response.turns, rejected), response.untrained, response.why)
    turns = [*past, *prompt, *response.turns]
    before = len(past) + len(prompt)
    untrained = tuple(place + before for place in response.untrained)
    # The history's answers are demonstrations of the file's own; turns of a prompt that is a dialogue are not.
    return Dialogue(turns, before if not past else 0, worse_of(turns, rejected), untrained, response.why)


def _prompt(key: str, value: Any, reader: TurnReader) -> list[Message]:
    if not isinstance(value, str) or is_list_of_messages(value):
        return _messages(key, value, reader).turns
    if not hh.is_prompt(value):
        return [{"role": "user", "content": value}]
    try:
        return hh.parse_prompt(value)
    except ValueError as error:
        raise LeftOutError("text_before_first_turn") from error


def _with_context(prompt: list[Message], context: str) -> list[Message]:
    if not prompt or prompt[-1]["role"] != "user":
        return prompt
    return [*prompt[:-1], {"role": "user", "content": joined(prompt[-1]["content"], context)}]


def _response(key: str, value: Any, reader: TurnReader) -> Turns:
    if isinstance(value, str) and not is_list_of_messages(value):
        return Turns([{"role": "assistant", "content": value}])
    return _messages(key, value, reader)


def _messages(key: str, value: Any, reader: TurnReader) -> Turns:
    if not isinstance(value, list | dict | str):
        raise wrong_type(key, "text or a list of messages", value)
    return reader.read(key, value)


def _history(key: str, value: Any, reader: TurnReader) -> list[Message]:
    """The turns before the prompt: pairs of a question and an answer, or messages."""
    if value in ([], ""):
        return []
    past = parsed(key, value)
    if isinstance(past[0], dict):
        return reader.read(key, past).turns
    turns: list[Message] = []
    for pair in past:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise wrong_type(key, "a list of pairs of texts", pair)
        turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return turns


def _end_of(prompt: list[Message], whole: list[Message]) -> int:
    """Where the prompt ends in a response that is a whole dialogue, as UltraFeedback's: at its beginning or its end."""
    starts = (0, 1, len(whole) - 1 - len(prompt))
    ends = [start + len(prompt) for start in starts if start >= 0 and same(prompt, whole[start : start + len(prompt)])]
    if not ends:
        raise LeftOutError("different_prompts", "the response is a dialogue that does not begin with the prompt")
    return ends[0]
