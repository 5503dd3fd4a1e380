"""Files of evaluations, the summary and costs are parsed into typed models and written back with the same bytes."""

from pathlib import Path
from typing import Any

import pytest

from juicer.evaluation.benchmark_results import BenchmarkedModel
from juicer.evaluation.documents import Document
from juicer.evaluation.results import EvaluatedModel, Metrics, Table, Training
from juicer.reporting.contract import Summary, SummaryRow
from juicer.reporting.leaderboard_table import leaderboard_of
from juicer.reporting.numbers import COLUMNS, summarise
from juicer.runtime.errors import InputError
from juicer.runtime.files import read_json, write_json
from juicer.stages.costs import StageCost
from tests.example_evaluations import benchmark_result, evaluation, parsed, table, training_of

BARE = {"scorer": False, "rejected": False, "oracle": False}


def with_turns() -> dict[str, Any]:
    """An evaluation whose prompts are shown by their turns, and one of whose responses was cut."""
    model = evaluation("sft", "sft", 0)
    for place, sample in enumerate(model["samples"]):
        sample |= {"turns": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Wie geht’s?"}]}
        sample |= {"ended": place > 0}
    return model


def summary(leaderboard: bool, **common: Any) -> dict[str, Any]:
    made = summarise(parsed(table(2, 1, **common)), "quickstart", 7)
    if leaderboard:
        results = [BenchmarkedModel.parse(benchmark_result("base", "base", 0, 100 / 3), "results.json")]
        made = made.model_copy(update={"leaderboard": leaderboard_of(results, paper=True, rounds=2)})
    return made.as_json()


COST = {"stage": "sft", "seconds": 17.579, "peak_memory_mb": 614.7, "steps": 94, "response_tokens": 55678, "mfu": 0.5}
FILES: dict[str, tuple[type[Document], dict[str, Any]]] = {
    "an evaluation": (EvaluatedModel, evaluation("irft-r1", "irft", 1)),
    "an evaluation without a scorer": (EvaluatedModel, evaluation("irft-r1", "irft", 1, **BARE)),
    "turns and a cut response": (EvaluatedModel, with_turns()),
    "a table": (Table[EvaluatedModel], table(3, 2)),
    "an empty table": (Table[EvaluatedModel], {"models": []}),
    "benchmarks": (BenchmarkedModel, benchmark_result("sft", "sft", 0, 12.5, limit=3)),
    "a table of benchmarks": (Table[BenchmarkedModel], {"models": [benchmark_result("sft", "sft", 0)]}),
    "a training record": (Training, training_of("irft_train", 3, 6, 0, ("loss", "kl"))),
    "a summary": (Summary, summary(False)),
    "a summary without a scorer": (Summary, summary(False, **BARE)),
    "a summary with a leaderboard": (Summary, summary(True)),
    "a cost": (StageCost, COST),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_written_back_with_the_same_bytes(name: str, tmp_path: Path) -> None:
    kind, content = FILES[name]
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    write_json(before, content)
    write_json(after, kind.read(before).as_json())
    assert after.read_bytes() == before.read_bytes()


def test_a_row_in_a_table_has_the_bytes_of_its_file(tmp_path: Path) -> None:
    write_json(tmp_path / "row.json", table(1, 1)["models"][-1])
    row = EvaluatedModel.read(tmp_path / "row.json")
    written = Table(models=[row]).as_json()
    assert written == {"models": [read_json(tmp_path / "row.json")]}


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in evaluation("sft", "sft", 0).items() if name != key}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "row.json: the file should be a JSON object, but it is []"),
        ("text", "row.json: the file should be a JSON object, but it is 'text'"),
        (without("held_out"), "row.json: the key 'held_out' is missing"),
        (without("held_out") | {"held_out": []}, "row.json: held_out should be a JSON object, but it is []"),
        (evaluation("sft", "sft", 0) | {"held": 1}, "row.json: the key 'held' is unknown"),
        (evaluation("sft", "sft", 0) | {"round": "1"}, "row.json: round: should be a valid integer, but it is '1'"),
        (evaluation("sft", "sft", 0) | {"round": True}, "row.json: round: should be a valid integer, but it is True"),
    ],
)
def test_a_foreign_file_is_one_line_with_the_file_and_the_key(content: object, message: str) -> None:
    with pytest.raises(InputError) as error:
        EvaluatedModel.parse(content, "row.json")
    assert str(error.value).startswith(message)
    assert str(error.value).endswith("(run the stage that makes it: dvc repro)")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["{", "", '{"name": '])
def test_a_file_that_was_cut_short_is_one_line_with_the_file(text: str, tmp_path: Path) -> None:
    (tmp_path / "row.json").write_text(text)
    with pytest.raises(InputError, match=r"row.json:\d+: invalid JSON"):
        EvaluatedModel.read(tmp_path / "row.json")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_metric_that_is_not_finite_is_refused(value: float) -> None:
    broken = evaluation("sft", "sft", 0)
    broken["held_out"]["kl_to_sft"] = value
    with pytest.raises(InputError, match=r"row.json: held_out.kl_to_sft: should be a finite number"):
        EvaluatedModel.parse(broken, "row.json")


def test_a_wrong_value_is_shown_in_part_only() -> None:
    with pytest.raises(InputError) as error:
        EvaluatedModel.parse(evaluation("sft", "sft", 0) | {"round": "x" * 5000}, "row.json")
    assert len(str(error.value)) < 250


def test_a_curve_with_more_steps_than_values_is_refused() -> None:
    broken = training_of("sft", 3, 3, 0, ("loss",))
    broken["curves"]["loss"]["step"].append(4)
    with pytest.raises(InputError, match=r"training.json: curves.loss: there are 4 steps and 3 values"):
        Training.parse(broken, "training.json")


def test_a_result_without_one_of_the_benchmarks_is_refused() -> None:
    broken = benchmark_result("sft", "sft", 0)
    del broken["columns"]["mmlu"]
    with pytest.raises(InputError, match=r"results.json: the benchmarks mmlu are missing from columns"):
        BenchmarkedModel.parse(broken, "results.json")


def test_metrics_are_rounded_to_six_digits_and_counts_are_not() -> None:
    values = dict.fromkeys(Metrics.model_fields, 1234567.891) | {"prompts": 12345678, "pairs": 7}
    rounded = Metrics.parse({**values, "oracle_mean": None}, "metrics").rounded()
    assert (rounded.prompts, rounded.pairs, rounded.reward_mean, rounded.oracle_mean) == (12345678, 7, 1234570.0, None)


def test_every_column_of_the_table_of_models_is_a_metric_of_the_summary() -> None:
    for column in COLUMNS:
        assert {column.key, column.error or column.key} <= set(SummaryRow.model_fields)
