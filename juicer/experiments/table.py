"""A table of experiments: what each one changed, and the held-out figures of its champion."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from juicer.experiments.run import LOCK, PARAMS, SAID, saved, unfinished
from juicer.reporting.contract import Summary, SummaryRow
from juicer.reporting.formatting import shown
from juicer.reporting.numbers import shown_columns
from juicer.reporting.summary import SHORT
from juicer.runtime.errors import InputError
from juicer.runtime.yaml_text import parse_yaml
from juicer.stages.dvc_files import DvcLock
from juicer.stages.git import git

SUMMARY = Path("metrics/summary.json")
WORKSPACE = "workspace"
FEW = 3
"""Changes that are named; of more the number is said."""
ELSEWHERE = "-"
"""Stands for a figure that is not there."""


@dataclass(frozen=True)
class Line:
    """One row of the table."""

    name: str
    changed: str
    summary: Summary | None
    """None where there is none in DVC's cache that this Juicer can read."""

    @property
    def champion(self) -> SummaryRow | None:
        """The model that was chosen on validation prompts."""
        return self.summary.model(self.summary.champion.name) if self.summary else None


def lines(*, everywhere: bool = False) -> list[Line]:
    """The workspace, then the experiments that start from the current commit, in the order of their names.

    Args:
        everywhere: also those of other commits.
    """
    found = [Line(WORKSPACE, "", _read(SUMMARY))]
    for baseline, experiments in saved(everywhere=everywhere).items():
        for name, commit in sorted(experiments):
            found.append(Line(name, _changed(commit, baseline), _summary_at(commit)))
    return found


def shown_table(rows: Sequence[Line]) -> str:
    """The table as plain lines; a figure is of the champion, on held-out prompts."""
    champions = [row.champion for row in rows if row.champion]
    columns = [column for column in shown_columns(champions) if column.key in SHORT]
    table = [["experiment", "changed", "champion", *(SHORT[column.key] for column in columns)]]
    for row in rows:
        champion, cells = row.champion, [row.name, row.changed or ELSEWHERE]
        cells.append(champion.name if champion else ELSEWHERE)
        for column in columns:
            value = champion.metric(column.key) if champion else None
            error = champion.metric(column.error) if champion and column.error else None
            around = f" ±{shown(error, column.digits)}" if error is not None else ""
            text = ELSEWHERE if value is None else f"{shown(value, column.digits, signed=column.signed)}{around}"
            cells.append(text.replace("−", "-"))
        table.append(cells)
    widths = [max(len(line[place]) for line in table) for place in range(len(table[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place > 2 else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    )


def notes(rows: Sequence[Line], *, everywhere: bool) -> list[str]:
    """What has to be said below the table, a line each."""
    said = ["Figures are of each champion, on held-out prompts. Juicer's rules for differences: juicer report."]
    if any(row.summary is None and row.name != WORKSPACE for row in rows):
        said.append("Where figures are missing, DVC's cache lacks them (dvc exp pull REMOTE NAME) or they are older.")
    said += [
        f"{each.name} is unfinished; it resumes with: juicer exp run {shlex.join(each.words)} --name {each.name}"
        for each in unfinished()
    ]
    if not everywhere:
        here = {row.name for row in rows}
        others = {name for each in saved(everywhere=True).values() for name, _ in each} - here
        said += [f"{len(others)} more start from other commits: juicer exp --all"] if others else []
    return said


def _summary_at(commit: str) -> Summary | None:
    """The summary of a commit, from DVC's cache; None if it is not there."""
    from dvc.repo import Repo

    try:
        md5 = DvcLock.of(git("show", f"{commit}:./{LOCK}") + "\n", LOCK).md5(str(SUMMARY))
    except InputError:
        return None
    if md5 is None:
        return None
    with Repo() as repo:
        place = Path(repo.cache.local.oid_to_path(md5))
    return _read(place)


def _read(path: Path) -> Summary | None:
    """A summary, unless it is not there or was written by a Juicer with other figures."""
    try:
        return Summary.read(path)
    except InputError:
        return None


def _changed(commit: str, baseline: str) -> str:
    """What an experiment changed: as it was asked for, or else by comparison with the commit that it starts from."""
    subject = git("log", "-1", "--format=%s", commit)
    if subject.startswith(SAID):
        return subject.removeprefix(SAID)
    before, after = (_values(each) for each in (baseline, commit))
    keys = [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
    more = f" and {len(keys) - FEW} more" if len(keys) > FEW else ""
    return " ".join(f"{key}={after.get(key)}" for key in keys[:FEW]) + more


def _values(commit: str) -> dict[str, Any]:
    """The recipe in a commit by its dotted keys, without the graph that follows from it."""
    try:
        values = parse_yaml(git("show", f"{commit}:./{PARAMS}") + "\n", str(PARAMS))
    except InputError:
        return {}
    return dict(_flat({key: value for key, value in values.items() if key != "graph"}))


def _flat(values: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    found = list[tuple[str, Any]]()
    for key, value in values.items():
        found += _flat(value, f"{above}{key}.") if isinstance(value, dict) and value else [(f"{above}{key}", value)]
    return found
