"""Add the evaluation of one model to the table of all models so far.

DVC stages take no list of dependencies from a parameter, so the table grows by one row per stage.
"""

import argparse
from pathlib import Path
from typing import Any

from juicer.runtime.errors import InputError
from juicer.runtime.files import read_json, write_json
from juicer.stages.stage import Stage, main, optional_path


def add_row(table: dict[str, Any], row: dict[str, Any], where: str = "") -> dict[str, Any]:
    """A new table with `row` at its end.

    Args:
        table: {"models": [evaluation, ...]}.
        row: the evaluation of one model.
        where: what to call the row in an error.

    Raises:
        InputError: the row has no name, or the table already holds a model of that name.
    """
    if not isinstance(row, dict) or not isinstance(row.get("name"), str):
        raise InputError("not the evaluation of a model: it has no name", where=where)
    if row["name"] in [known["name"] for known in table["models"]]:
        raise InputError(f"the table already has a model {row['name']!r}", where=where, do="give each model its name")
    return {"models": [*table["models"], row]}


def read_table(path: Path | None) -> dict[str, Any]:
    """A table of evaluations; without a file an empty one.

    Raises:
        InputError: the file is missing, broken, or no table.
    """
    if path is None:
        return {"models": []}
    table = read_json(path)
    if not isinstance(table, dict) or not isinstance(table.get("models"), list):
        raise InputError("not a table of evaluations: it has no list of models", where=str(path))
    return table


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--previous", type=optional_path, required=True, help="table so far")
    parser.add_argument("--row", type=Path, required=True, help="evaluation of the model to add")
    parser.add_argument("--out", type=Path, required=True, help="table to write")


def run(stage: Stage) -> str:
    given = stage.arguments
    table = add_row(read_table(given.previous), read_json(given.row), str(given.row))
    with stage.publish(given.out) as path:
        write_json(path, table)
    stage.record(models=len(table["models"]))
    return f"{len(table['models'])} models, the last is {table['models'][-1]['name']}"


if __name__ == "__main__":
    main(run, arguments, __doc__)
