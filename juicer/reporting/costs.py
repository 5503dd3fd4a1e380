"""Seconds, memory and tokens per stage, from the undeclared cost files to report/costs.html and report/costs.json.

They differ from run to run, so they stay out of the versioned report and are written beside it.

    python -m juicer.reporting.costs
"""

import argparse
import hashlib
import html
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from juicer.reporting.numbers import shown
from juicer.reporting.style import document
from juicer.runtime.command import guarded
from juicer.runtime.files import read_yaml, replace_text
from juicer.stages.pipeline import pipeline
from juicer.stages.stage import COSTS

COLUMNS = {
    "seconds": ("Seconds", 1),
    "cpu_seconds": ("CPU seconds", 1),
    "peak_memory_mb": ("Peak memory, MB", 0),
    "peak_device_memory_mb": ("Peak device memory, MB", 0),
    "steps": ("Steps", 0),
    "response_tokens": ("Response tokens", 0),
}
"""Costs with a column of their own; what else a stage records is listed in the last one."""
ON_GPU = "peak_device_memory_mb"
"""Has its column only where a stage used a GPU."""
SUMMED, PEAKS = ("seconds", "cpu_seconds"), ("peak_memory_mb", ON_GPU)
UNKNOWN, RESTORED, WAITING = "", "restored, not run here", "not run yet"


def gather(root: Path) -> list[dict[str, Any]]:
    """What each stage of the pipeline in `root` cost, in the order of dvc.yaml.

    A cost file says what the last run of a stage cost. When DVC restores the stage's outputs from its cache instead,
    the file is of another result. So a new file is filed under the state that dvc.lock gives its stage now, and a
    stage is shown with the cost of its present state only. Stages that dvc.yaml no longer has are left out.

    Returns:
        One {"stage", "status", costs...} per stage; status "" means measured.
    """
    ledger_path = root / COSTS.parent / "cost_ledger.json"
    ledger: dict[str, dict[str, Any]] = _read(ledger_path) or {}
    files = {path.stem: path for path in sorted((root / COSTS).glob("*.json"))}
    locked: dict[str, Any] | None = None
    names = sorted(files)
    if (root / "dvc.yaml").is_file() and (root / "params.yaml").is_file():
        names = [stage.name for stage in pipeline(root)]
    if (root / "dvc.lock").is_file():
        locked = read_yaml(root / "dvc.lock").get("stages") or {}
    rows = []
    for name in names:
        state = "by hand" if locked is None else _digest(locked[name]) if name in locked else ""
        known = ledger.setdefault(name, {})
        cost = _read(files[name]) if name in files else None
        if cost is not None and state and cost not in known.values():
            known[state] = cost
        if state in known:
            rows.append({**known[state], "stage": name, "status": UNKNOWN})
        else:
            rows.append({"stage": name, "status": RESTORED if state and locked is not None else WAITING})
    replace_text(ledger_path, json.dumps({name: known for name, known in ledger.items() if known}, indent=1) + "\n")
    return rows


def render(rows: Sequence[Mapping[str, Any]]) -> str:
    """The page: one row per stage, a bar for its seconds, and a last row with the total and the peak."""
    slowest = max([float(row.get("seconds", 0)) for row in rows], default=0.0) or 1.0
    columns = {key: column for key, column in COLUMNS.items() if key != ON_GPU or any(key in row for row in rows)}
    body = []
    for row in rows:
        name = f'<th scope="row">{html.escape(str(row["stage"]))}</th>'
        if row["status"]:
            body.append(f'<tr>{name}<td class="text note" colspan="{len(columns) + 2}">{row["status"]}</td></tr>')
            continue
        width = 100 * float(row.get("seconds", 0)) / slowest
        bar = f'<td class="text"><div style="width:{width:.1f}px;height:9px;background:var(--irft);border-radius:2px">'
        cells = "".join(f"<td>{shown(row.get(key), digits)}</td>" for key, (_, digits) in columns.items())
        others = [
            f"{key.replace('_', ' ')} {shown(value, 3 if abs(value) < 1 else 0)}"
            for key, value in row.items()
            if key not in ("stage", "status", "output_md5", *columns)
        ]
        body.append(f'<tr>{name}{bar}</div></td>{cells}<td class="text">{html.escape(", ".join(others))}</td></tr>')
    measured = [row for row in rows if not row["status"]]
    total = {key: sum(row.get(key, 0) for row in measured) for key in SUMMED}
    total |= {key: max([row.get(key, 0) for row in measured], default=0) for key in PEAKS}
    foot = "".join(
        f"<td><b>{shown(total[key], digits)}</b></td>" if key in total else "<td></td>"
        for key, (_, digits) in columns.items()
    )
    heads = "".join(f'<th scope="col">{name}</th>' for name, _ in columns.values())
    return document(
        "Costs",
        '<main>\n<p class="note">What the stages cost where they ran. A stage that DVC restored from its cache did not '
        'run, and costs nothing.</p>\n<div class="scroll"><table><thead><tr><th scope="col">Stage</th><th></th>'
        f'{heads}<th scope="col" class="text">Also</th></tr></thead><tbody>{"".join(body)}'
        f'<tr class="group"><th scope="row">{len(measured)} of {len(rows)} measured; sum, and highest peak</th>'
        f"<td></td>{foot}<td></td></tr></tbody></table></div>\n</main>",
        css="plain",
    )


def refresh(report: Path, root: Path = Path()) -> list[dict[str, Any]]:
    """Write costs.html and costs.json into the folder of the report; returns the rows."""
    rows = gather(root)
    replace_text(report / "costs.json", json.dumps(rows, indent=1) + "\n")
    replace_text(report / "costs.html", render(rows))
    return rows


def _read(path: Path) -> dict[str, Any] | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        # A cost file is a by-product; one that was cut short must not stop a report.
        return None
    return values if isinstance(values, dict) else None


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
        seconds = sum(row.get("seconds", 0) for row in rows)
        print(f"{sum(not row['status'] for row in rows)} of {len(rows)} stages measured, {seconds:.1f} s in all")

    sys.exit(guarded(work, debug=given.debug, name="costs"))


if __name__ == "__main__":
    main()
