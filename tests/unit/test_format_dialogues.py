"""Rows with a list of messages: OpenAI's, ShareGPT's, and which of their turns become demonstrations."""

import json
from typing import Any

import pytest

from juicer.data.demonstrations import Demonstration, Message, opening_hash
from tests.converting import Values, assistant, converted, demonstration, left_out, said, user

TURNS = [user("a"), assistant("b"), user("c"), assistant("d"), user("e"), assistant("f")]


def responses(turns: list[Values], **settings: Any) -> list[str]:
    return [
        each.response if isinstance(each, Demonstration) else each.reason for each in converted_of(turns, **settings)
    ]


def converted_of(turns: list[Values], **settings: Any) -> list[Any]:
    return converted({"messages": turns}, **settings)


def test_sharegpt_is_read() -> None:
    turns = [{"from": "system", "value": "s"}, {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    made = demonstration({"conversations": turns})
    assert (said(made.prompt), made.response) == ([("system", "s"), ("user", "Hi")], "Hello")
    assert demonstration({"conversation": turns}) == made


@pytest.mark.parametrize(
    ("one", "other"), [("human", "gpt"), ("user", "chatgpt"), ("User", "Assistant"), ("human", "bing")]
)
@pytest.mark.parametrize(("who", "what"), [("from", "value"), ("role", "content"), ("user", "text"), ("role", "value")])
@pytest.mark.parametrize("key", ["messages", "conversations"])
def test_roles_and_texts_have_many_names(key: str, who: str, what: str, one: str, other: str) -> None:
    made = demonstration({key: [{who: one, what: "Hi"}, {who: other, what: "Hello"}]})
    assert (said(made.prompt), made.response) == ([("user", "Hi")], "Hello")


def test_messages_may_be_written_as_json() -> None:
    assert demonstration({"messages": json.dumps(TURNS)}).response == "f"


def test_messages_may_be_a_mapping_of_lists() -> None:
    """`datasets` makes this of a `Sequence` of mappings, also in parquet."""
    columns = {"from": ["human", "gpt"], "value": ["Hi", "Hello"], "weight": None}
    for key in ("messages", "conversations", "chosen"):
        made = demonstration({key: columns})
        assert (said(made.prompt), made.response) == ([("user", "Hi")], "Hello")
    assert left_out({"messages": {"from": ["human"], "value": []}}).detail.endswith("have different lengths")


def test_parts_of_text_are_joined() -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "value": "lo"}]
    made = demonstration({"messages": [user([{"type": "text", "text": "Hi"}]), assistant(parts)]})
    assert (said(made.prompt), made.response) == ([("user", "Hi")], "Hello")


def test_the_developer_is_the_system() -> None:
    made = demonstration({"messages": [{"role": "developer", "content": "s"}, *TURNS[:2]]})
    assert said(made.prompt) == [("system", "s"), ("user", "a")]


def test_a_dialogue_with_a_system_turn_keeps_it() -> None:
    made = demonstration({"system": "other", "messages": [{"role": "system", "content": "s"}, *TURNS[:2]]})
    assert said(made.prompt) == [("system", "s"), ("user", "a")]


def test_white_space_of_turns_is_kept() -> None:
    made = demonstration({"messages": [user(" Hi\n"), assistant("    x\n")]})
    assert (said(made.prompt), made.response) == ([("user", " Hi\n")], "    x\n")


def test_one_turn_or_all_become_demonstrations() -> None:
    assert responses(TURNS) == ["f"]
    assert responses(TURNS, exchange="last") == ["f"]
    assert responses(TURNS, exchange="first") == ["b"]
    assert responses(TURNS, exchange="all") == ["b", "d", "f"]
    second = converted_of(TURNS, exchange="all")[1]
    assert said(second.prompt) == [("user", "a"), ("assistant", "b"), ("user", "c")]


def test_all_turns_of_a_dialogue_have_the_hash_of_its_opening() -> None:
    system = {"role": "system", "content": "s"}
    rows = converted_of([system, *TURNS], exchange="all")
    opening: list[Message] = [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]
    assert {row.dialogue for row in rows} == {opening_hash(opening)}
    assert rows[0].dialogue == rows[0].prompt_hash()
    assert demonstration({"messages": TURNS}).dialogue is None


def test_a_dialogue_that_ends_in_a_user_turn_has_no_last_answer() -> None:
    assert responses(TURNS[:5]) == ["no_assistant_turn"]
    assert responses(TURNS[:5], exchange="first") == ["b"]
    assert responses(TURNS[:5], exchange="all") == ["b", "d"]


@pytest.mark.parametrize("exchange", ["last", "first", "all"])
def test_a_greeting_is_no_answer(exchange: str) -> None:
    made = demonstration({"messages": [assistant("Welcome"), *TURNS[:2]]}, exchange=exchange)
    assert (said(made.prompt), made.response) == ([("assistant", "Welcome"), ("user", "a")], "b")


@pytest.mark.parametrize(
    "mark",
    [
        *({"weight": 0}, {"weight": 0.0}, {"weight": "0.0"}, {"weight": -1}, {"train": False}, {"train": "false"}),
        *({"training": "no"}, {"loss": False}, {"loss_weight": 0.0}),
        {"train_detail": [{"begin_offset": 0, "end_offset": 0, "train": False}, {"train": True}]},
    ],
)
def test_turns_that_are_not_to_be_trained_on_are_obeyed(mark: Values) -> None:
    last = [*TURNS[:5], assistant("f", **mark)]
    assert responses(last) == ["d"]
    assert responses(last, exchange="all") == ["b", "d"]
    first = [user("a"), assistant("b", **mark), *TURNS[2:]]
    assert responses(first, exchange="first") == ["d"]
    assert responses(first) == ["f"]
    fault = left_out({"messages": [user("a"), assistant("b", **mark)]})
    assert (fault.reason, fault.unusable) == ("not_trained", False)
    assert next(iter(mark)) in str(fault)


def test_turns_that_are_to_be_trained_on_are() -> None:
    turns = [user("a", train=False, weight=0), assistant("b", train=True, weight=1, train_detail=[{"train": True}])]
    assert responses(turns) == ["b"]


def test_only_the_roles_that_are_named_are_trained_on() -> None:
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    more = [{"from": "human", "value": "c"}, {"from": "bing", "value": "d"}]
    row = {"conversations": [*turns, *more]}
    assert demonstration(row, roles_to_train=["gpt"]).response == "b"
    assert demonstration(row, roles_to_train=["gpt", "bing"]).response == "d"
    assert str(left_out(row, roles_to_train=["bard"])).endswith("fetch.roles_to_train does not have 'bing'")


@pytest.mark.parametrize(
    ("turns", "reason", "found"),
    [
        ([user("a"), assistant(None, tool_calls=[{"id": "1"}])], "tools", "tool_calls"),
        ([user("a"), {"role": "assistant", "tool_calls": [{"id": "1"}]}], "tools", "tool_calls"),
        ([user("a"), assistant("", function_call={"name": "f"})], "tools", "function_call"),
        ([user("a"), {"role": "tool", "content": "1"}, assistant("b")], "tools", "'tool'"),
        ([user("a"), {"from": "function_call", "value": "1"}, assistant("b")], "tools", "'function_call'"),
        ([user("a"), {"from": "observation", "value": "1"}, assistant("b")], "tools", "'observation'"),
        ([user([{"type": "image_url", "image_url": {}}]), assistant("b")], "media", "image_url"),
        ([user([{"type": "text", "text": "a"}, {"type": "image"}]), assistant("b")], "media", "image"),
        ([user("a", images=["a.png"]), assistant("b")], "media", "images"),
    ],
)
def test_tools_and_media_leave_a_row_out(turns: list[Values], reason: str, found: str) -> None:
    fault = left_out({"messages": turns})
    assert (fault.reason, fault.unusable) == (reason, False)
    assert found in fault.detail


def test_an_unknown_role_is_named_with_what_to_do() -> None:
    fault = left_out({"messages": [{"role": "robot\n", "content": "a"}, assistant("b")]})
    assert fault.reason == "unknown_role"
    assert "message 1 of 'messages' has the role 'robot\\n' (fetch.columns.roles" in str(fault)


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([], "no_assistant_turn"),
        ([user("a")], "no_assistant_turn"),
        ([assistant("b")], "empty_prompt"),
        ([{"role": "system", "content": "s"}, assistant("b")], "prompt_not_from_user"),
        ([user("a"), assistant("b"), assistant("c")], "prompt_not_from_user"),
        ([user(" "), assistant("b")], "empty_prompt"),
        ([user("a"), assistant(" ")], "empty_response"),
        ([user("a"), assistant([])], "empty_response"),
    ],
)
def test_a_dialogue_that_cannot_be_used_says_why(turns: list[Values], reason: str) -> None:
    assert left_out({"messages": turns}).reason == reason


def test_one_odd_turn_does_not_cost_the_others() -> None:
    turns = [*TURNS[:2], user("c"), assistant(""), *TURNS[4:]]
    *good, odd = converted_of(turns, exchange="all")
    assert [each.response for each in good] == ["b", "f"]
    assert (odd.reason, odd.detail) == ("empty_response", "turn 4")


def test_only_one_fault_is_told_of_a_row() -> None:
    assert responses([user("a"), assistant(""), user("c"), assistant("")], exchange="all") == ["empty_response"]


def test_a_dialogue_may_have_a_better_and_a_worse_answer_beside_it() -> None:
    better, worse = ({"from": "gpt", "value": text} for text in ("Good", "Bad"))
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}, {"from": "human", "value": "c"}]
    for exchange in ("last", "all"):
        made = demonstration({"conversations": turns, "chosen": better, "rejected": worse}, exchange=exchange)
        assert said(made.prompt) == [("user", "a"), ("assistant", "b"), ("user", "c")]
        assert (made.response, made.rejected) == ("Good", "Bad")
