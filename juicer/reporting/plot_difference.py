"""Compare the curves of dvc.yaml's plots with those of a commit, as a text table for a comment on a pull request.

A comment can only show images that are on the web, so a curve is drawn as a line of blocks, followed by its last value.
"""

import argparse
import csv
import io
import json
import math
import sys
from pathlib import Path
from typing import Any

from juicer.runtime.command import guarded
from juicer.runtime.files import read_yaml

BLOCKS, WIDTH = "▁▂▃▄▅▆▇█", 12
Curves = dict[str, list[float]]
"""Name of a curve to its values, from left to right."""


def difference(commit: str) -> str:
    """A Markdown table of the curves that differ from those at `commit`; one line of text if none does."""
    from dvc.api import DVCFileSystem

    there, rows = DVCFileSystem(".", rev=commit), []
    for each in read_yaml(Path("dvc.yaml")).get("plots", []):
        for path, settings in each.items():
            before = curves(_at(there, path), path, settings)
            now = curves(Path(path).read_text(encoding="utf-8"), path, settings)
            rows += compare(settings.get("title", path), before, now)
    if not rows:
        return "No curve has changed."
    return "\n".join(["| plot | curve | before | now |", "|---|---|---|---|", *rows])


def curves(text: str, path: str, settings: dict[str, Any]) -> Curves:
    """The curves in the file of a plot: one for each combination of the text columns whose values repeat.

    Values that are not finite numbers are left out.
    """
    points = list(csv.DictReader(io.StringIO(text))) if path.endswith(".csv") else json.loads(text or "[]")
    x, y = settings["x"], settings["y"]
    words = [name for name in (points[0] if points else ()) if name not in (x, y) and _in_words(points, name)]
    if all(isinstance(_number(point[x]), float) for point in points):
        points.sort(key=lambda point: float(point[x]))
    found: Curves = {}
    for point in points:
        value = _number(point[y])
        if isinstance(value, float) and math.isfinite(value):
            found.setdefault(" ".join(point[name] for name in words), []).append(value)
    return found


def compare(title: str, before: Curves, now: Curves) -> list[str]:
    """Rows of the table: curves that changed, were added or were removed."""
    rows = []
    for name in dict.fromkeys([*now, *before]):
        old, new = before.get(name, []), now.get(name, [])
        if old != new:
            low, high = min(old + new), max(old + new)
            rows.append(f"| {title} | {name} | {_drawn(old, low, high)} | {_drawn(new, low, high)} |")
    return rows


def _drawn(values: list[float], low: float, high: float) -> str:
    """Blocks between the lowest and the highest value of both curves, and the last value."""
    if not values:
        return "–"
    count = min(len(values), WIDTH)
    shown = [values[round(place * (len(values) - 1) / max(count - 1, 1))] for place in range(count)]
    heights = [round((value - low) / ((high - low) or 1) * (len(BLOCKS) - 1)) for value in shown]
    return f"{''.join(BLOCKS[height] for height in heights)} {values[-1]:.4g}"


def _in_words(points: list[dict[str, Any]], name: str) -> bool:
    """Whether a column names curves: it is text, and its values repeat."""
    values = [point[name] for point in points]
    return all(isinstance(_number(value), str) for value in values) and len(set(values)) < len(values)


def _number(value: Any) -> Any:
    """The value as a number; as it is, if it is not one."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


def _at(there: Any, path: str) -> str:
    """A file at a commit; empty if it did not exist, or neither the cache nor the remote has it."""
    from dvc.exceptions import DvcException

    try:
        return str(there.read_text(path, encoding="utf-8"))
    except (OSError, DvcException):
        return ""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m juicer.reporting.plot_difference", description=__doc__)
    parser.add_argument("commit", help="for example origin/main")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    given = parser.parse_args()
    sys.exit(guarded(lambda: print(difference(given.commit)), debug=given.debug, name="plot_difference"))


if __name__ == "__main__":
    main()
