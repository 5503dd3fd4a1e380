"""The series behind the figures, and the same as plain files for `dvc plots`."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ConfigDict, JsonValue

from juicer.evaluation.documents import Document
from juicer.evaluation.results import EvaluatedModel, Table
from juicer.reporting.contract import Summary, SummaryRow

HIDDEN_CURVES = ("learning_rate",)
"""The learning rate is a setting, not a result: it is in the files, but has no panel on the page."""
CURVE_ORDER = ("loss", "validation_nll", "accuracy", "margin", "reward", "kl", "length", "entropy", "gradient_norm")


class RoundPoint(NamedTuple):
    """One model in a figure over rounds."""

    name: str
    method: str
    round: int
    value: float
    sem: float | None
    cases: int | None = None
    """Number of prompts or pairs behind it; None where it is unknown."""


class CurvePoint(NamedTuple):
    """One logged step of a training stage."""

    stage: str
    model: str
    round: int
    quantity: str
    step: int
    value: float


class Bins(Document):
    """Demonstrations per bin of their scores, before and after the selection."""

    edges: list[float]
    """One more than there are bins, rising."""
    all: list[int]
    """Demonstrations per bin before the selection."""
    kept: list[int]
    """Demonstrations per bin after it."""


class Scores(Document):
    """The scores of the demonstrations."""

    threshold: float
    """Lowest score that was kept."""
    all: dict[str, JsonValue]
    """Statistics of the scores before the selection."""
    kept: dict[str, JsonValue]
    """Statistics of the scores after it."""
    histogram: Bins


class Curation(Document):
    """curation.json: what became of the demonstrations. Only the scores are interpreted here, the rest is shown."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue]

    scores: Scores | None = None
    """None where the recipe has no scorer."""

    @property
    def facts(self) -> dict[str, JsonValue]:
        """All but the scores."""
        return self.__pydantic_extra__


def over_rounds(models: Sequence[SummaryRow], key: str, error: str | None) -> list[RoundPoint]:
    """The models of a summary that have a value of the metric `key`, in its order; `error` names its standard error."""
    found = [(model, model.metric(key)) for model in models]
    return [
        RoundPoint(
            model.name,
            model.method,
            model.round,
            value,
            model.metric(error) if error else None,
            model.pairs if key.startswith("preference") else model.prompts,
        )
        for model, value in found
        if value is not None
    ]


def training_curves(table: Table[EvaluatedModel]) -> list[CurvePoint]:
    """Every logged point of every training stage behind the table, RFT's reward model before its policy."""
    return [
        CurvePoint(record.stage, model.name, model.round, quantity, step, value)
        for model in table.models
        if model.training
        for record in model.training.in_order()
        for quantity in sorted(record.curves, key=_curve_rank)
        for step, value in zip(record.curves[quantity].step, record.curves[quantity].value, strict=True)
    ]


def _curve_rank(quantity: str) -> tuple[int, str]:
    known = CURVE_ORDER.index(quantity) if quantity in CURVE_ORDER else len(CURVE_ORDER)
    return known, quantity


def write_plots(folder: Path, summary: Summary, curves: Sequence[CurvePoint], scores: Scores | None) -> None:
    """Write the files that the `plots` section of dvc.yaml shows. A series without values is an empty file."""
    folder.mkdir(parents=True)
    for name, key, error in (
        ("preference_gap", "preference_gap", "preference_gap_sem"),
        ("reward", "reward_mean", "reward_sem"),
        ("demonstration_nll", "demonstration_nll", "demonstration_nll_sem"),
    ):
        points = over_rounds(summary.models, key, error)
        # As in the paper's figure: the base model would be off the scale, so only the table has it.
        rows = [dict(zip(point._fields[:5], point[:5], strict=True)) for point in points if point.method != "base"]
        (folder / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    with (folder / "training.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(CurvePoint._fields)
        writer.writerows(curves)
    with (folder / "scores.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["set", "score", "demonstrations"])
        if scores is not None:
            bins = scores.histogram
            for name, counts in (("all", bins.all), ("kept", bins.kept)):
                for count, low, high in zip(counts, bins.edges, bins.edges[1:], strict=False):
                    writer.writerow([name, f"{(low + high) / 2:.6g}", count])
