"""Other people's rows become our schema, or say why they cannot."""

from typing import Any

import pytest

from juicer.data import hh
from juicer.data.demonstrations import Demonstration, Message
from juicer.runtime.errors import InputError
from juicer.sources.files import Row
from juicer.sources.formats import Format, Malformed, convert, recognise

HELLO: list[dict[str, str]] = [{"role": "user", "content": "Hello"}]


def row(**values: Any) -> Row:
    return Row(values, "rows.jsonl:7")


def accepted(raw: Row, format_: Format, *, held_out: bool = False) -> Demonstration:
    converted = convert(raw, format_, held_out=held_out)
    assert isinstance(converted, Demonstration)
    return converted


def test_an_hh_dialogue_is_split_at_its_last_assistant_turn() -> None:
    text = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Why?\n\nAssistant:  Because\n\nof that. "
    prompt: list[Message] = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Why?"},
    ]
    assert hh.parse(text) == (prompt, "Because\n\nof that.")


def test_an_hh_dialogue_is_rendered_as_it_was_parsed() -> None:
    text = "\n\nBe kind.\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Why?\n\nAssistant: Because"
    turns: list[Message] = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "Because"},
    ]
    assert hh.render([{"role": "system", "content": "Be kind."}, *turns]) == text
    assert hh.parse(hh.render(turns)) == (turns[:-1], "Because")


def test_the_word_assistant_inside_a_turn_does_not_start_a_turn() -> None:
    parsed = hh.parse("\n\nHuman: Are you an Assistant: or what?\n\nAssistant: An Assistant: yes")
    assert parsed == ([{"role": "user", "content": "Are you an Assistant: or what?"}], "An Assistant: yes")


def test_the_chosen_response_is_the_demonstration_and_the_other_is_kept_beside_it() -> None:
    raw = row(chosen="\n\nHuman: Hello\n\nAssistant: Good", rejected="\n\nHuman: Hello\n\nAssistant: Bad")
    made = accepted(raw, "hh", held_out=True)
    assert (made.prompt, made.response, made.rejected, made.held_out) == (HELLO, "Good", "Bad", True)
    assert made.id == Demonstration.make(made.prompt, "Good").id


def test_chosen_without_rejected_is_a_demonstration() -> None:
    assert accepted(row(chosen="\n\nHuman: Hello\n\nAssistant: Good"), "hh").rejected is None


def test_chosen_and_rejected_may_be_lists_of_messages() -> None:
    good, bad = ({"role": "assistant", "content": content} for content in ("Good", "Bad"))
    made = accepted(row(prompt="Hello", chosen=[*HELLO, good], rejected=[*HELLO, bad]), "hh")
    assert (made.prompt, made.response, made.rejected) == (HELLO, "Good", "Bad")


def test_messages_end_in_the_response() -> None:
    system = {"role": "system", "content": "Be kind."}
    made = accepted(row(messages=[system, *HELLO, {"role": "assistant", "content": " Good "}]), "messages")
    assert (made.prompt, made.response) == ([system, *HELLO], "Good")


@pytest.mark.parametrize("key", ["response", "completion"])
def test_a_prompt_may_be_text(key: str) -> None:
    made = accepted(row(prompt="Hello ", **{key: " Good"}), "prompt-response")
    assert (made.prompt, made.response) == (HELLO, "Good")


def test_a_prompt_may_be_an_hh_dialogue() -> None:
    text = "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Hello\n\nAssistant:"
    made = accepted(row(prompt=text, response=" Good"), "prompt-response")
    assert [turn["content"] for turn in made.prompt] == ["Hi", "Yes?", "Hello"]


def test_the_first_exchange_of_messages_ends_where_the_assistant_answers_first() -> None:
    turns = [*HELLO, {"role": "assistant", "content": "Good"}, {"role": "user", "content": "And you?"}]
    made = convert(row(messages=turns), "messages", first_exchange=True)
    assert isinstance(made, Demonstration)
    assert (made.prompt, made.response) == (HELLO, "Good")


def test_prompt_and_completion_may_be_messages() -> None:
    made = accepted(row(prompt=HELLO, completion=[{"role": "assistant", "content": "Good"}]), "prompt-response")
    assert (made.prompt, made.response) == (HELLO, "Good")


def test_spin_s_real_dialogue_is_the_demonstration() -> None:
    real, generated = ([*HELLO, {"role": "assistant", "content": content}] for content in ("Good", "Bad"))
    made = accepted(row(real=real, generated=generated), "spin")
    assert (made.prompt, made.response, made.rejected) == (HELLO, "Good", "Bad")


@pytest.mark.parametrize(
    "worse", ["\n\nHuman: Hello\n\nAssistant: ", [*HELLO, {"role": "assistant", "content": ""}], "", " ", [], None]
)
def test_an_empty_worse_response_is_none(worse: Any) -> None:
    made = accepted(row(chosen="\n\nHuman: Hello\n\nAssistant: Good", rejected=worse), "hh")
    assert (made.response, made.rejected) == ("Good", None)
    real = [*HELLO, {"role": "assistant", "content": "Good"}]
    assert accepted(row(real=real, generated=worse), "spin") == made


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"chosen": "", "rejected": ""}, "hh"),
        ({"real": [], "generated": []}, "spin"),
        ({"prompt": "", "messages": []}, "messages"),
        ({"prompt": "", "response": ""}, "prompt-response"),
        ({"prompt": "", "completion": ""}, "prompt-response"),
    ],
)
def test_the_format_is_recognised_by_the_keys(values: dict[str, Any], expected: Format) -> None:
    assert recognise(Row(values, "x")) == expected


def test_unknown_keys_are_named() -> None:
    with pytest.raises(InputError, match=r"rows\.jsonl:7: unrecognised format: the row has the keys answer, question"):
        recognise(row(question="a", answer="b"))


@pytest.mark.parametrize(
    ("values", "format_", "reason"),
    [
        ({"chosen": "\n\nHuman: Hello"}, "hh", "no_assistant_turn"),
        ({"chosen": "\n\nHuman: Hello\n\nAssistant: Yes\n\nHuman: Go on"}, "hh", "no_assistant_turn"),
        ({"chosen": "\n\nHuman: Hello\n\nAssistant:  "}, "hh", "empty_response"),
        ({"chosen": "\n\nHuman: \n\nAssistant: Good"}, "hh", "empty_prompt"),
        ({"chosen": "\n\nAssistant: Good"}, "hh", "empty_prompt"),
        ({"chosen": "Note\n\nHuman: Hello\n\nAssistant: Good"}, "hh", "text_before_first_turn"),
        ({"chosen": "\n\nHuman: Hello\n\nAssistant: Yes\n\nAssistant: Good"}, "hh", "prompt_not_from_user"),
        ({"chosen": "\n\nHuman: Hello\n\nAssistant: \ud800"}, "hh", "invalid_text"),
        (
            {"chosen": "\n\nHuman: Hello\n\nAssistant: Good", "rejected": "\n\nHuman: Hi\n\nAssistant: Bad"},
            "hh",
            "different_prompts",
        ),
        (
            {"prompt": " Human: Hello\n\nAssistant:", "response": "Good"},
            "prompt-response",
            "text_before_first_turn",
        ),
        ({"messages": HELLO}, "messages", "no_assistant_turn"),
        ({"messages": []}, "messages", "no_assistant_turn"),
        ({"messages": [{"role": "assistant", "content": "Good"}]}, "messages", "empty_prompt"),
        ({"prompt": " ", "response": "Good"}, "prompt-response", "empty_prompt"),
        ({"prompt": "Hello", "response": " "}, "prompt-response", "empty_response"),
        ({"prompt": "Hello", "completion": HELLO}, "prompt-response", "no_assistant_turn"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(values: dict[str, Any], format_: Format, reason: str) -> None:
    converted = convert(Row(values, "rows.jsonl:7"), format_)
    assert isinstance(converted, Malformed)
    assert (converted.reason, converted.where) == (reason, "rows.jsonl:7")
    assert str(converted).startswith("rows.jsonl:7: ")


@pytest.mark.parametrize(
    ("values", "format_", "message"),
    [
        ({"chosen": 3}, "hh", "'chosen' must be text or a list of messages, not int"),
        ({"messages": "Hello"}, "messages", "'messages' must be text or a list"),
        ({"messages": ["Hello"]}, "messages", "message 1 of 'messages' must have a role"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages", "role .system, user or assistant."),
        ({"messages": [{"role": "user", "content": None}]}, "messages", "and a content"),
        ({"prompt": "Hello"}, "prompt-response", r"no 'response' \(or 'completion'\), only prompt"),
    ],
)
def test_a_wrong_type_or_a_missing_key_stops_with_its_place(
    values: dict[str, Any], format_: Format, message: str
) -> None:
    with pytest.raises(InputError, match=rf"rows\.jsonl:7: .*{message}"):
        convert(Row(values, "rows.jsonl:7"), format_)
