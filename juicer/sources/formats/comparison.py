"""Rows with a better and perhaps a worse dialogue: Anthropic-HH's `chosen`/`rejected`, SPIN's `real`/`generated`.

Each dialogue is text in HH's format or a list of messages.
"""

from juicer.data import hh
from juicer.sources.files import Row
from juicer.sources.formats.rows import Answered, MalformedError, answered, messages_of, value_of


def read(row: Row, better: str, worse: str) -> Answered:
    """The better dialogue as a demonstration and, if it is not empty, the worse response to the same prompt.

    Args:
        better: key of the better dialogue.
        worse: key of the worse one, which may be missing or empty.

    Raises:
        MalformedError: a dialogue does not end in an assistant turn, or the two prompts differ.
        InputError: a key is missing, or a value has the wrong type.
    """
    prompt, response, _ = _dialogue(row, better)
    value = row.values.get(worse)
    if (value.strip() if isinstance(value, str) else value) in (None, "", []):
        return Answered(prompt, response)
    other_prompt, other, _ = _dialogue(row, worse)
    if not other:
        # SPIN publishes such files for its first round, before a policy has generated anything.
        return Answered(prompt, response)
    if prompt != other_prompt:
        raise MalformedError("different_prompts")
    return Answered(prompt, response, other)


def _dialogue(row: Row, key: str) -> Answered:
    value = value_of(row, key)
    if not isinstance(value, str):
        return answered(messages_of(row, key))
    try:
        parsed = hh.parse(value)
    except ValueError as error:
        raise MalformedError("text_before_first_turn") from error
    if parsed is None:
        raise MalformedError("no_assistant_turn")
    return Answered(*parsed)
