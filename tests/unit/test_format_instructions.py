"""Rows with a prompt and a response of their own: Alpaca, Dolly, questions and answers, KTO, plain prompts."""

import json
from typing import Any

import pytest

from juicer.data.demonstrations import Demonstration
from juicer.runtime.errors import InputError
from juicer.sources.formats import LeftOut
from tests.converting import Values, assistant, converted, demonstration, left_out, placed, reader, said, user


@pytest.mark.parametrize(
    ("values", "prompt"),
    [
        ({"instruction": "Translate.", "input": "hello", "output": "bonjour"}, "Translate.\n\nhello"),
        ({"instruction": "Translate.", "input": "", "output": "bonjour"}, "Translate."),
        ({"instruction": "Translate.", "input": " ", "output": "bonjour"}, "Translate."),
        ({"instruction": "Translate.", "input": None, "output": "bonjour"}, "Translate."),
        ({"instruction": "", "input": "hello", "output": "bonjour"}, "hello"),
        ({"instruction": "Translate.", "context": "hello", "response": "bonjour"}, "Translate.\n\nhello"),
        ({"question": "Translate.", "context": "hello", "answer": "bonjour"}, "Translate.\n\nhello"),
        ({"query": "Translate.", "response": "bonjour"}, "Translate."),
        ({"query": "Translate.", "answer": "bonjour"}, "Translate."),
        ({"question": "Translate.", "response": "bonjour"}, "Translate."),
        ({"prompt": "Translate.", "completion": "bonjour"}, "Translate."),
        ({"prompt": "Translate.", "output": "bonjour"}, "Translate."),
        ({"prompt": "Translate.", "answer": "bonjour"}, "Translate."),
        ({"prompt": [user("Translate.")], "completion": [assistant("bonjour")]}, "Translate."),
        ({"prompt": [user("Translate.")], "completion": "bonjour"}, "Translate."),
    ],
)
def test_the_prompt_has_what_belongs_to_it(values: Values, prompt: str) -> None:
    made = demonstration(values)
    assert (said(made.prompt), made.response) == ([("user", prompt)], "bonjour")


@pytest.mark.parametrize("key", ["system", "system_prompt"])
@pytest.mark.parametrize(
    "values",
    [
        {"prompt": "Hi", "response": "Bonjour"},
        {"instruction": "Hi", "output": "Bonjour"},
        {"question": "Hi", "answer": "Bonjour"},
        {"prompt": "Hi", "chosen": "Bonjour", "rejected": "Hello"},
        {"messages": [user("Hi"), assistant("Bonjour")]},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Bonjour"}]},
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Bonjour"},
    ],
)
def test_the_system_of_a_row_is_a_turn(key: str, values: Values) -> None:
    made = demonstration({key: "Answer in French.", **values})
    assert said(made.prompt) == [("system", "Answer in French."), ("user", "Hi")]
    assert said(demonstration({key: " ", **values}).prompt) == [("user", "Hi")]


@pytest.mark.parametrize("history", [[["Hi", "Hello"]], '[["Hi", "Hello"]]', [user("Hi"), assistant("Hello")]])
def test_the_history_comes_before_the_prompt(history: Any) -> None:
    values = {"instruction": "Why?", "input": "x", "output": "So.", "history": history, "system": "Be kind."}
    made = demonstration(values)
    dialogue = [("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Why?\n\nx")]
    assert (said(made.prompt), made.response) == (dialogue, "So.")
    assert [each.response for each in converted(values, exchange="all")] == ["Hello", "So."]  # type: ignore[union-attr]


def test_white_space_is_kept() -> None:
    made = demonstration({"prompt": "Complete f.\n", "completion": "    return x\n"})
    assert (said(made.prompt), made.response) == ([("user", "Complete f.\n")], "    return x\n")


def test_a_prompt_may_be_an_hh_dialogue() -> None:
    text = "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Hello\n\nAssistant:"
    made = demonstration({"prompt": text, "response": " Good"})
    assert [turn["content"] for turn in made.prompt] == ["Hi", "Yes?", "Hello"]
    assert made.response == " Good"


def test_turns_of_a_prompt_are_no_demonstrations() -> None:
    prompt = [user("Hi"), assistant("Hello"), user("Why?")]
    for exchange in ("last", "first", "all"):
        assert demonstration({"prompt": prompt, "response": "So."}, exchange=exchange).response == "So."


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"prompt": " ", "response": "Hello"}, "empty_prompt"),
        ({"instruction": "", "input": "", "output": "Hello"}, "empty_prompt"),
        ({"prompt": "Hi", "response": "\n"}, "empty_response"),
        ({"prompt": "Hi", "response": "\ud800"}, "invalid_text"),
        ({"prompt": "\ud800", "response": "Hello"}, "invalid_text"),
        ({"prompt": "Hi", "completion": [user("Hi")]}, "no_assistant_turn"),
        ({"prompt": "Hi", "completion": []}, "no_assistant_turn"),
        ({"prompt": [], "completion": "Hello"}, "empty_prompt"),
        ({"prompt": [user("Hi"), assistant("Yes?")], "completion": "Hello"}, "prompt_not_from_user"),
        ({"prompt": " Human: Hello\n\nAssistant:", "response": "Good"}, "text_before_first_turn"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(values: Values, reason: str) -> None:
    fault = left_out(values)
    assert (fault.reason, fault.where, fault.unusable) == (reason, "rows.jsonl:1", True)
    assert str(fault).startswith("rows.jsonl:1: ")


@pytest.mark.parametrize("label", [False, 0, 0.0, "false", "False", "0", "0.0", "no", "F"])
@pytest.mark.parametrize(
    "values",
    [
        {"prompt": "Hi", "completion": "No"},
        {"prompt": "Hi", "response": "No"},
        {"prompt": [user("Hi")], "completion": [assistant("No")]},
        {"messages": [user("Hi"), assistant("No")]},
    ],
)
def test_an_undesirable_response_is_left_out(values: Values, label: Any) -> None:
    fault = left_out({**values, "label": label})
    assert (fault.reason, fault.unusable) == ("undesirable", False)


@pytest.mark.parametrize("label", [True, 1, "true", "1.0", "Yes", "t"])
def test_a_desirable_response_is_a_demonstration(label: Any) -> None:
    assert demonstration({"prompt": "Hi", "completion": "Hello", "label": label}).response == "Hello"
    assert demonstration({"messages": [user("Hi"), assistant("Hello")], "label": label}).response == "Hello"


def test_a_label_that_is_neither_true_nor_false_leaves_its_row_out() -> None:
    rows = [{"prompt": "Hi", "completion": "Hello", "label": label} for label in (True, "maybe")]
    assert str(converted(*rows)[1]).endswith("'label' must be true or false, not 'maybe'")


@pytest.mark.parametrize("key", ["label", "kto_tag"])
@pytest.mark.parametrize("values", [{"prompt": "Hi", "completion": "Hello"}, {"messages": []}])
def test_a_first_label_that_is_another_word_is_refused(values: Values, key: str) -> None:
    with pytest.raises(InputError, match=r"rows\.jsonl:1: the label 'good' is neither true nor false.*true or false"):
        converted({**values, key: "good"})


def test_a_later_label_is_understood_as_the_first_one() -> None:
    answered = {"prompt": "Hi", "completion": "Hello"}
    rows = converted(answered, *({**answered, "label": label} for label in (None, "0.0", 1, "good", "")))
    assert [each.reason if isinstance(each, LeftOut) else "used" for each in rows] == [
        "used", "used", "undesirable", "used", "wrong_type", "wrong_type"
    ]  # fmt: skip


@pytest.mark.parametrize("labels", [(3, 0, 1), ("3", "0", "1.0")])
def test_numbers_of_classes_are_no_labels_of_responses(labels: tuple[Any, ...]) -> None:
    rows = [{"prompt": "Hi", "response": "Hello", "label": label} for label in labels]
    source = reader()
    assert [type(each) for each in source.convert(placed(*rows))] == [Demonstration] * 3
    assert source.unread == {"label": 3}


def test_a_label_may_be_left_unread_by_naming_the_format() -> None:
    values = {"prompt": "Hi", "response": "Hello", "label": 0}
    assert demonstration(values, format="prompt-response").response == "Hello"


@pytest.mark.parametrize("text", [json.dumps, str])
def test_lists_of_messages_in_cells_of_csv_are_not_taken_for_texts(text: Any) -> None:
    values = {"prompt": text([user("Hi")]), "response": text([assistant("Hello")])}
    (made,) = converted(values)
    if text is json.dumps:
        assert isinstance(made, Demonstration)
        assert (said(made.prompt), made.response) == ([("user", "Hi")], "Hello")
    else:
        assert isinstance(made, LeftOut)
        assert str(made).endswith("'prompt' is text, but no valid JSON")
