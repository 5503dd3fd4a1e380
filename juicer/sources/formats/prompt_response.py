"""Rows with a `prompt` and a `response` or `completion`, each of them text or messages; a prompt may be HH's text."""

from juicer.data import hh
from juicer.sources.files import Row
from juicer.sources.formats.rows import Answered, MalformedError, messages_of, missing, value_of


def read(row: Row) -> Answered:
    """The prompt and the response.

    Raises:
        MalformedError: the response is not one assistant turn, or a prompt in HH's format starts with other text.
        InputError: a key is missing, or a value has the wrong type.
    """
    key = "response" if "response" in row.values else "completion"
    if key not in row.values:
        raise missing(row, "'response' (or 'completion')")
    value = value_of(row, key)
    if isinstance(value, str):
        response = value.strip()
    else:
        turns = messages_of(row, key)
        if len(turns) != 1 or turns[0]["role"] != "assistant":
            raise MalformedError("no_assistant_turn")
        response = turns[0]["content"]
    prompt = value_of(row, "prompt")
    if not isinstance(prompt, str):
        return Answered(messages_of(row, "prompt"), response)
    if not hh.is_prompt(prompt):
        return Answered([{"role": "user", "content": prompt.strip()}], response)
    try:
        return Answered(hh.parse_prompt(prompt), response)
    except ValueError as error:
        raise MalformedError("text_before_first_turn") from error
