"""What a run expects of its stages: as long as the same work took here, and nothing where that is not known."""

from pathlib import Path

import pytest

from juicer.running.durations import Duration, Job, expected, keep, read, remaining, work_of

COMMAND = "python -m tasks.sft --data data/curated --out models/sft"
LARGE = 1_000_000
JOBS = [
    Job("curate", "c", ("raw",), ()),
    Job("sft", "s", ("curated",), ("curate",)),
    Job("irft@r1", "i", ("sft", "curated"), ("sft",)),
    Job("irft@r2", "i", ("r1", "curated"), ("irft@r1",)),
]
KNOWN = [
    Duration(stage="curate", work="c", sizes=(LARGE,), seconds=5.0),
    Duration(stage="sft", work="s", sizes=(LARGE,), seconds=40.0),
    Duration(stage="irft@r1", work="i", sizes=(LARGE, LARGE), seconds=60.0),
]
SIZES = {"raw": LARGE, "curated": LARGE, "sft": LARGE}


def seconds(
    pending: set[str], sizes: dict[str, int] | None = None, known: list[Duration] = KNOWN
) -> list[float | None]:
    return list(expected(JOBS, pending, known, (SIZES if sizes is None else sizes).get).values())


def test_the_seed_and_the_round_do_not_change_how_long_a_stage_takes_and_the_rest_does() -> None:
    one = work_of(COMMAND, {"seed": 0, "sft.epochs": 2, "graph.base": "models/world", "name": "mine"})
    assert one == work_of(COMMAND, {"seed": 7, "sft.epochs": 2, "graph.base": "other", "name": "yours"})
    assert one != work_of(COMMAND, {"seed": 0, "sft.epochs": 3, "graph.base": "models/world", "name": "mine"})
    assert one != work_of("python -m tasks.other", {"seed": 0, "sft.epochs": 2})


def test_a_stage_is_expected_to_take_what_the_same_work_took() -> None:
    assert seconds({"sft"}) == [40.0]
    assert seconds({"curate", "sft"}) == [5.0, 40.0]


def test_another_round_is_expected_to_take_what_the_one_before_took() -> None:
    assert seconds({"irft@r1", "irft@r2"}) == [60.0, 60.0]


def test_of_several_times_the_stages_own_last_one_counts() -> None:
    own = Duration(stage="irft@r2", work="i", sizes=(LARGE, LARGE), seconds=80.0)
    assert seconds({"irft@r1", "irft@r2"}, known=[own, *KNOWN]) == [60.0, 80.0]


def test_nothing_is_expected_of_other_parameters_or_of_what_follows_from_them() -> None:
    known = [each for each in KNOWN if each.stage != "curate"]
    assert seconds({"curate", "sft", "irft@r1"}, known=known) == [None, None, None]
    assert seconds({"sft", "irft@r1"}, known=known) == [40.0, 60.0], "its inputs are there"


@pytest.mark.parametrize(("size", "found"), [(1.2, 40.0), (0.8, 40.0), (2, None), (0.1, None)])
def test_nothing_is_expected_of_inputs_of_another_size(size: float, found: float | None) -> None:
    assert seconds({"sft"}, {"curated": int(size * LARGE)}) == [found]


def test_an_input_that_nobody_is_about_to_make_is_not_taken_for_the_same() -> None:
    assert seconds({"sft"}, {}) == [None]


def test_times_are_kept_by_stage_and_work_and_the_last_one_stands(tmp_path: Path) -> None:
    path = tmp_path / "durations.json"
    for each in (*KNOWN, KNOWN[0].model_copy(update={"seconds": 9.0})):
        keep(each, path)
    assert [(each.stage, each.seconds) for each in read(path)] == [("sft", 40.0), ("irft@r1", 60.0), ("curate", 9.0)]


@pytest.mark.parametrize("text", ["", "[{}]", "not JSON", '[{"stage": "sft"}]'])
def test_a_damaged_record_is_no_record(tmp_path: Path, text: str) -> None:
    path = tmp_path / "durations.json"
    path.write_text(text)
    assert read(path) == () == read(tmp_path / "none")
    keep(KNOWN[0], path)
    assert read(path) == (KNOWN[0],)


def test_what_is_left_depends_on_what_can_run_at_the_same_time() -> None:
    needs = {"c": ["a", "b"]}
    left = {"a": 10.0, "b": 4.0, "c": 2.0}
    assert remaining(["a", "b", "c"], needs, left, 1) == 16
    assert remaining(["a", "b", "c"], needs, left, 2) == 12
    assert remaining(["a", "b", "c"], {}, left, 3) == 10
    assert remaining(["a", "b", "c"], needs, {}, 2) == 0


def test_a_running_stage_has_its_place() -> None:
    assert remaining(["a", "b"], {}, {"a": 5.0, "b": 5.0}, 1, ["b"]) == 10
    assert remaining(["a", "b"], {"b": ["a"]}, {"b": 3.0}, 2, ["b"]) == 3


def test_stages_that_do_not_fit_beside_each_other_take_their_times_together() -> None:
    left = {"a": 5.0, "b": 4.0, "c": 3.0}
    assert remaining(["a", "b", "c"], {}, left, 3, (), lambda stage, running: False) == 12
    assert remaining(["a", "b", "c"], {}, left, 3, (), lambda stage, running: "a" not in [*running, stage]) == 9
