"""The leaderboard of a recipe, with the paper's own figures beside it. Pure functions, no files."""

from collections.abc import Sequence
from typing import Any

from juicer.evaluation.benchmarks import COLUMNS
from juicer.reporting.numbers import Row, shown, significant
from juicer.runtime.errors import InputError

HEADINGS = {
    "arc": "ARC",
    "truthfulqa": "TruthfulQA",
    "winogrande": "Winogrande",
    "gsm8k": "GSM8k",
    "hellaswag": "HellaSwag",
    "mmlu": "MMLU",
    "average": "Average",
}
"""The columns as the paper's table names them."""

PAPER = {
    0: (74.83, 34.07, 76.09, 31.92, 81.09, 58.86, 59.48),
    1: (75.08, 36.57, 76.01, 33.59, 82.81, 57.83, 60.32),
    2: (76.13, 36.56, 76.64, 35.56, 83.39, 57.82, 61.02),
    5: (75.82, 39.99, 77.19, 31.24, 82.07, 57.93, 60.71),
    8: (75.23, 36.67, 75.85, 31.84, 80.89, 58.60, 59.85),
    10: (76.78, 36.84, 77.43, 34.34, 83.05, 57.72, 61.03),
    16: (75.79, 35.55, 76.56, 32.52, 82.30, 58.77, 60.25),
}
"""The poster of arXiv 2405.17888: zephyr-7b-sft-full (T = 0) and IRFT with T rounds on UltraChat-200k, in per cent, in
the order of HEADINGS."""


def leaderboard_of(results: Sequence[Row], *, paper: bool, rounds: int) -> dict[str, Any]:
    """The part `leaderboard` of metrics/summary.json.

    Args:
        results: what tasks.leaderboard wrote for each model.
        paper: put the paper's figures beside base (T = 0) and beside the last IRFT round.
        rounds: T of IRFT.

    Returns:
        {"fewshot": {column: n}, "metric": {column: name}, "limit", "models": [{"name", "method", "round", each column,
        "average", "errors": {column: standard error}, "paper": {"name", each column, "average"} or None}]}; scores in
        per cent.

    Raises:
        InputError: models were measured in different ways.
    """
    ways = [_way(result) for result in results]
    for result, way in zip(results, ways, strict=True):
        if way != ways[0]:
            what = f"measured in another way than {results[0]['name']}, so the two cannot stand in one table"
            raise InputError(what, where=result["name"], do="measure all models with the same recipe: dvc repro")
    return {**ways[0], "models": [_model(result, paper=paper, rounds=rounds) for result in results]}


def _way(result: Row) -> dict[str, Any]:
    columns = result["columns"]
    return {
        "fewshot": {name: columns[name]["fewshot"] for name in COLUMNS},
        "metric": {name: f"{columns[name]['metric']},{columns[name]['filter']}" for name in COLUMNS},
        "limit": result["limit"],
    }


def _model(result: Row, *, paper: bool, rounds: int) -> Row:
    own_round = {"base": 0, "irft": result["round"]}.get(result["method"])
    compared = paper and own_round in (0, rounds) and own_round in PAPER
    return {
        **{key: result[key] for key in ("name", "method", "round")},
        **{name: significant(result["columns"][name]["score"]) for name in COLUMNS},
        "average": significant(result["average"]),
        "errors": {name: significant(result["columns"][name]["error"]) for name in COLUMNS},
        "paper": paper_row(own_round) if compared and own_round is not None else None,
    }


def paper_row(rounds: int) -> Row:
    """The paper's figures for T rounds, under the names of our columns."""
    name = "zephyr-7b-sft-full" if rounds == 0 else f"IRFT, T = {rounds}"
    return {"name": name, **dict(zip(HEADINGS, PAPER[rounds], strict=True))}


def as_markdown(model: Row) -> str:
    """One model of `leaderboard_of`, with the paper's row below it, as a table for MLflow's description of a run."""
    paper = model["paper"]
    rows = [model, {**paper, "name": f"the paper: {paper['name']}"}] if paper else [model]
    lines = [["model", *HEADINGS.values()], ["---", *["--:"] * len(HEADINGS)]]
    lines += [[row["name"], *(shown(row[key], 2) for key in HEADINGS)] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
