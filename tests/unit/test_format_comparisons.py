"""Rows with a better and a worse response: HH's and SPIN's dialogues, TRL's prompts, UltraFeedback."""

from typing import Any

import pytest

from juicer.data import hh
from juicer.data.demonstrations import Demonstration, Message
from tests.converting import Values, assistant, converted, demonstration, left_out, placed, reader, said, user

HELLO = [user("Hello")]


def test_an_hh_dialogue_is_split_at_its_last_assistant_turn() -> None:
    text = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Why?\n\nAssistant:  Because\n\nof that. "
    prompt: list[Message] = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Why?"},
    ]
    assert hh.parse(text) == (prompt, "Because\n\nof that.")
    assert demonstration({"chosen": text}) == Demonstration.make(prompt, "Because\n\nof that.")


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
    values = {"chosen": "\n\nHuman: Hello\n\nAssistant: Good", "rejected": "\n\nHuman: Hello\n\nAssistant: Bad"}
    (made,) = reader().convert(placed(values, held_out=True))
    assert isinstance(made, Demonstration)
    assert (made.prompt, made.response, made.rejected, made.held_out) == (HELLO, "Good", "Bad", True)
    assert made.id == Demonstration.make(made.prompt, "Good").id


def test_chosen_and_rejected_may_be_lists_of_messages() -> None:
    values = {"chosen": [*HELLO, assistant("Good")], "rejected": [*HELLO, assistant("Bad")]}
    made = demonstration(values)
    assert (made.prompt, made.response, made.rejected) == (HELLO, "Good", "Bad")
    for better, worse in (("real", "generated"), ("chosen_messages", "rejected_messages")):
        assert demonstration({better: values["chosen"], worse: values["rejected"]}) == made


def test_all_answers_of_a_chosen_dialogue_are_demonstrations_and_the_last_has_a_worse_one() -> None:
    start = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: "
    values = {"chosen": f"{start}Good", "rejected": f"{start}Bad"}
    rows = [row for row in converted(values, exchange="all") if isinstance(row, Demonstration)]
    assert [(row.response, row.rejected) for row in rows] == [("b", None), ("Good", "Bad")]
    first = demonstration(values, exchange="first")
    assert (first.response, first.rejected) == ("b", None)


def test_an_hh_dialogue_that_ends_in_a_human_turn_has_a_first_answer() -> None:
    values = {"chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c"}
    assert left_out(values).reason == "no_assistant_turn"
    assert demonstration(values, exchange="first").response == "b"


@pytest.mark.parametrize("worse", ["\n\nHuman: Hello\n\nAssistant: ", [*HELLO, assistant("")], "", " ", [], None])
def test_an_empty_worse_response_is_none(worse: Any) -> None:
    for better, other in (("chosen", "rejected"), ("real", "generated")):
        source = reader()
        (made,) = source.convert(placed({better: "\n\nHuman: Hello\n\nAssistant: Good", other: worse}))
        assert isinstance(made, Demonstration)
        assert (made.response, made.rejected) == ("Good", None)
        assert source.empty_rejected == (worse is not None)


def test_an_explicit_prompt_is_answered_by_text() -> None:
    made = demonstration({"prompt": "The sky is", "chosen": " blue.", "rejected": " green."})
    assert (said(made.prompt), made.response, made.rejected) == ([("user", "The sky is")], " blue.", " green.")


def test_an_explicit_prompt_is_answered_by_messages() -> None:
    values = {"prompt": HELLO, "chosen": [assistant("Good")], "rejected": [assistant("Bad")]}
    for prompt in (HELLO, "Hello"):
        made = demonstration({**values, "prompt": prompt})
        assert (made.prompt, made.response, made.rejected) == (HELLO, "Good", "Bad")


def test_an_instruction_with_its_input_is_answered_by_text() -> None:
    made = demonstration({"instruction": "Add.", "input": "1, 2", "chosen": "3", "rejected": "4"})
    assert (said(made.prompt), made.response, made.rejected) == ([("user", "Add.\n\n1, 2")], "3", "4")


def test_an_hh_prompt_is_answered_by_text() -> None:
    made = demonstration({"prompt": "\n\nHuman: Hello\n\nAssistant:", "chosen": " Good", "rejected": " Bad"})
    assert (made.prompt, made.response, made.rejected) == (HELLO, " Good", " Bad")


@pytest.mark.parametrize("start", [[], [{"role": "system", "content": "s"}]])
@pytest.mark.parametrize("prompt", ["Hello", " Hello\n", HELLO])
def test_a_dialogue_may_repeat_the_prompt_before_it(prompt: Any, start: list[Values]) -> None:
    values = {
        "prompt": prompt,
        "chosen": [*start, *HELLO, assistant("Good")],
        "rejected": [*start, *HELLO, assistant("Bad")],
        "score_chosen": 8.0,
    }
    made = demonstration(values)
    assert (made.prompt, made.response, made.rejected) == ([*start, *HELLO], "Good", "Bad")


def test_the_prompt_may_be_the_first_or_the_last_question_of_a_dialogue() -> None:
    turns = [user("a"), assistant("b"), user("c")]
    values = {"chosen": [*turns, assistant("Good")], "rejected": [*turns, assistant("Bad")]}
    for prompt in ("a", "c", turns):
        made = demonstration({"prompt": prompt, **values})
        assert (made.prompt, made.response, made.rejected) == (turns, "Good", "Bad")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"chosen": "\n\nHuman: Hello"}, "no_assistant_turn"),
        ({"chosen": "Hello"}, "no_assistant_turn"),
        ({"chosen": "\n\nHuman: Hello\n\nAssistant: Yes\n\nHuman: Go on"}, "no_assistant_turn"),
        ({"chosen": "\n\nHuman: Hello\n\nAssistant:  "}, "empty_response"),
        ({"chosen": "\n\nHuman: \n\nAssistant: Good"}, "empty_prompt"),
        ({"chosen": "\n\nAssistant: Good"}, "empty_prompt"),
        ({"chosen": "Note\n\nHuman: Hello\n\nAssistant: Good"}, "text_before_first_turn"),
        ({"chosen": "\n\nHuman: Hello\n\nAssistant: Yes\n\nAssistant: Good"}, "prompt_not_from_user"),
        ({"chosen": "\n\nHuman: Hello\n\nAssistant: \ud800"}, "invalid_text"),
        (
            {"chosen": "\n\nHuman: Hello\n\nAssistant: Good", "rejected": "\n\nHuman: Hi\n\nAssistant: Bad"},
            "different_prompts",
        ),
        ({"chosen": [*HELLO, assistant("Good")], "rejected": [user("Hi"), assistant("Bad")]}, "different_prompts"),
        ({"chosen": [*HELLO, assistant("Good")], "rejected": HELLO}, "no_assistant_turn"),
        ({"prompt": "Hi", "chosen": [*HELLO, assistant("Good")]}, "different_prompts"),
        ({"prompt": "Hello", "chosen": " ", "rejected": "Bad"}, "empty_response"),
        ({"prompt": "Hello", "chosen": "Good", "rejected": HELLO}, "no_assistant_turn"),
        ({"prompt": "Hello", "chosen": "Good", "rejected": "\ud800"}, "invalid_text"),
    ],
)
def test_a_comparison_that_cannot_be_used_says_why(values: Values, reason: str) -> None:
    fault = left_out(values)
    assert (fault.reason, fault.unusable) == (reason, True)
