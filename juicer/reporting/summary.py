"""Print the table of all models and the path of the report: how `juicer run` ends, and `juicer report --table`."""

from collections.abc import Callable, Sequence
from pathlib import Path

from juicer.reporting import costs
from juicer.reporting.contract import Summary
from juicer.reporting.findings import findings
from juicer.reporting.formatting import shown
from juicer.reporting.numbers import best_names, shown_columns
from juicer.runtime.errors import InputError

WIDTH = 120
SHORT = {
    "reward_mean": "score",
    "win_rate_vs_sft": "wins",
    "judge_mean": "judge",
    "judge_win_rate": "j.wins",
    "oracle_mean": "oracle",
    "preference_accuracy": "pref.acc",
    "preference_accuracy_per_token": "per token",
    "preference_gap": "pref.gap",
    "demonstration_nll_per_token": "NLL",
    "demonstration_gap": "demo.gap",
    "response_tokens": "tokens",
    "ended": "ended",
    "kl_to_sft": "KL",
    "distinct_2": "dist-2",
    "steps": "steps",
}
"""The columns that fit into a terminal, under shorter names."""


def format_table(summary: Summary) -> str:
    """The table of models as plain lines of at most 120 characters; > marks the champion, * the best of a column."""
    models, champion = summary.models, summary.champion.name
    columns = [column for column in shown_columns(models) if column.key in SHORT]
    if any(column.key == "oracle_mean" for column in columns):  # the world's exact judgement says more
        columns = [column for column in columns if column.key != "demonstration_nll_per_token"]
    if summary.champion.criterion != "demonstration_gap":
        columns = [column for column in columns if column.key != "demonstration_gap"]
    # Headings end where the numbers do, before the column of the asterisks.
    lines = [["  model", *(f"{SHORT[column.key]} " for column in columns)]]
    best = {column.key: best_names(models, column) for column in columns}
    for model in models:
        cells = [f"{'>' if model.name == champion else ' '} {model.name}"]
        for column in columns:
            value = shown(model.metric(column.key), column.digits, signed=column.signed)
            error = model.metric(column.error) if column.error in ("reward_sem", "judge_sem", "oracle_sem") else None
            around = f" ±{shown(error, column.digits)}" if error is not None else ""
            # A hyphen, not the page's minus sign: terminal output is copied into other programs.
            cells.append(f"{value}{around}{'*' if model.name in best[column.key] else ' '}".replace("−", "-"))
        lines.append(cells)
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    return "\n".join(
        " ".join(
            cell.rjust(width) if place else cell.ljust(width) for place, (cell, width) in enumerate(pairs)
        ).rstrip()
        for pairs in (list(zip(line, widths, strict=True)) for line in lines)
    )


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
    print(f"Recipe {summary.recipe}, seed {summary.seed}, held-out prompts\n")
    print(format_table(summary))
    print("\n> champion, chosen on validation prompts   * best of its column")
    print(f"{findings(summary).headline}.")
    print(f"Report: {report.resolve()}")
    if after is not None:
        print("\n".join(after(summary)))
