"""The leaderboard of a recipe, with the paper's own figures beside it. Pure functions, no files."""

from collections.abc import Sequence
from typing import NamedTuple

from juicer.evaluation.benchmark_results import BenchmarkedModel
from juicer.evaluation.benchmarks import COLUMNS
from juicer.reporting.contract import LeaderboardRow, LeaderboardSummary, PaperScores
from juicer.reporting.formatting import shown, significant
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


def leaderboard_of(results: Sequence[BenchmarkedModel], *, paper: bool, rounds: int) -> LeaderboardSummary:
    """The leaderboard of metrics/summary.json.

    Args:
        results: what tasks.leaderboard measured of each model; at least one.
        paper: put the paper's figures beside base (T = 0) and beside the last IRFT round.
        rounds: T of IRFT.

    Raises:
        InputError: models were measured in different ways.
    """
    ways = [_way(result) for result in results]
    for result, way in zip(results, ways, strict=True):
        if way != ways[0]:
            what = f"it was measured in another way than {results[0].name}, so they cannot share a table"
            raise InputError(what, where=result.name, do="measure all models with the same recipe: dvc repro")
    return LeaderboardSummary(
        fewshot=ways[0].fewshot,
        metric=ways[0].metric,
        limit=ways[0].limit,
        models=[_row(result, paper=paper, rounds=rounds) for result in results],
    )


class _Way(NamedTuple):
    """How a model was measured."""

    fewshot: dict[str, int]
    metric: dict[str, str]
    limit: int | None


def _way(result: BenchmarkedModel) -> _Way:
    columns = {name: result.columns[name] for name in COLUMNS}
    return _Way(
        fewshot={name: column.fewshot for name, column in columns.items()},
        metric={name: f"{column.metric},{column.filter}" for name, column in columns.items()},
        limit=result.limit,
    )


def _row(result: BenchmarkedModel, *, paper: bool, rounds: int) -> LeaderboardRow:
    paper_round = {"base": 0, "irft": result.round}.get(result.method)
    compared = paper and paper_round in (0, rounds) and paper_round in PAPER
    scores = {name: column.score for name, column in result.columns.items()}
    return LeaderboardRow(
        name=result.name,
        method=result.method,
        round=result.round,
        arc=_rounded(scores["arc"]),
        truthfulqa=_rounded(scores["truthfulqa"]),
        winogrande=_rounded(scores["winogrande"]),
        gsm8k=_rounded(scores["gsm8k"]),
        hellaswag=_rounded(scores["hellaswag"]),
        mmlu=_rounded(scores["mmlu"]),
        average=_rounded(result.average),
        errors={name: significant(result.columns[name].error) for name in COLUMNS},
        paper=paper_row(paper_round) if compared and paper_round is not None else None,
    )


def _rounded(score: float) -> float:
    return float(f"{score:.6g}")


def paper_row(rounds: int) -> PaperScores:
    """The paper's figures for T rounds, under the names of our columns."""
    name = "zephyr-7b-sft-full" if rounds == 0 else f"IRFT, T = {rounds}"
    return PaperScores.parse({"name": name, **dict(zip(HEADINGS, PAPER[rounds], strict=True))}, "the paper's table")


def scores_of(row: LeaderboardRow | PaperScores) -> dict[str, float]:
    """The scores of a row, per benchmark and on average, in the order of HEADINGS."""
    return {key: getattr(row, key) for key in HEADINGS}


def as_markdown(model: LeaderboardRow) -> str:
    """One model of `leaderboard_of`, with the paper's row below it, as a table for MLflow's description of a run."""
    rows = [(model.name, scores_of(model))]
    if model.paper:
        rows.append((f"the paper: {model.paper.name}", scores_of(model.paper)))
    lines = [["model", *HEADINGS.values()], ["---", *["--:"] * len(HEADINGS)]]
    lines += [[name, *(shown(score, 2) for score in scores.values())] for name, scores in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
