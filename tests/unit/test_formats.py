"""A reader recognises other people's rows, counts what it does not read, and refuses a source that is none."""

import random
import re
from typing import Any

import pytest

from juicer.data.demonstrations import Demonstration
from juicer.runtime.errors import InputError
from juicer.sources.files import Unreadable
from juicer.sources.formats import EXPLANATIONS, MEANT, UNUSABLE, LeftOut
from tests.converting import Values, assistant, converted, demonstration, left_out, placed, reader, said, user

TURNS = [user("Hi"), assistant("Hello")]
ROW = {"prompt": "Hi", "response": "Hello"}
EXAMPLES: dict[str, Values] = {
    "alpaca": {"instruction": "Hi", "input": "", "output": "Hello"},
    "dolly": {"instruction": "Hi", "context": "", "response": "Hello", "category": "open_qa"},
    "hh": {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: No"},
    "kto": {"prompt": "Hi", "completion": "Hello", "label": True},
    "messages": {"messages": TURNS},
    "oasst-messages": {"message_id": "a", "parent_id": None, "text": "Hi", "role": "prompter"},
    "oasst-tree": {
        "message_tree_id": "a",
        "prompt": {"text": "Hi", "role": "prompter", "replies": [{"text": "Hello", "role": "assistant"}]},
    },
    "preference": {"prompt": "Hi", "chosen": "Hello", "rejected": "No"},
    "prompt-response": ROW,
    "question-answer": {"question": "Hi", "answer": "Hello"},
    "sharegpt": {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
    "spin": {"real": TURNS, "generated": [user("Hi"), assistant("No")]},
}


def refusal(*rows: Values, **settings: Any) -> str:
    with pytest.raises(InputError) as error:
        converted(*rows, **settings)
    line = str(error.value)
    assert line.isprintable()
    return line


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_format_is_recognised_by_the_keys_of_its_first_row(name: str) -> None:
    source = reader()
    made = [*source.convert(placed(EXAMPLES[name]))]
    assert source.format == name
    if name != "oasst-messages":
        assert isinstance(made[0], Demonstration)
        assert (said(made[0].prompt), made[0].response) == ([("user", "Hi")], "Hello")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"query": "Hi", "response": "Hello"}, "question-answer"),
        ({"system_prompt": "Be kind.", "question": "Hi", "response": "Hello", "id": "1"}, "question-answer"),
        ({"prompt": "Hi", "prompt_id": "1", "messages": TURNS}, "messages"),
        ({"prompt": "Hi", "chosen": TURNS, "rejected": TURNS, "messages": TURNS, "score_chosen": 1.0}, "preference"),
        ({"prompt": "x", "chosen": "\n\nHuman: Hi\n\nAssistant: Hello"}, "hh"),
        ({"messages": TURNS, "label": True}, "kto"),
        ({"prompt": [user("Hi")], "output": [assistant("Hello")], "label": 1}, "kto"),
        ({"prompt": "Hi", "response": "Hello", "label": 3}, "prompt-response"),
        ({"prompt": "Hi", "completion": "Hello", "label": "1.0"}, "kto"),
        ({"prompt": "Hi", "completion": "Hello", "label": "2"}, "prompt-response"),
        ({"question": "Hi", "answer": "Hello", "label": "spam"}, "question-answer"),
        ({"conversation": [{"role": "user", "content": "Hi"}]}, "sharegpt"),
        ({"instruction": "Hi", "chosen": "Hello", "rejected": "No"}, "preference"),
        # Datasets that were put together have all keys in every row, most of them null.
        ({"prompt": None, "response": None, "instruction": "Hi", "output": "Hello"}, "alpaca"),
    ],
)
def test_keys_that_several_formats_have_mean_the_one_that_fits(values: Values, expected: str) -> None:
    source = reader()
    [*source.convert(placed(values))]
    assert source.format == expected


@pytest.mark.parametrize(
    ("values", "mapping"),
    [
        ({"query_text": "Hi", "reply": "Hello"}, "{prompt: query_text, response: reply}"),
        ({"id": "1", "userQuestion": "Hi", "bot_reply": "Hello", "date": "x"}, "userQuestion, response: bot_reply}"),
        ({"ask": "Hi", "zzz": "Hello"}, "{prompt: ask, response: zzz}"),
        ({"question": "Hi", "ideal_answer": "Hello", "passage": "A text"}, "{prompt: question, "),
        (
            {"thread": [{"speaker": "me", "body": "Hi there"}]},
            "nearest is messages: set fetch.columns: {messages: thread, role: speaker, content: body}",
        ),
        ({"x": [{"sender": "me", "b": "Hi there"}]}, "{messages: x, role: sender, content: b}"),
        ({"instances": [{"input": "Hi", "output": "Hello"}]}, "known are messages"),
        ({"prompt": [{"role": "user", "content": "Hi"}], "reward": 1}, "known are messages"),
        ({"role": "user", "content": "Hi"}, "write a row for each dialogue"),
        ({"text": "Hi"}, "known are messages, conversations"),
        ({}, "the row has the keys nothing"),
        ({"a": 1, "b": [1], "c": [{}], "\x1b[2J\n": "x"}, "fetch.columns: {prompt: KEY, response: KEY}"),
    ],
)
def test_unknown_keys_are_shown_with_the_mapping_to_write(values: Values, mapping: str) -> None:
    line = refusal(values)
    assert line.startswith("rows.jsonl:1: unrecognised format: the row has the keys ")
    assert mapping in line


@pytest.mark.parametrize(
    "values",
    [
        {"prompt": ["1", "2"], "response": ["a", "b"], "id": [1, 2]},
        {"prompt": {"0": "1", "1": "2"}, "response": {"0": "a", "1": "b"}},
        {"messages": {"0": TURNS, "1": TURNS}},
        {"q": {"0": "1"}, "r": {"0": "a"}},
    ],
)
def test_a_table_of_columns_is_refused_with_what_to_write(values: Values) -> None:
    line = refusal(values)
    assert line.startswith("rows.jsonl:1: the row is a table, with a column under each of the keys ")
    assert "a row for each demonstration" in line


def test_the_key_that_is_missing_is_named_as_the_file_names_it() -> None:
    alpaca = EXAMPLES["alpaca"]
    faults = converted(alpaca, {"instruction": None, "output": "x"}, {"instruction": "Hi"})[1:]
    assert [fault.detail for fault in faults if isinstance(fault, LeftOut)] == [
        "'instruction' is null", "the row has no 'output', only instruction"
    ]  # fmt: skip
    assert left_out({"messages": None}).detail == "'messages' is null"
    columns = {"prompt": "q", "response": "r"}
    assert converted({"q": "Hi", "r": "x"}, {"q": "Hi", "r": None}, columns=columns)[1].detail == "'r' is null"  # type: ignore[union-attr]


def test_the_mapping_that_is_proposed_reads_the_row() -> None:
    line = refusal({"query_text": "Hi", "reply": "Hello"})
    columns = dict(part.split(": ") for part in re.findall(r"\{(.*)\}", line)[0].split(", "))
    assert demonstration({"query_text": "Hi", "reply": "Hello"}, columns=columns) == demonstration(ROW)


@pytest.mark.parametrize(
    ("first", "other"),
    [
        ("prompt-response", "messages"),
        ("alpaca", "dolly"),
        ("messages", "sharegpt"),
        ("hh", "spin"),
        ("sharegpt", "prompt-response"),
        ("messages", "oasst-messages"),
        ("oasst-messages", "messages"),
    ],
)
def test_rows_of_two_formats_are_refused_with_both_places(first: str, other: str) -> None:
    line = refusal(EXAMPLES[first], EXAMPLES[other])
    assert line.startswith(f"rows.jsonl:2: the row is of the format {other}, ")
    assert f"at rows.jsonl:1, is of the format {first}" in line


@pytest.mark.parametrize(
    ("rows", "key"),
    [
        ([ROW, {"prompt": "Hi"}], "response"),
        ([ROW, {"prompt": "Hi", "response": None}], "response"),
        ([ROW, {}], "prompt"),
        ([EXAMPLES["kto"], {"prompt": "Hi", "completion": "Hello"}], "label"),
        ([EXAMPLES["preference"], {"chosen": "Hello", "rejected": "No"}], "prompt"),
        ([{"messages": TURNS, "a": 1}, {"a": 1}], "messages"),
    ],
)
def test_a_row_without_a_key_is_left_out(rows: list[Values], key: str) -> None:
    fault = converted(*rows)[1]
    assert isinstance(fault, LeftOut)
    assert (fault.reason, fault.where) == ("missing", "rows.jsonl:2")
    assert repr(key) in str(fault)


def test_a_place_where_no_row_can_be_read_is_left_out() -> None:
    fault, made = reader().convert([Unreadable("invalid JSON: column 3", "rows.jsonl:1"), *placed(ROW)])
    assert str(fault) == "rows.jsonl:1: the row cannot be read: invalid JSON: column 3"
    assert isinstance(made, Demonstration)


def test_every_reason_is_either_meant_or_a_fault() -> None:
    assert EXPLANATIONS.keys() == MEANT | UNUSABLE
    assert not MEANT & UNUSABLE
    assert not LeftOut("undesirable", "a").unusable and LeftOut("missing", "a").unusable


def test_keys_with_a_value_that_were_not_read_are_counted() -> None:
    source = reader()
    rows: list[Values] = [
        {**ROW, "id": number, "tags": [], "note": "", "meta": {}, "source": None} for number in (0, 1)
    ]
    rows[1] |= {"source": "forum", "instruction": "x"}
    assert len([*source.convert(placed(*rows))]) == source.rows == 2
    assert source.unread == {"id": 2, "source": 1, "instruction": 1}


def test_keys_of_messages_that_were_not_read_are_counted_once_a_row() -> None:
    source = reader()
    turns = [user("Hi", name="Ann"), assistant("Hello", name="Bob", refusal=None)]
    [*source.convert(placed({"messages": turns}, {"messages": TURNS}))]
    assert source.unread == {"messages.name": 1}


@pytest.mark.parametrize(
    ("split", "held_out"), [("test", True), ("validation", True), ("held-out", True), ("train", False)]
)
def test_a_column_split_decides_over_the_file(split: str, held_out: bool) -> None:
    source = reader()
    (made,) = source.convert(placed({**ROW, "split": split}, held_out=not held_out))
    assert isinstance(made, Demonstration)
    assert made.held_out is held_out
    assert not source.unread


def test_a_column_split_with_another_value_is_not_read() -> None:
    source = reader()
    (made,) = source.convert(placed({**ROW, "split": "A"}, held_out=True))
    assert isinstance(made, Demonstration)
    assert made.held_out
    assert source.unread == {"split": 1}


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"images": ["a.png"]}, "media"),
        ({"image": "a.png"}, "media"),
        ({"audios": ["a.wav"]}, "media"),
        ({"videos": [{"path": "a.mp4"}]}, "media"),
        ({"tools": [{"name": "search"}]}, "tools"),
        ({"tools": '[{"name": "search"}]'}, "tools"),
        ({"weight": 0}, "not_trained"),
        ({"weight": "0.0"}, "not_trained"),
        ({"weight": -1.5}, "not_trained"),
        ({"train": False}, "not_trained"),
        ({"training": "no"}, "not_trained"),
        ({"loss": "false"}, "not_trained"),
        ({"loss_weight": 0.0}, "not_trained"),
        ({"label": False}, "undesirable"),
        ({"kto_tag": False}, "undesirable"),
        ({"label": "false"}, "undesirable"),
        ({"label": 0}, "undesirable"),
    ],
)
@pytest.mark.parametrize("name", ["alpaca", "messages", "preference", "prompt-response", "sharegpt"])
def test_what_changes_the_meaning_of_a_row_leaves_it_out(name: str, more: Values, reason: str) -> None:
    fault = left_out({**EXAMPLES[name], **more})
    assert (fault.reason, fault.unusable) == (reason, False)


def test_the_place_of_an_image_in_a_text_leaves_the_row_out_where_the_file_has_images() -> None:
    assert left_out({**ROW, "prompt": "<image> What is it?", "images": []}).reason == "media"
    assert left_out({**ROW, "prompt": "<image> What is it?", "image": None}).reason == "media"
    assert left_out({**ROW, "system": "<image>", "image": None}).reason == "media"
    assert demonstration({**ROW, "prompt": "What is <image> in HTML?"}).response == "Hello"


def test_the_place_of_an_image_is_one_from_the_first_row_with_such_a_key() -> None:
    odd = {**ROW, "prompt": "<image> What is it?"}
    source = reader()
    made = [*source.convert(placed(odd, {**ROW, "images": []}, ROW, odd))]
    assert [type(each) for each in made] == [Demonstration] * 3 + [LeftOut]
    assert isinstance(next(source.convert(placed(odd))), Demonstration), "the next file has no images"


def test_marks_of_a_row_that_say_nothing_are_not_read() -> None:
    source = reader()
    made = [*source.convert(placed(*({**ROW, **more} for more in ({"weight": 1}, {"train": True}, {"loss": 2.5}))))]
    assert [type(each) for each in made] == [Demonstration] * 3
    assert source.unread == {"loss": 1}


@pytest.mark.parametrize(
    "more",
    [
        {"images": []},
        {"image": {"bytes": None, "path": None}},
        {"tools": "[]"},
        {"tools": None},
        {"tools": float("nan")},
        {"label": True},
        {"label": 3},
    ],
)
def test_what_says_nothing_does_not_leave_a_row_out(more: Values) -> None:
    assert demonstration({**EXAMPLES["alpaca"], **more}).response == "Hello"


def test_columns_of_other_names_are_mapped() -> None:
    columns = {"prompt": "q", "response": "r", "system": "s", "context": "c", "rejected": "bad"}
    source = reader(columns=columns)
    rows = [
        {"q": "Why?", "r": "So.", "s": "Be kind.", "c": "A text.", "bad": "No.", "prompt": "x"},
        {"q": "A", "r": "B"},
    ]
    first, second = source.convert(placed(*rows))
    assert isinstance(first, Demonstration) and isinstance(second, Demonstration)
    assert said(first.prompt) == [("system", "Be kind."), ("user", "Why?\n\nA text.")]
    assert (first.response, first.rejected) == ("So.", "No.")
    assert (said(second.prompt), second.rejected) == ([("user", "A")], None)
    assert (source.format, source.unread) == ("prompt-response", {"prompt": 1})


def test_messages_and_roles_of_other_names_are_mapped() -> None:
    columns = {
        "messages": "thread",
        "role": "speaker",
        "content": "body",
        "roles": {"user": ["customer"], "assistant": ["agent"], "system": ["policy"]},
    }
    turns = [("policy", "Be kind."), ("customer", "Hi"), ("agent", "Hello")]
    made = demonstration({"thread": [{"speaker": who, "body": what} for who, what in turns]}, columns=columns)
    assert (said(made.prompt), made.response) == ([("system", "Be kind."), ("user", "Hi")], "Hello")


def test_the_worse_of_two_dialogues_may_have_any_name() -> None:
    values = {"good": TURNS, "bad": [user("Hi"), assistant("No")]}
    assert demonstration(values, columns={"messages": "good", "rejected": "bad"}).rejected == "No"


def test_one_column_may_be_named_beside_a_known_format() -> None:
    made = demonstration({**ROW, "persona": "Be kind."}, columns={"system": "persona"})
    assert said(made.prompt) == [("system", "Be kind."), ("user", "Hi")]
    alpaca = {"instruction": "Add.", "input": "1, 2", "reply": "3"}
    made = demonstration(alpaca, format="alpaca", columns={"prompt": "instruction", "response": "reply"})
    assert said(made.prompt) == [("user", "Add.\n\n1, 2")]


@pytest.mark.parametrize(
    ("values", "columns", "message"),
    [
        (ROW, {"prompt": "promt", "response": "response"}, r"promt', and the row has the keys prompt.*mean 'prompt'"),
        (ROW, {"system": "sistem"}, r"fetch\.columns\.system is 'sistem'"),
        (
            {"messages": [{"rolle": "user", "content": "Hi"}]},
            {"messages": "messages", "role": "role"},
            r"fetch\.columns\.role is 'role', and the message has the keys content, rolle \(did you mean 'rolle'\?\)",
        ),
        ({"messages": TURNS, "c": "x"}, {"context": "c"}, r"fetch\.columns\.context is of no use"),
    ],
)
def test_a_column_that_does_not_exist_is_refused_with_the_nearest(
    values: Values, columns: Values, message: str
) -> None:
    assert re.search(message, refusal(values, columns=columns))


def test_a_format_that_the_first_row_does_not_have_is_refused() -> None:
    line = refusal(ROW, format="sharegpt")
    assert "a row of the format sharegpt has 'conversations' or 'conversation'" in line
    assert "the keys prompt, response" in line


@pytest.mark.parametrize(
    ("values", "detail"),
    [
        ({"prompt": 1, "response": "Hello"}, "'prompt' must be text or a list of messages, not 1"),
        ({"prompt": "Hi", "response": 2.5}, "'response' must be text or a list of messages, not 2.5"),
        ({"prompt": "Hi", "response": ["Hello"]}, "message 1 of 'response' must be a mapping with a role and a text"),
        ({"chosen": 3}, "'chosen' must be text or a list of messages, not 3"),
        ({"messages": "Hi"}, "'messages' must be a list of messages, not 'Hi'"),
        ({"messages": "[{"}, "'messages' is text, but no valid JSON"),
        ({"messages": ["Hi"]}, "message 1 of 'messages' must be a mapping"),
        ({"messages": [{"content": "Hi"}]}, "message 1 of 'messages' must have a role and a text, and has content"),
        ({"messages": [user(None)]}, "the content of message 1 of 'messages' must be text, not null"),
        ({"instruction": "Hi", "output": "Hello", "input": 3}, "'input' must be text, not 3"),
        ({"instruction": "Hi", "output": "Hello", "history": [["a"]]}, "'history' must be a list of pairs of texts"),
        ({"prompt": "Hi", "response": "Hello", "system": ["x"]}, "'system' must be text, not list"),
    ],
)
def test_a_value_of_the_wrong_type_leaves_its_row_out(values: Values, detail: str) -> None:
    fault = left_out(values)
    assert (fault.reason, fault.unusable) == ("wrong_type", True)
    assert fault.detail.startswith(detail)


@pytest.mark.parametrize("name", EXAMPLES)
def test_values_of_any_type_never_raise(name: str) -> None:
    """Random replacements of the values of a row, at any depth, are converted or left out."""
    random_ = random.Random(name)
    odd: list[Any] = [
        None,
        "",
        " ",
        0,
        1.5,
        True,
        [],
        {},
        [[]],
        [{}],
        "[]",
        '[{"a": 1}]',
        "\ud800",
        "x",
        [None],
        {"text": 1},
    ]

    def changed(value: Any) -> Any:
        if random_.random() < 0.15:
            return random_.choice(odd)
        if isinstance(value, dict):
            return {key: changed(each) for key, each in value.items()}
        return [changed(each) for each in value] if isinstance(value, list) else value

    for exchange in ("last", "all"):
        rows = [EXAMPLES[name], *(changed(EXAMPLES[name]) for _ in range(300))]
        rows = [row for row in rows if isinstance(row, dict)]
        assert len(converted(*rows, format=name, exchange=exchange)) > 0
