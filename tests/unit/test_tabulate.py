"""The table of evaluations grows by one row per model."""

from pathlib import Path

import pytest

from juicer.evaluation.benchmark_results import BenchmarkedModel
from juicer.evaluation.results import EvaluatedModel, Table
from juicer.runtime.errors import InputError
from juicer.runtime.files import write_json
from tasks.tabulate import add_row, read_table, shortened
from tests.example_evaluations import benchmark_result, evaluation


def row(name: str) -> EvaluatedModel:
    return EvaluatedModel.parse(evaluation(name, name, 0), f"{name}.json")


def names(table: Table[EvaluatedModel]) -> list[str]:
    return [model.name for model in table.models]


def test_a_row_is_added_at_the_end_and_the_old_table_stays_as_it_was() -> None:
    before = Table(models=[row("base")])
    assert names(add_row(before, row("sft"))) == ["base", "sft"]
    assert names(before) == ["base"]


def test_without_a_file_there_is_an_empty_table() -> None:
    assert read_table(None, EvaluatedModel).models == []


def test_a_second_model_of_the_same_name_is_refused() -> None:
    with pytest.raises(InputError, match=r"row.json: the table already has a model 'sft'"):
        add_row(Table(models=[row("sft")]), row("sft"), "row.json")


def test_a_row_without_a_name_is_refused() -> None:
    with pytest.raises(InputError, match=r"row.json: the key 'name' is missing"):
        EvaluatedModel.parse(
            {key: value for key, value in evaluation("sft", "sft", 0).items() if key != "name"}, "row.json"
        )


@pytest.mark.parametrize(
    ("text", "message"), [("[]", "the file should be a JSON object"), ('{"model": []}', "the key 'models' is missing")]
)
def test_a_file_that_is_not_a_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "table.json").write_text(text)
    with pytest.raises(InputError, match=f"table.json: {message}"):
        read_table(tmp_path / "table.json", EvaluatedModel)


def test_a_table_of_benchmarks_is_not_a_table_of_evaluations(tmp_path: Path) -> None:
    write_json(tmp_path / "table.json", {"models": [benchmark_result("sft", "sft", 0)]})
    assert [model.name for model in read_table(tmp_path / "table.json", BenchmarkedModel).models] == ["sft"]
    with pytest.raises(InputError, match=r"table.json: the key 'models\.0\.held_out' is missing"):
        read_table(tmp_path / "table.json", EvaluatedModel)


def test_a_missing_table_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_table(tmp_path / "table.json", EvaluatedModel)


def test_a_table_keeps_the_demonstrations_lengths_and_leaves_out_what_else_was_measured_on_each_prompt() -> None:
    values = evaluation("sft", "sft", 0)
    rows = {"demonstration_tokens": [4, 6], "kl": [0.0, 0.1]}
    assert shortened({**values, "held_out_rows": rows}) == {**values, "held_out_tokens": [4, 6]}
    assert shortened(values) == values and shortened([1]) == [1]
