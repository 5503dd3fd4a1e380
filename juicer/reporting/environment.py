"""The commit and the versions that a report was made with, in report/environment.html and report/environment.json.

They differ between machines for the same inputs, so they stay out of the versioned report and are written beside it,
once, when the report is made. A report that DVC restores from its cache was made elsewhere: the page then says so.
"""

import importlib.metadata
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from juicer.evaluation.documents import Document
from juicer.reporting.rendering import render_page
from juicer.runtime.errors import InputError
from juicer.runtime.files import replace_text
from juicer.stages.costs import StageCost
from juicer.stages.dvc_files import LOCK
from juicer.stages.git import changed_files, head
from juicer.stages.hashes import md5_of

LIBRARIES = ("juicer", "torch", "transformers", "trl", "peft", "datasets", "dvc", "flash_attn")
OWN = (f":(exclude){LOCK}", ":(exclude)params.yaml")
"""Files that a run writes itself, so that a change of them is no change of the code."""


class Environment(Document):
    """What a report was made with."""

    report_md5: str
    """Of report.html, which this belongs to."""
    commit: str | None
    """The commit that was checked out; None outside git."""
    changed: int | None
    """Number of tracked files that differed from it, dvc.lock and params.yaml aside; None outside git."""
    python: str
    versions: dict[str, str]
    """By library; one that is not installed is missing."""
    devices: list[str] = Field(default_factory=list)
    """The GPUs of the stages that were run here, in words."""
    deterministic: bool | None = None
    """Whether all of these took deterministic operations only; None where none used a GPU."""


def record(report: Path, costs: Sequence[StageCost] = ()) -> None:
    """Write down what the report in the folder `report` was made with: here and now.

    Args:
        costs: those of the stages that were run here.
    """
    on_gpus = [cost for cost in costs if cost.device is not None]
    try:
        changed = len(changed_files(".", *OWN, untracked=False))
    except InputError:
        changed = None
    found = Environment(
        report_md5=md5_of(report / "report.html"),
        commit=head(),
        changed=changed,
        python=platform.python_version(),
        versions={name: version for name in LIBRARIES if (version := _version(name)) is not None},
        devices=sorted({str(cost.device) for cost in on_gpus}),
        deterministic=all(cost.deterministic for cost in on_gpus) if on_gpus else None,
    )
    replace_text(report / "environment.json", json.dumps(found.as_json(), indent=1) + "\n")
    refresh(report)


def refresh(report: Path) -> None:
    """Write environment.html anew: of the report that is there now, or that nothing is known of it here."""
    replace_text(report / "environment.html", render(_of(report)))


def render(found: Environment | None) -> str:
    """The page; None is for a report that was made elsewhere."""
    facts: dict[str, Any] = {}
    if found is not None:
        changed = found.changed or 0
        differ = f", and {changed} changed file{'s' if changed > 1 else ''}" if changed else ""
        facts = {"commit": f"{found.commit or 'none: outside git'}{differ}", "Python": found.python, **found.versions}
        if found.devices:
            facts["GPU"] = "; ".join(found.devices)
            facts["deterministic"] = "yes" if found.deterministic else "no: another run differs in its last digits"
    return render_page("environment.html.j2", facts=facts)


def _of(report: Path) -> Environment | None:
    try:
        found = Environment.read(report / "environment.json")
    except InputError:
        return None
    return found if found.report_md5 == md5_of(report / "report.html") else None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
