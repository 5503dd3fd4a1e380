"""Seconds, memory and tokens per stage, from the undeclared cost files to report/costs.html and report/costs.json.

They differ from run to run, so they stay out of the versioned report and are written beside it.

    python -m juicer.reporting.costs
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import JsonValue, RootModel, ValidationError

from juicer.reporting.formatting import shown
from juicer.reporting.rendering import render_page
from juicer.runtime.command import guarded
from juicer.runtime.errors import InputError
from juicer.runtime.files import read_yaml, replace_text
from juicer.stages.costs import COSTS, StageCost
from juicer.stages.pipeline import pipeline


class Column(NamedTuple):
    """A cost with a column of its own; what else a stage records is listed in the last column."""

    key: str
    heading: str
    digits: int
    total: str = ""
    """What the last row shows of the column: "sum", "peak", or nothing."""


ON_GPU = "peak_device_memory_mb"
"""Of stages that used a GPU."""
PLANNED = "planned_device_memory_mb"
OPTIONAL = (ON_GPU, PLANNED, "memory_ratio")
"""Columns that are there only where a stage has a value."""
COLUMNS = (
    Column("seconds", "Seconds", 1, "sum"),
    Column("cpu_seconds", "CPU seconds", 1, "sum"),
    Column("peak_memory_mb", "Peak memory, MB", 0, "peak"),
    Column(ON_GPU, "Peak device memory, MB", 0, "peak"),
    Column(PLANNED, "Planned device memory, MB", 0, "peak"),
    Column("memory_ratio", "Planned / peak", 2),
    Column("steps", "Steps", 0),
    Column("response_tokens", "Response tokens", 0),
)
LEDGER = COSTS.parent / "cost_ledger.json"
RESTORED, WAITING = "restored, not run here", "not run yet"


@dataclass(frozen=True)
class StageRow:
    """One stage of the pipeline, and what it cost."""

    stage: str
    cost: StageCost | None
    """None where the present output was not made here."""
    status: str = ""
    """Why there is no cost: RESTORED or WAITING."""

    def as_json(self) -> dict[str, JsonValue]:
        """The row of report/costs.json."""
        values = self.cost.as_json() if self.cost else {}
        return {**values, "stage": self.stage, "status": self.status}


class Ledger(RootModel[dict[str, dict[str, StageCost]]]):
    """.juicer/cost_ledger.json: the costs of each stage, by the state that dvc.lock had for it."""

    @classmethod
    def of(cls, path: Path) -> "Ledger":
        """What is in a file; empty where there is none, or where it is damaged."""
        return cls(_ledger(path))

    def costs(self, stage: str) -> list[StageCost]:
        """The costs of the runs of a stage, oldest first."""
        return list(self.root.get(stage, {}).values())


@dataclass(frozen=True)
class Line:
    """One row of the page."""

    stage: str
    status: str
    width: float
    """Of the bar, in pixels."""
    cells: list[str]
    others: list[str]
    """Costs without a column of their own."""


def gather(root: Path) -> list[StageRow]:
    """What each stage of the pipeline in `root` cost, in the order of dvc.yaml.

    A cost file says what the last run of a stage cost. When DVC restores the stage's outputs from its cache instead,
    the file belongs to another output. So a new file is stored in the ledger under the state that dvc.lock has for its
    stage now, and a stage is shown with the cost of its present state only. Stages that dvc.yaml no longer has are left
    out.
    """
    ledger_path = root / LEDGER
    ledger = _ledger(ledger_path)
    files = {path.stem: path for path in sorted((root / COSTS).glob("*.json"))}
    locked: dict[str, Any] | None = None
    names = sorted(files)
    if (root / "dvc.yaml").is_file() and (root / "params.yaml").is_file():
        names = [stage.name for stage in pipeline(root)]
    if (root / "dvc.lock").is_file():
        locked = read_yaml(root / "dvc.lock").get("stages") or {}
    rows = []
    for name in names:
        # Without dvc.lock, stages were run by hand.
        state = "by hand" if locked is None else _digest(locked[name]) if name in locked else None
        known = ledger.setdefault(name, {})
        cost = _cost(files[name]) if name in files else None
        if cost is not None and state and cost not in known.values():
            known[state] = cost
        if state in known:
            rows.append(StageRow(name, known[state]))
        else:
            rows.append(StageRow(name, None, RESTORED if state and locked is not None else WAITING))
    kept = {name: {state: cost.as_json() for state, cost in known.items()} for name, known in ledger.items() if known}
    replace_text(ledger_path, json.dumps(kept, indent=1) + "\n")
    return rows


def completed(rows: Sequence[StageRow], root: Path, copies: Sequence[Path]) -> list[StageRow]:
    """The rows of `root` with the costs of restored stages, where another copy of the project ran the same stage.

    Args:
        rows: what `gather` found in `root`.
        copies: folders in which `gather` was called before.
    """
    known: dict[tuple[str, str], StageCost] = {}
    for each in copies:
        for name, states in _ledger(each / LEDGER).items():
            known |= {(name, state): cost for state, cost in states.items()}
    locked = (read_yaml(root / "dvc.lock").get("stages") or {}) if (root / "dvc.lock").is_file() else {}
    return [
        StageRow(row.stage, found)
        if row.cost is None and row.stage in locked and (found := known.get((row.stage, _digest(locked[row.stage]))))
        else row
        for row in rows
    ]


def render(rows: Sequence[StageRow]) -> str:
    """The page: one row per stage, a bar for its seconds, and a last row with the total and the peak."""
    measured = [row.cost.numbers() for row in rows if row.cost]
    slowest = max([cost.get("seconds", 0) for cost in measured], default=0) or 1
    columns = [each for each in COLUMNS if each.key not in OPTIONAL or any(each.key in cost for cost in measured)]
    return render_page(
        "costs.html.j2",
        columns=columns,
        lines=[_line(row, columns, slowest) for row in rows],
        measured=len(measured),
        totals=[_total(column, measured) for column in columns],
    )


def _line(row: StageRow, columns: Sequence[Column], slowest: float) -> Line:
    values = row.cost.numbers() if row.cost else {}
    own = [column.key for column in columns]
    return Line(
        stage=row.stage,
        status=row.status,
        width=100 * values.get("seconds", 0) / slowest,
        cells=[shown(values.get(column.key), column.digits) for column in columns],
        others=[
            *([f"on {row.cost.device}"] if row.cost and row.cost.device else []),
            *(
                f"{key.replace('_', ' ')} {shown(value, 3 if abs(value) < 1 else 0)}"
                for key, value in values.items()
                if key not in own
            ),
        ],
    )


def _total(column: Column, measured: Sequence[Mapping[str, float]]) -> str:
    values = [cost.get(column.key, 0) for cost in measured]
    if column.total == "sum":
        return shown(sum(values), column.digits)
    return shown(max(values, default=0), column.digits) if column.total == "peak" else ""


def refresh(report: Path, root: Path = Path()) -> list[StageRow]:
    """Write costs.html and costs.json into the folder of the report; returns the rows."""
    rows = gather(root)
    replace_text(report / "costs.json", json.dumps([row.as_json() for row in rows], indent=1) + "\n")
    replace_text(report / "costs.html", render(rows))
    return rows


def _cost(path: Path) -> StageCost | None:
    """The cost in a file; None for a file that is cut short: a by-product must not stop a report."""
    try:
        return StageCost.read(path)
    except InputError:
        return None


def _ledger(path: Path) -> dict[str, dict[str, StageCost]]:
    """The ledger; a new one where there is none, or it is cut short."""
    try:
        return Ledger.model_validate_json(path.read_text(encoding="utf-8")).root
    except (FileNotFoundError, ValidationError):
        return {}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m juicer.reporting.costs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--report", type=Path, default=Path("report"), help="folder to write to, default report")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    given = parser.parse_args()

    def work() -> None:
        rows = refresh(given.report)
        costs = [row.cost for row in rows if row.cost]
        seconds = sum(cost.seconds or 0 for cost in costs)
        print(f"{len(costs)} of {len(rows)} stages measured, {seconds:.1f} s in total")

    sys.exit(guarded(work, debug=given.debug, name="costs"))


if __name__ == "__main__":
    main()
