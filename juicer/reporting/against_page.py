"""The page report/against.html and the terminal's table of `juicer report --against`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from juicer.reporting.against import Against, ChangedPath, Compared, ModelPair, compare
from juicer.reporting.formatting import shown
from juicer.reporting.objects import Objects
from juicer.reporting.outcomes import Outcome, at_revision, is_project, of_folder
from juicer.reporting.page import colour_of
from juicer.reporting.rendering import render_page
from juicer.runtime.files import replace_text

PAGE = Path("report/against.html")
MOST = 40
"""Changed values and files that the terminal lists; the page has all."""


@dataclass(frozen=True)
class Cells:
    """One metric of two models, as text."""

    heading: str
    there: str
    here: str
    difference: str
    interval: str
    verdict: str


@dataclass(frozen=True)
class Group:
    """A pair of models and its metrics."""

    title: str
    colour: str
    cells: list[Cells]
    note: str


def outcome_of(reference: str, folder: Path, objects: Objects) -> Outcome:
    """The outcome that a reference names: a folder of a project, or a git revision.

    Args:
        reference: as it was given.
        folder: the same as a path from the working directory.
    """
    if is_project(folder):
        return of_folder(folder, reference, objects)
    return at_revision(reference, objects)


def publish(there: Outcome, objects: Objects) -> list[str]:
    """Compare the results of this project with other ones; writes the page and returns the terminal's lines."""
    found = compare(of_folder(Path(), "here", objects), there)
    replace_text(PAGE, render(found))
    return [*lines_of(found), f"Report: {PAGE.resolve()}"]


def render(found: Against) -> str:
    """The page."""
    return render_page(
        "against.html.j2",
        found=found,
        champions=_group(found.champions, found.title) if found.champions else None,
        models=[_group(pair, pair.here) for pair in found.models],
        only=[(where, names) for where, names in (("here", found.only_here), ("there", found.only_there)) if names],
    )


def _group(pair: ModelPair, title: str) -> Group:
    return Group(title, colour_of(pair.method), [_cells(each) for each in pair.compared], pair.note)


def _cells(each: Compared) -> Cells:
    digits = each.measure.digits
    difference = shown(each.difference, digits, signed=True)
    there, here = shown(each.there, digits), shown(each.here, digits)
    return Cells(each.measure.heading, there, here, difference, each.interval, each.verdict)


def lines_of(found: Against) -> list[str]:
    """What the terminal shows: the champions, models of the same name by their main metrics, and what has changed."""
    here, there = found.here, found.there
    lines = [f"There: {there.label}, recipe {there.recipe}, seed {there.seed}"]
    lines += [f"Here:  recipe {here.recipe}, seed {here.seed}", ""]
    if pair := found.champions:
        on = f", {pair.common} held-out prompts in common" if pair.common else ""
        lines.append(f"{found.title}{on}")
        rows = [("", "there", "here", "difference", "95% interval", "")]
        rows += [
            (each.heading, each.there, each.here, each.difference, each.interval, each.verdict)
            for each in map(_cells, pair.compared)
        ]
        lines += [*_aligned(rows), *([pair.note] if pair.note else []), ""]
    if found.models:
        lines += ["Models of the same name, here less there (* beyond noise):", *_aligned(_models(found.models))]
    lines += [f"Only {where}: {', '.join(names)}" for where, names in _only(found) if names]
    lines += ["", *_changes("recipe", [f"{each.key}: {each.there} -> {each.here}" for each in found.values])]
    lines += _changes("data and models to start from", _paths(found.data))
    lines += _changes("code", [*_paths(found.code), *found.unknown_code])
    return [line.replace("−", "-").replace("\u202f", " ") for line in [*lines, f"{found.headline}."]]


def _only(found: Against) -> tuple[tuple[str, list[str]], ...]:
    return ("here", found.only_here), ("there", found.only_there)


def _models(pairs: Sequence[ModelPair]) -> list[tuple[str, ...]]:
    keys = list(dict.fromkeys(each.measure.key for pair in pairs for each in pair.compared))[:6]
    first = {each.measure.key: each.measure for pair in pairs for each in pair.compared}
    rows: list[tuple[str, ...]] = [("model", *(first[key].heading.split(",")[0] for key in keys))]
    for pair in pairs:
        found = [pair.of(key) for key in keys]
        rows.append((pair.here, *(_brief(each) for each in found)))
    return rows


def _brief(each: Compared | None) -> str:
    if each is None:
        return "-"
    beyond = "*" if each.verdict in ("better", "worse", "higher", "lower") else " "
    return f"{shown(each.difference, each.measure.digits, signed=True)}{beyond}"


def _paths(changed: Sequence[ChangedPath]) -> list[str]:
    return [each.path if each.how == "changed" else f"{each.path} ({each.how})" for each in changed]


def _changes(what: str, changed: Sequence[str]) -> list[str]:
    if not changed:
        return [f"Changed {what}: nothing"]
    rest = [f"  ... and {len(changed) - MOST} more, on the page"] if len(changed) > MOST else []
    return [f"Changed {what}:", *(f"  {each}" for each in changed[:MOST]), *rest]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column and the last of a table of verdicts are words, the others numbers."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        cells[0] = row[0].ljust(widths[0])
        if row[-1] != cells[-1] and rows[0][-1] == "":
            cells[-1] = row[-1]
        lines.append(f"  {'  '.join(cells)}".rstrip())
    return lines
