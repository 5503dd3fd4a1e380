"""The series behind the figures, and the same as plain files for `dvc plots`."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from juicer.reporting.numbers import Row

HIDDEN_CURVES = ("learning_rate",)
"""A schedule is a setting, not a result; it stays in the files but needs no panel."""
CURVE_ORDER = ("loss", "accuracy", "margin", "reward", "kl", "length", "entropy", "gradient_norm")


class RoundPoint(NamedTuple):
    """One model in a figure over rounds."""

    name: str
    method: str
    round: int
    value: float
    sem: float | None


class CurvePoint(NamedTuple):
    """One logged step of a training stage."""

    stage: str
    model: str
    round: int
    quantity: str
    step: int
    value: float


class Histogram(NamedTuple):
    """Scores of all demonstrations and of the kept ones, in the same bins."""

    edges: list[float]
    """One more than bins, rising."""
    all: list[int]
    """Demonstrations per bin before the selection."""
    kept: list[int]
    """Demonstrations per bin after it."""
    threshold: float
    """Lowest score that was kept."""


def over_rounds(models: Sequence[Row], key: str, error: str) -> list[RoundPoint]:
    """The models of a summary that have the value, in its order."""
    return [
        RoundPoint(model["name"], model["method"], model["round"], model[key], model.get(error))
        for model in models
        if model.get(key) is not None
    ]


def training_curves(table: dict[str, Any]) -> list[CurvePoint]:
    """Every logged point of every training stage behind the table, RFT's reward model before its policy."""
    points = []
    for model in table["models"]:
        training = model.get("training")
        for record in (training.get("reward"), training) if training else ():
            if not record:
                continue
            for quantity in sorted(record.get("curves") or {}, key=_curve_rank):
                curve = record["curves"][quantity]
                points += [
                    CurvePoint(record["stage"], model["name"], model["round"], quantity, step, value)
                    for step, value in zip(curve["step"], curve["value"], strict=True)
                ]
    return points


def _curve_rank(quantity: str) -> tuple[int, str]:
    known = CURVE_ORDER.index(quantity) if quantity in CURVE_ORDER else len(CURVE_ORDER)
    return known, quantity


def write_plots(
    folder: Path, summary: dict[str, Any], curves: Sequence[CurvePoint], histogram: Histogram | None
) -> None:
    """Write the files that the `plots` section of dvc.yaml shows. A series that cannot be had is an empty file."""
    folder.mkdir(parents=True)
    for name, key, error in (
        ("preference_gap", "preference_gap", "preference_gap_sem"),
        ("reward", "reward_mean", "reward_sem"),
    ):
        points = over_rounds(summary["models"], key, error)
        # As the paper's figure: the base model is off its scale, so it is left to the table.
        rows = [point._asdict() for point in points if point.method != "base"]
        (folder / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    with (folder / "training.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(CurvePoint._fields)
        writer.writerows(curves)
    with (folder / "scores.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["set", "score", "demonstrations"])
        if histogram is not None:
            for name, counts in (("all", histogram.all), ("kept", histogram.kept)):
                for count, low, high in zip(counts, histogram.edges, histogram.edges[1:], strict=False):
                    writer.writerow([name, f"{(low + high) / 2:.6g}", count])


def histogram_of(curation: dict[str, Any]) -> Histogram | None:
    """The scores before and after the selection, from the content of curation.json; None where nothing was scored."""
    scores = curation.get("scores")
    if scores is None:
        return None
    bins = scores["histogram"]
    return Histogram(bins["edges"], bins["all"], bins["kept"], scores["threshold"])
