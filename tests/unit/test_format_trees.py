"""OpenAssistant's trees: the best-ranked path is the dialogue, as one row per tree or one row per message."""

from typing import Any

import pytest

from juicer.data.demonstrations import Demonstration
from juicer.sources.formats import LeftOut
from tests.converting import Values, converted, placed, reader, said


def message(name: str, parent: str | None, text: str, role: str, **more: Any) -> Values:
    return {"message_id": name, "parent_id": parent, "text": text, "role": role, "message_tree_id": "t", **more}


MESSAGES = [
    message("1", None, "a", "prompter"),
    message("2", "1", "unranked", "assistant"),
    message("3", "1", "worse", "assistant", rank=1),
    message("4", "1", "b", "assistant", rank=0),
    message("5", "4", "c", "prompter", rank=0),
    message("6", "4", "other", "prompter", rank=1),
    message("7", "5", "d", "assistant", rank=0),
    message("8", "5", "worse", "assistant", rank=1),
    message("9", "5", "worst", "assistant", rank=2),
    message("10", "5", "deleted", "assistant", rank=-1, deleted=True),
    message("11", "7", "e", "prompter"),
]
"""A tree, whose best path is a, b, c, d, and the unanswered e."""


def tree(messages: list[Values]) -> Values:
    """The same as one row."""
    nodes = {each["message_id"]: {**each, "replies": []} for each in messages}
    for each in messages:
        if each["parent_id"] in nodes:
            nodes[each["parent_id"]]["replies"].append(nodes[each["message_id"]])
    return {"message_tree_id": "t", "tree_state": "ready_for_export", "prompt": nodes["1"]}


@pytest.mark.parametrize(
    "rows",
    [MESSAGES, MESSAGES[::-1], [tree(MESSAGES)], [tree(MESSAGES)["prompt"]]],
    ids=["flat", "reversed", "tree", "root"],
)
def test_the_best_ranked_path_is_the_dialogue(rows: list[Values]) -> None:
    source = reader()
    (made,) = source.convert(placed(*rows))
    assert isinstance(made, Demonstration)
    assert said(made.prompt) == [("user", "a"), ("assistant", "b"), ("user", "c")]
    assert (made.response, made.rejected) == ("d", "worst")
    assert source.rows == len(rows)


@pytest.mark.parametrize("rows", [MESSAGES, [tree(MESSAGES)]], ids=["flat", "tree"])
def test_all_answers_of_the_path_may_be_demonstrations(rows: list[Values]) -> None:
    made = [row for row in converted(*rows, exchange="all") if isinstance(row, Demonstration)]
    assert [(row.response, row.rejected) for row in made] == [("b", None), ("d", "worst")]


def test_messages_of_several_trees_may_be_mixed() -> None:
    other = [message("x", None, "A", "prompter"), message("y", "x", "B", "assistant")]
    rows = [other[0], *MESSAGES[:4], other[1], *MESSAGES[4:]]
    assert [row.response for row in converted(*rows)] == ["B", "d"]  # type: ignore[union-attr]


def test_an_unranked_reply_is_not_known_to_be_worse() -> None:
    (made,) = converted(*MESSAGES[:2], message("3", "1", "b", "assistant"))
    assert isinstance(made, Demonstration)
    assert (made.response, made.rejected) == ("unranked", None)


def test_a_prompt_without_a_reply_is_left_out() -> None:
    for rows in (MESSAGES[:1], [tree(MESSAGES[:1])]):
        (fault,) = converted(*rows)
        assert isinstance(fault, LeftOut)
        assert (fault.reason, fault.where) == ("no_assistant_turn", "rows.jsonl:1")


@pytest.mark.parametrize(
    ("odd", "detail"),
    [
        (message("x", "missing", "x", "assistant"), "the file has no message 'missing', its parent"),
        (message("4", "1", "x", "assistant"), "the id '4' occurs twice"),
    ],
)
def test_a_message_that_does_not_fit_into_its_tree_is_left_out(odd: Values, detail: str) -> None:
    faults = [each for each in converted(*MESSAGES, odd) if isinstance(each, LeftOut)]
    assert [(each.reason, each.where, each.detail) for each in faults] == [("broken_tree", "rows.jsonl:12", detail)]


def test_a_message_without_text_is_left_out_alone() -> None:
    odd = message("x", "1", "x", "assistant") | {"text": 3}
    fault, made = converted(*MESSAGES, odd)
    assert isinstance(fault, LeftOut) and isinstance(made, Demonstration)
    assert (fault.reason, made.response) == ("wrong_type", "d")


def test_answers_to_a_deleted_message_are_not_used_and_no_fault() -> None:
    rows = [*MESSAGES, message("12", "10", "x", "prompter"), message("13", "12", "y", "assistant", rank=0)]
    (made,) = converted(*rows)
    assert isinstance(made, Demonstration)
    assert made.response == "d"


def test_a_tree_whose_first_message_is_deleted_is_left_out() -> None:
    rows = [MESSAGES[0] | {"deleted": True}, MESSAGES[3]]
    for each in (rows, [tree(rows)]):
        (fault,) = converted(*each)
        assert isinstance(fault, LeftOut)
        assert (fault.reason, fault.where, fault.unusable) == ("deleted", "rows.jsonl:1", False)


def test_a_tree_that_the_source_holds_out_is_held_out() -> None:
    (made,) = reader().convert(placed(*MESSAGES, held_out=True))
    assert isinstance(made, Demonstration)
    assert made.held_out


def test_keys_of_messages_that_are_not_read_are_counted() -> None:
    source = reader()
    [*source.convert(placed(*(each | {"lang": "en"} for each in MESSAGES)))]
    assert source.unread == {"lang": 11}
    source = reader()
    [*source.convert(placed(tree([each | {"lang": "en"} for each in MESSAGES])))]
    assert source.unread == {"tree_state": 1, "prompt.lang": 1}


@pytest.mark.parametrize("deleted", [False, True])
def test_messages_that_answer_themselves_are_counted(deleted: bool) -> None:
    rows = [
        message("f", "g", "x", "prompter", deleted=deleted),
        message("g", "f", "x", "assistant"),
        message("h", "g", "below them", "prompter"),
        message("s", "s", "x", "assistant"),
    ]
    *faults, made = sorted(converted(*rows, *MESSAGES), key=lambda each: getattr(each, "where", "~"))
    assert isinstance(made, Demonstration)
    assert [(each.reason, each.where) for each in faults if isinstance(each, LeftOut)] == [
        ("broken_tree", f"rows.jsonl:{number}") for number in (1, 2, 4)
    ]


def test_a_deleted_message_whose_parent_is_missing_is_counted() -> None:
    (fault,) = converted(message("b", "gone", "x", "assistant", deleted=True), message("c", "b", "x", "prompter"))
    assert isinstance(fault, LeftOut)
    assert (fault.reason, fault.where) == ("broken_tree", "rows.jsonl:1")


def test_the_id_of_a_message_may_be_0() -> None:
    rows = [{"message_id": 0, "parent_id": None, "text": "Hi", "role": "prompter"}]
    (made,) = converted(*rows, {"message_id": 1, "parent_id": 0, "text": "Hello", "role": "assistant"})
    assert isinstance(made, Demonstration)


@pytest.mark.parametrize("flat", [True, False])
def test_an_answer_of_a_tree_with_weight_0_is_not_trained_on(flat: bool) -> None:
    rows = [each | {"weight": 0} if each["message_id"] == "7" else each for each in MESSAGES]
    (made,) = converted(*(rows if flat else [tree(rows)]))
    assert isinstance(made, Demonstration)
    assert (made.response, made.rejected) == ("b", None)
