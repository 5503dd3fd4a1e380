"""Print the table of all models and the path of the report: how `juicer run` ends, and `juicer report --table`."""

from collections.abc import Callable, Sequence
from pathlib import Path

from juicer.reporting import costs, environment
from juicer.reporting.contract import Summary
from juicer.reporting.findings import findings, said_to_separate_nothing
from juicer.reporting.formatting import shown
from juicer.reporting.numbers import Column, best_names, shown_columns
from juicer.runtime.errors import InputError

WIDTH = 120
SHORT = {
    "reward_mean": "score",
    "win_rate_vs_sft": "wins",
    "judge_mean": "judge",
    "judge_win_rate": "j.wins",
    "voted_win_rate": "votes",
    "voted_win_rate_vs_sft": "votes",
    "judged_win_rate": "pairwise",
    "judged_win_rate_vs_sft": "pairwise",
    "oracle_mean": "oracle",
    "preference_accuracy": "pref.acc",
    "preference_accuracy_per_token": "per token",
    "preference_gap": "pref.gap",
    "demonstration_nll": "NLL",
    "nll_difference": "NLL diff",
    "perplexity": "ppl",
    "demonstration_gap": "demo.gap",
    "response_tokens": "tokens",
    "ended": "ended",
    "kl_to_sft": "KL",
    "distinct_2": "dist-2",
    "steps": "steps",
}
"""The columns of the terminal, under shorter names."""
LEFT_OUT = (
    "distinct_2",
    "preference_accuracy_per_token",
    "steps",
    "perplexity",
    "kl_to_sft",
    "judge_win_rate",
    "ended",
    "response_tokens",
    "win_rate_vs_sft",
    "preference_gap",
)
"""Columns that are left out, in this order, until the rest fit. What says how good a model is stays."""


ERRORS = (
    "reward_sem",
    "judge_sem",
    "oracle_sem",
    "nll_difference_sem",
    *(f"{kind}_win_rate{suffix}_sem" for kind in ("voted", "judged") for suffix in ("", "_vs_sft")),
)
"""Standard errors that the terminal shows too."""


def format_table(summary: Summary) -> str:
    """The table of models as plain lines of at most 120 characters; > marks the champion, * the best of a column."""
    columns = [column for column in shown_columns(summary.models) if column.key in SHORT]
    if summary.champion.criterion != "demonstration_gap":
        columns = [column for column in columns if column.key != "demonstration_gap"]
    table = _aligned(_cells(summary, columns))
    for key in LEFT_OUT:
        if max(map(len, table)) <= WIDTH:
            break
        columns = [column for column in columns if column.key != key]
        table = _aligned(_cells(summary, columns))
    return "\n".join(table)


def _cells(summary: Summary, columns: Sequence[Column]) -> list[list[str]]:
    models, champion = summary.models, summary.champion.name
    # Headings end where the numbers do, before the column of the asterisks.
    lines = [["  model", *(f"{SHORT[column.key]} " for column in columns)]]
    best = {column.key: best_names(models, column) for column in columns}
    for model in models:
        cells = [f"{'>' if model.name == champion else ' '} {model.name}"]
        for column in columns:
            value = shown(model.metric(column.key), column.digits, signed=column.signed)
            error = model.metric(column.error) if column.error in ERRORS else None
            around = f" ±{shown(error, column.digits)}" if error is not None else ""
            # A hyphen, not the page's minus sign: terminal output is copied into other programs.
            cells.append(f"{value}{around}{'*' if model.name in best[column.key] else ' '}".replace("−", "-"))
        lines.append(cells)
    return lines


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    return [
        " ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def show(metrics: Path, report: Path, after: Callable[[Summary], Sequence[str]] | None = None) -> None:
    """Print the table, the headline and where the report is; bring the costs beside the report up to date.

    Args:
        metrics: metrics/summary.json.
        report: report/report.html.
        after: gives the lines that are to stand below.
    """
    summary = Summary.read(metrics)
    if not report.is_file():
        raise InputError("no such file", where=str(report), do="run the stage that makes it: dvc repro report")
    costs.refresh(report.parent)
    environment.refresh(report.parent)
    print(f"Recipe {summary.recipe}, seed {summary.seed}, held-out prompts\n")
    print(format_table(summary))
    print("\n> champion, chosen on validation prompts   * best of its column")
    quality = [column for column in shown_columns(summary.models) if not column.behaviour]
    if equal := said_to_separate_nothing(summary.models, quality):
        print(equal)
    print(f"{findings(summary).headline}.")
    print(f"Report: {report.resolve()}")
    if after is not None:
        print("\n".join(after(summary)))
