"""Which assistant turns of a dialogue become demonstrations, and of each its prompt."""

from typing import Literal

from juicer.data.demonstrations import Demonstration, opening_hash
from juicer.sources.formats.reasons import LeftOutError
from juicer.sources.formats.turns import Dialogue
from juicer.sources.formats.values import is_blank

Exchange = Literal["last", "first", "all"]


def answers(dialogue: Dialogue, exchange: Exchange) -> list[int]:
    """Places of the turns that become demonstrations, in their order.

    Answers are turns of the assistant after the user's first; a greeting before it is a part of the prompt.

    Raises:
        LeftOutError: there is none, none is to be trained on, or the last turn is not the assistant's under `last`.
    """
    turns, context, untrained = dialogue.turns, dialogue.context, dialogue.untrained
    if exchange == "last":
        if not turns or turns[-1]["role"] != "assistant":
            raise LeftOutError("no_assistant_turn")
        if not untrained:
            return [len(turns) - 1]
    places = [place for place in range(context, len(turns)) if turns[place]["role"] == "assistant"]
    if not places:
        raise LeftOutError("no_assistant_turn", "" if exchange == "last" else "it has none")
    trained = [place for place in places if place not in untrained]
    if not trained:
        raise LeftOutError("not_trained", dialogue.why)
    asked = next((place for place, turn in enumerate(turns) if turn["role"] == "user"), -1)
    trained = [place for place in trained if place > asked] or trained
    return trained if exchange == "all" else [trained[0 if exchange == "first" else -1]]


def demonstration(
    dialogue: Dialogue, place: int, *, rejected: str | None, held_out: bool, opening: str | None
) -> Demonstration:
    """The demonstration whose response is one turn of a dialogue.

    Args:
        opening: its hash, if that decides the split.

    Raises:
        LeftOutError: the prompt or the response is empty, or not whose it should be.
    """
    prompt, response = dialogue.turns[:place], dialogue.turns[place]["content"]
    if not prompt or (prompt[-1]["role"] == "user" and is_blank(prompt[-1]["content"])):
        raise LeftOutError("empty_prompt")
    if prompt[-1]["role"] != "user":
        raise LeftOutError("prompt_not_from_user")
    if is_blank(response):
        raise LeftOutError("empty_response")
    try:
        if rejected is not None:
            rejected.encode()
        return Demonstration.make(prompt, response, rejected=rejected, held_out=held_out, dialogue=opening)
    except ValueError as error:
        raise LeftOutError("invalid_text") from error


def exchanges(dialogue: Dialogue, exchange: Exchange, *, held_out: bool) -> list[Demonstration | LeftOutError]:
    """The demonstrations of a dialogue, and at most one fault; the other turns are used all the same.

    Raises:
        LeftOutError: as `answers`.
    """
    try:
        opening = opening_hash(dialogue.turns) if exchange == "all" else None
    except ValueError as error:
        raise LeftOutError("invalid_text") from error
    made: list[Demonstration | LeftOutError] = []
    faults: list[LeftOutError] = []
    for place in answers(dialogue, exchange):
        rejected = dialogue.rejected if place == len(dialogue.turns) - 1 else None
        if rejected is not None and is_blank(rejected):
            rejected = None
        try:
            made.append(demonstration(dialogue, place, rejected=rejected, held_out=held_out, opening=opening))
        except LeftOutError as fault:
            if exchange == "all":
                fault.detail = fault.detail or f"turn {place + 1}"
            faults.append(fault)
    return [*made, *faults[:1]]
