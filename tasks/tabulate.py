"""Add the evaluation of one model, with what judge and people say of it, or its benchmark scores, to the table so far.

A DVC stage cannot take a list of dependencies from a parameter, so the table grows by one row per stage.
"""

import argparse
from pathlib import Path

from juicer.evaluation.benchmark_results import BenchmarkedModel
from juicer.evaluation.results import EvaluatedModel, R, Table
from juicer.judging.results import PairwiseRecord
from juicer.runtime.errors import InputError
from juicer.runtime.files import read_json, write_json
from juicer.stages.stage import Stage, main, optional_path
from juicer.voting.evidence import voted


def add_row(table: Table[R], row: R, where: str = "") -> Table[R]:
    """A new table with `row` at its end.

    Args:
        table: the rows of the models so far.
        row: what was measured of one model.
        where: the name of the row's file in an error message.

    Raises:
        InputError: the table already has a model of this name.
    """
    if row.name in [known.name for known in table.models]:
        raise InputError(f"the table already has a model {row.name!r}", where=where, do="give each model its own name")
    return table.model_copy(update={"models": [*table.models, row]})


def read_table(path: Path | None, kind: type[R]) -> Table[R]:
    """The table in a file; without a file an empty one.

    Args:
        path: the file.
        kind: type of its rows.

    Raises:
        InputError: the file is missing, is not JSON, or is not a table of such rows.
    """
    if path is None:
        return Table[kind](models=[])  # type: ignore[valid-type]
    return Table[kind].read(path)  # type: ignore[valid-type]


def shortened(values: object) -> object:
    """What a table has of an evaluation: it grows by a row per model, and every later table has all rows again."""
    if not isinstance(values, dict) or not isinstance(rows := values.get("held_out_rows"), dict):
        return values
    kept = {key: value for key, value in values.items() if key not in ("held_out_rows", "validation_rows")}
    return {**kept, "held_out_tokens": rows["demonstration_tokens"]} if "demonstration_tokens" in rows else kept


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--previous", type=optional_path, required=True, help="table so far")
    parser.add_argument("--row", type=Path, required=True, help="evaluation of the model to add")
    parser.add_argument("--pairwise", type=optional_path, help="what the pairwise judge said of the model")
    parser.add_argument("--against", type=optional_path, help="evaluation of the control, for people's votes")
    parser.add_argument("--data", type=Path, help="curated data, for people's votes")
    parser.add_argument("--votes", type=Path, help="folder of people's votes")
    parser.add_argument("--out", type=Path, required=True, help="table to write")


def run(stage: Stage) -> str:
    given = stage.arguments
    whole = read_json(given.row)
    values = shortened(whole)
    record = None if given.pairwise is None else PairwiseRecord.read(given.pairwise)
    if isinstance(values, dict) and record is not None:
        values["pairwise"] = record.summary().as_json()
    if isinstance(values, dict) and given.against is not None and given.votes is not None:
        model, control = EvaluatedModel.parse(whole, str(given.row)), EvaluatedModel.read(given.against)
        found = voted(model, control, given.data / "held_out.jsonl", given.votes, record)
        values |= {} if found is None else {"voted": found.as_json()}
    benchmarks = isinstance(values, dict) and "columns" in values
    return _tabulate(stage, values, BenchmarkedModel) if benchmarks else _tabulate(stage, values, EvaluatedModel)


def _tabulate(stage: Stage, values: object, kind: type[R]) -> str:
    given = stage.arguments
    table = add_row(read_table(given.previous, kind), kind.parse(values, str(given.row)), str(given.row))
    with stage.publish(given.out) as path:
        write_json(path, table.as_json())
    stage.record(models=len(table.models))
    return f"{len(table.models)} models, the last is {table.models[-1].name}"


if __name__ == "__main__":
    main(run, arguments, __doc__)
