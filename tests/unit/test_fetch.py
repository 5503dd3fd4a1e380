"""What fetch does with every row: used, held out, or left out with its reason and its place; never lost in silence."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from juicer.runtime.errors import InputError
from juicer.settings.data import CurateSettings
from juicer.settings.sources import FetchSettings
from juicer.sources.curation import split_of
from tests.fetching import fetched, written

EMPTY = {"prompt": "Hi", "response": " "}
UNANSWERED = {"messages": [{"role": "user", "content": "Hi"}]}


def answered(number: int = 0) -> dict[str, Any]:
    return {"prompt": f"question {number}", "response": f"answer {number}"}


def dialogue(number: int, **more: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": f"question {number}"}, {"role": "assistant", "content": f"answer {number}"}]
    return {"messages": turns, **more}


def test_every_file_is_recorded_with_its_md5_and_its_rows(tmp_path: Path) -> None:
    train = written(tmp_path / "data" / "train.jsonl", [answered(1), answered(2)])
    written(tmp_path / "data" / "valid.jsonl", [answered(3)])
    found = fetched(tmp_path, source=str(tmp_path / "data"), licence="MIT")
    assert found.provenance["rows"] == {"read": 3, "kept": 3, "held_out": 1, "left_out": 0}
    assert found.provenance["licence"] == "MIT"
    files = found.provenance["sources"][0]["files"]
    assert [(file["name"], file["rows"], file["held_out"]) for file in files] == [
        ("train.jsonl", 2, None),
        ("valid.jsonl", 1, "valid"),
    ]
    assert files[0]["md5"] == hashlib.md5(train.read_bytes()).hexdigest()
    output = (tmp_path / "raw" / "demonstrations.jsonl").read_bytes()
    assert found.provenance["output"]["md5"] == hashlib.md5(output).hexdigest()
    assert [row.held_out for row in found.rows] == [False, False, True]
    assert "held out 1 row (valid.jsonl, whose name says 'valid')" in found.said


def test_files_of_other_types_are_named(tmp_path: Path) -> None:
    written(tmp_path / "data" / "train.jsonl", [answered(1)])
    for name in ("notes.txt", "README.md", "more.txt"):
        (tmp_path / "data" / name).touch()
    found = fetched(tmp_path, source=str(tmp_path / "data"))
    assert found.provenance["sources"][0]["ignored"] == {".md": 1, ".txt": 2}
    assert found.said.endswith("ignored 3 other files (.md, .txt)")


def test_keys_that_were_not_read_are_named_with_their_counts(tmp_path: Path) -> None:
    rows = [answered(1) | {"source": "forum"}, answered(2) | {"source": "forum", "id": 7}, answered(3) | {"id": None}]
    found = fetched(tmp_path, source=str(written(tmp_path / "a.jsonl", rows)))
    assert found.provenance["sources"][0]["unread"] == {"source": 2, "id": 1}
    assert "not read: source (2), id (1)" in found.said


def test_one_odd_row_in_a_thousand_is_left_out_with_its_place(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = [dialogue(number) for number in range(999)]
    rows.insert(500, {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None}]})
    source = written(tmp_path / "a.jsonl", rows)
    found = fetched(tmp_path, source=str(source))
    assert len(found.rows) == 999
    (reason,) = found.provenance["left_out"].values()
    assert reason["rows"] == 1 and reason["places"][0].startswith(f"{source}:501")
    assert capfd.readouterr().err.startswith("warning: left out 1 row: ")


def test_one_bad_row_of_five_does_not_stop_the_run(tmp_path: Path) -> None:
    found = fetched(tmp_path, source=str(written(tmp_path / "a.jsonl", [*map(answered, range(4)), EMPTY])))
    assert len(found.rows) == 4


def test_where_most_rows_are_unusable_the_most_frequent_reason_is_named_with_its_own_count(tmp_path: Path) -> None:
    empty = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": ""}]}
    rows = [empty, *[UNANSWERED] * 60, *map(dialogue, range(40))]
    source = written(tmp_path / "a.jsonl", rows)
    with pytest.raises(InputError, match=rf"{source}:2: .*assistant turn; 60 of 101 rows, and 1 .*unusable_share"):
        fetched(tmp_path, source=str(source))
    found = fetched(tmp_path, source=str(source), unusable_share=0.7)
    assert len(found.rows) == 40


def test_rows_of_two_formats_stop_the_run_with_both_places_and_one_does_not(tmp_path: Path) -> None:
    source = written(tmp_path / "a.jsonl", [*map(answered, range(30)), dialogue(1), *map(answered, range(30, 60))])
    assert len(fetched(tmp_path, source=str(source)).rows) == 60
    source = written(tmp_path / "a.jsonl", [*map(answered, range(30)), *map(dialogue, range(30))])
    with pytest.raises(InputError, match=rf"{source}:31: .*it is messages, .*{source}:1, is prompt-response; 30 of 60"):
        fetched(tmp_path, source=str(source))


def test_rows_that_are_no_demonstrations_by_their_label_never_stop_the_run(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{number}", "completion": "a", "label": number < 5} for number in range(50)]
    found = fetched(tmp_path, source=str(written(tmp_path / "a.jsonl", rows)))
    assert [row.prompt[0]["content"] for row in found.rows] == [f"q{number}" for number in range(5)]
    assert [reason["rows"] for reason in found.provenance["left_out"].values()] == [45]


def test_several_paths_may_have_different_formats(tmp_path: Path) -> None:
    one = written(tmp_path / "one.jsonl", [answered(1)])
    two = written(tmp_path / "two.jsonl", [{"instruction": "Translate.", "input": "hello", "output": "bonjour"}])
    found = fetched(tmp_path, source=[str(one), str(two)])
    assert [row.response for row in found.rows] == ["answer 1", "bonjour"]
    assert [source["format"] for source in found.provenance["sources"]] == ["prompt-response", "alpaca"]


def test_the_columns_of_a_source_of_a_mixture_are_its_own(tmp_path: Path) -> None:
    one = written(tmp_path / "one.jsonl", [answered(1)])
    two = written(tmp_path / "two.jsonl", [{"ask": "question 2", "reply": "answer 2"}])
    columns = {"prompt": "ask", "response": "reply"}
    found = fetched(tmp_path, source=[str(one), {"path": str(two), "columns": columns}])
    assert [row.response for row in found.rows] == ["answer 1", "answer 2"]


def test_a_mixture_has_the_proportions_of_its_weights_and_no_row_twice(tmp_path: Path) -> None:
    one = written(tmp_path / "one.jsonl", [answered(number) for number in range(100)])
    two = written(tmp_path / "two.jsonl", [answered(number) for number in range(100, 400)])
    mixture = [{"path": str(one), "weight": 1.0}, {"path": str(two), "weight": 0.5}]
    found = fetched(tmp_path, source=mixture)
    numbers = [int(row.response.split()[1]) for row in found.rows]
    assert len([number for number in numbers if number < 100]) == 100
    assert len([number for number in numbers if number >= 100]) == 50
    assert numbers == sorted(set(numbers))
    assert [source["used"] for source in found.provenance["sources"]] == [100, 50]
    assert sorted(path.name for path in (tmp_path / "raw").iterdir()) == ["demonstrations.jsonl", "provenance.json"]
    assert fetched(tmp_path, source=mixture).rows == found.rows


def test_a_mixture_has_its_proportions_in_every_split(tmp_path: Path) -> None:
    one = written(tmp_path / "one.jsonl", [answered(number) for number in range(2000)])
    two = written(tmp_path / "two.jsonl", [answered(number) for number in range(2000, 2400)])
    found = fetched(tmp_path, source=[{"path": str(one), "weight": 1}, {"path": str(two), "weight": 1}])
    shares = CurateSettings(validation_share=0.2, held_out_share=0.2)
    splits = Counter(
        (split_of(row.split_hash(), shares, False), int(row.response.split()[1]) < 2000) for row in found.rows
    )
    for split, expected in (("train", 240), ("validation", 80), ("held_out", 80)):
        assert splits[split, True] == pytest.approx(expected, rel=0.35)
        assert splits[split, False] == pytest.approx(expected, rel=0.35)


def test_rows_that_a_source_of_a_mixture_holds_out_are_all_kept(tmp_path: Path) -> None:
    one = written(tmp_path / "one.jsonl", [answered(number) for number in range(4)])
    rows = [answered(number) | {"split": "test" if number % 2 else "train"} for number in range(10, 50)]
    two = written(tmp_path / "two.jsonl", rows)
    found = fetched(tmp_path, source=[{"path": str(one), "weight": 1}, {"path": str(two), "weight": 1}])
    assert sum(row.held_out for row in found.rows) == 20
    assert sum(not row.held_out for row in found.rows) == 8


def test_a_glob_reads_what_it_matches(tmp_path: Path) -> None:
    written(tmp_path / "part-1.jsonl", [answered(1)])
    written(tmp_path / "part-2.jsonl", [answered(2)])
    written(tmp_path / "other.jsonl", [answered(3)])
    found = fetched(tmp_path, source=str(tmp_path / "part-*.jsonl"))
    assert [row.response for row in found.rows] == ["answer 1", "answer 2"]


def test_white_space_around_a_response_is_kept(tmp_path: Path) -> None:
    rows = [{"prompt": "Complete f.", "completion": "    return x\n"}]
    found = fetched(tmp_path, source=str(written(tmp_path / "a.jsonl", rows)))
    assert found.rows[0].response == "    return x\n"


def test_all_turns_of_a_dialogue_share_what_decides_their_split(tmp_path: Path) -> None:
    turns = [{"role": role, "content": f"{role} {number}"} for number in range(3) for role in ("user", "assistant")]
    found = fetched(tmp_path, source=str(written(tmp_path / "a.jsonl", [{"messages": turns}])), exchange="all")
    assert [row.response for row in found.rows] == ["assistant 0", "assistant 1", "assistant 2"]
    assert len({row.split_hash() for row in found.rows}) == 1


def test_a_source_is_split_by_its_dialogues_too_where_another_has_a_row_for_each_turn(tmp_path: Path) -> None:
    turns = dialogue(1)["messages"] + dialogue(2)["messages"]
    one, two = written(tmp_path / "one.jsonl", [{"messages": turns}]), written(tmp_path / "two.jsonl", [dialogue(1)])
    found = fetched(tmp_path, source=[{"path": str(one), "exchange": "all"}, {"path": str(two)}])
    assert len({row.split_hash() for row in found.rows}) == 1


def test_an_empty_source_of_several_is_named(tmp_path: Path) -> None:
    one = written(tmp_path / "one.jsonl", [answered(1)])
    with pytest.raises(InputError, match=r"empty\.jsonl: the dataset is empty"):
        fetched(tmp_path, source=[str(one), str(written(tmp_path / "empty.jsonl", []))])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"source": [{"path": "a", "weigth": 1}]},
            r"unknown parameter 'source\.0\.weigth' \(did you mean 'weight'\?\)",
        ),
        ({"source": []}, "an empty list"),
        ({"source": [f"{number}.jsonl" for number in range(9)]}, "9 entries, more than 8"),
        ({"source": ["a", {"path": "b", "weight": 1}]}, "some have none"),
        ({"source": ["world", "a"]}, "cannot be mixed"),
        ({"source": [{"weight": 1}]}, r"'source\.0\.path' is missing"),
        ({"source": "a", "columns": {"prompt": "x"}}, "needs both prompt and response"),
        ({"source": "a", "columns": {"prompt": "x", "response": "x"}}, "the same column for prompt and response"),
        ({"source": "a", "columns": {"prompt": "x", "response": "y", "messages": "z"}}, "name one or the others"),
        ({"source": "a", "columns": {"promt": "x"}}, r"'columns\.promt' \(did you mean 'prompt'\?\)"),
    ],
)
def test_settings_of_sources_are_checked(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FetchSettings.parse(values, "recipe: fetch")
