"""The table of evaluations grows by one row per model."""

from pathlib import Path

import pytest

from juicer.runtime.errors import InputError
from tasks.tabulate import add_row, read_table


def test_a_row_is_added_at_the_end_and_the_old_table_stays_as_it_was() -> None:
    before = {"models": [{"name": "base"}]}
    assert add_row(before, {"name": "sft"}) == {"models": [{"name": "base"}, {"name": "sft"}]}
    assert before == {"models": [{"name": "base"}]}


def test_without_a_file_there_is_an_empty_table() -> None:
    assert read_table(None) == {"models": []}


def test_a_second_model_of_the_same_name_is_refused() -> None:
    with pytest.raises(InputError, match=r"row.json: the table already has a model 'sft'"):
        add_row({"models": [{"name": "sft"}]}, {"name": "sft"}, "row.json")


def test_a_row_without_a_name_is_refused() -> None:
    with pytest.raises(InputError, match="no name"):
        add_row({"models": []}, {"method": "sft"})


@pytest.mark.parametrize("text", ["[]", '{"model": []}'])
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "table.json").write_text(text)
    with pytest.raises(InputError, match="not a table"):
        read_table(tmp_path / "table.json")


def test_a_missing_table_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_table(tmp_path / "table.json")
