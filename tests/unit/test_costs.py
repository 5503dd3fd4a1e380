"""Costs stand beside the report, and a stage that was restored is never given the cost of another result."""

import json
import re
from pathlib import Path

import pytest

from juicer.reporting.costs import RESTORED, WAITING, StageRow, gather, refresh, render
from juicer.runtime.errors import InputError
from juicer.stages.costs import StageCost

PIPELINE = """
stages:
  fetch: {cmd: a, outs: [data]}
  train:
    foreach: ${graph.rounds}
    do: {cmd: 'b ${key}', outs: ['model-${key}']}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    (tmp_path / "params.yaml").write_text("graph: {rounds: {r1: {}, r2: {}}}\n")
    return tmp_path


def cost(root: Path, stage: str, seconds: float) -> None:
    (root / ".juicer/costs").mkdir(parents=True, exist_ok=True)
    text = json.dumps({"stage": stage, "seconds": seconds, "peak_memory_mb": 100.0, "rows": 3})
    (root / f".juicer/costs/{stage}.json").write_text(text)


def lock(root: Path, **states: str) -> None:
    outs = {"fetch": "data", "train_r1": "model-r1", "train_r2": "model-r2"}
    stages = {
        name.replace("_r", "@r"): {"cmd": "a", "outs": [{"path": outs[name], "hash": "md5", "md5": f"{state:0<32}"}]}
        for name, state in states.items()
    }
    (root / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": stages}))


def seconds(rows: list[StageRow]) -> dict[str, float | str | None]:
    return {row.stage: row.cost.seconds if row.cost else row.status for row in rows}


def measured(stage: str, **costs: float) -> StageRow:
    return StageRow(stage, StageCost.parse({"stage": stage, **costs}, "cost.json"))


def test_each_stage_of_the_pipeline_has_a_row_and_others_are_left_out(root: Path) -> None:
    cost(root, "fetch", 1.5)
    cost(root, "gone@r9", 9.0)
    lock(root, fetch="a", train_r1="b")
    assert seconds(gather(root)) == {"fetch": 1.5, "train@r1": RESTORED, "train@r2": WAITING}


def test_a_restored_stage_is_shown_with_the_cost_of_the_result_that_it_restores_or_none(root: Path) -> None:
    cost(root, "fetch", 1.0)
    lock(root, fetch="first")
    assert seconds(gather(root))["fetch"] == 1.0
    cost(root, "fetch", 2.0)
    lock(root, fetch="second")
    assert seconds(gather(root))["fetch"] == 2.0
    lock(root, fetch="first")
    assert seconds(gather(root))["fetch"] == 1.0
    lock(root, fetch="third")
    assert seconds(gather(root))["fetch"] == RESTORED


def test_a_stage_that_ran_again_for_the_same_result_shows_its_last_cost(root: Path) -> None:
    lock(root, fetch="same")
    for value in (1.0, 2.0):
        cost(root, "fetch", value)
        assert seconds(gather(root))["fetch"] == value


def test_stages_that_were_run_by_hand_are_shown_without_a_pipeline(tmp_path: Path) -> None:
    cost(tmp_path, "fetch", 1.0)
    assert seconds(gather(tmp_path)) == {"fetch": 1.0}


def test_a_cost_file_that_was_cut_short_does_not_stop_the_report(root: Path) -> None:
    cost(root, "fetch", 1.0)
    (root / ".juicer/costs/fetch.json").write_text('{"stage": "fe')
    lock(root, fetch="a")
    assert seconds(gather(root))["fetch"] == RESTORED


def test_the_page_sums_seconds_and_takes_the_highest_peak(root: Path) -> None:
    cost(root, "fetch", 1.5)
    cost(root, "train@r1", 2.25)
    lock(root, fetch="a", train_r1="b")
    rows = refresh(root / "report", root)
    page = (root / "report/costs.html").read_text()
    assert page == render(rows)
    assert "<b>3.8</b>" in page
    assert "2 of 3 measured" in page
    assert WAITING in page
    assert json.loads((root / "report/costs.json").read_text()) == [row.as_json() for row in rows]


def test_the_memory_of_a_gpu_has_a_column_where_a_stage_used_one() -> None:
    rows = [
        measured("fetch", seconds=1.0, peak_memory_mb=100.0),
        measured("sft", peak_device_memory_mb=7000.0, peak_device_reserved_mb=8000.0),
        measured("evaluate", seconds=2.0, peak_device_memory_mb=5000.0),
        StageRow("report", None, WAITING),
    ]
    page = render(rows)
    assert '<th scope="col">Peak memory, MB</th><th scope="col">Peak device memory, MB</th>' in page
    assert "<td><b>100</b></td><td><b>7\u202f000</b></td>" in page
    assert "peak device reserved mb 8\u202f000" in page
    assert len({columns_of(row) for row in re.findall("<tr.*?</tr>", page)}) == 1, "every row fills the table"
    assert "Peak device memory" not in render(rows[:1])


def columns_of(row: str) -> int:
    """How many columns a row of the table takes."""
    spans = re.findall(r'colspan="(\d+)"', row)
    return len(re.findall("<t[dh]", row)) + sum(int(span) - 1 for span in spans)


def test_speed_is_shown_beside_the_costs() -> None:
    page = render([measured("sft", seconds=2.0, training_tokens_per_second=1234.5, mfu=0.4567)])
    assert "training tokens per second 1\u202f234, mfu 0.457" in page


def test_names_of_stages_are_escaped() -> None:
    assert "<i>" not in render([measured("<i>", seconds=1.0, **{"<b>": 2.0})])
    assert "<b>: " not in render([measured("<i>", seconds=1.0, **{"<b>": 2.0})])


def test_a_cost_is_written_as_the_stage_recorded_it() -> None:
    cost = StageCost.create("sft", {"steps": 94, "rows": 3.5}, seconds=1.0, cpu_seconds=2.0, output_md5="ab", mfu=0.5)
    written = (
        '{"stage": "sft", "seconds": 1.0, "cpu_seconds": 2.0, "steps": 94, "rows": 3.5, "output_md5": "ab", "mfu": 0.5}'
    )
    assert json.dumps(cost.as_json()) == written
    assert StageCost.parse(json.loads(written), "sft.json") == cost


def test_when_a_stage_ended_is_recorded_and_is_no_cost() -> None:
    cost = StageCost.create("sft", {"steps": 94}, seconds=1.0, ended=1.7e9, output_md5="ab")
    assert json.dumps(cost.as_json()).endswith('"steps": 94, "ended": 1700000000.0, "output_md5": "ab"}')
    assert cost.numbers() == {"seconds": 1.0, "steps": 94}


@pytest.mark.parametrize(("key", "value"), [("seconds", "long"), ("steps", "many"), ("stage", None)])
def test_a_cost_that_is_not_a_number_names_the_file_and_the_key(key: str, value: object) -> None:
    with pytest.raises(InputError, match=f"sft.json: {key}: .*{value!r}"):
        StageCost.parse({"stage": "sft", key: value}, "sft.json")
