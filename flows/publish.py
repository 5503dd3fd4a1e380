"""Prefect artifacts of a flow: the plan, its progress, the report's table and figures, and links to MLflow's runs."""

import base64
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)

from flows.forecast import PlannedStage
from juicer.registry.records import overview
from juicer.registry.store import runs_of, without_password
from juicer.reporting.contract import Summary
from juicer.reporting.page import round_figures
from juicer.reporting.rendering import style_sheet

TABLE_OF_RUNS = "workflowType=machine_learning"
"""Without it MLflow 3.17 opens an experiment with the pages for GenAI applications, which are empty here."""
SUMMARY, REPORT = Path("metrics/summary.json"), Path("report/report.html")


class Board:
    """The progress of a run, as artifacts that are updated while it runs."""

    def __init__(self, planned: Sequence[PlannedStage]) -> None:
        self.planned = planned
        self.results: dict[str, tuple[str, float]] = {}
        self.started = time.monotonic()
        self.progress: Any = create_progress_artifact(0.0, key="progress", description=f"{len(planned)} stages")
        create_markdown_artifact(plan_table(planned), key="plan", description="What DVC will do with each stage")

    def note(self, stage: str, result: str) -> None:
        """Record the result of a stage."""
        self.results[stage] = (result, time.monotonic() - self.started)
        percent = 100 * len(self.results) / len(self.planned)
        update_progress_artifact(self.progress, percent, description=self.line())

    def line(self) -> str:
        """The number of stages per result, in words."""
        ends = [result for result, _ in self.results.values()]
        counts = ", ".join(f"{ends.count(end)} {end}" for end in sorted(set(ends)))
        return f"{len(ends)} of {len(self.planned)} stages" + (f": {counts}" if counts else "")

    def close(self) -> None:
        """Publish the final table: each stage with its forecast and its result."""
        rows = [
            f"| {stage.name} | {stage.forecast} | {result} | {seconds:.0f} s |"
            for stage in self.planned
            for result, seconds in [self.results.get(stage.name, ("not started", 0.0))]
        ]
        head = "| stage | forecast | result | ended after |\n|---|---|---|---|\n"
        create_markdown_artifact(head + "\n".join(rows), key="stages", description=self.line())


def plan_table(planned: Sequence[PlannedStage]) -> str:
    """The plan as a Markdown table."""
    rows = [f"| {stage.name} | {stage.forecast} | {', '.join(stage.needs)} |" for stage in planned]
    return "| stage | forecast | after |\n|---|---|---|\n" + "\n".join(rows)


def publish_report() -> None:
    """Publish the report's table, its figures and the path of its page, if there is a report."""
    if not (SUMMARY.is_file() and REPORT.is_file()):
        return
    summary = Summary.read(SUMMARY)
    text = f"{overview(summary)}\n\n"
    create_markdown_artifact(f"{text}`{REPORT.resolve()}`", key="table", description="All models, held-out prompts")
    create_link_artifact(REPORT.resolve().as_uri(), link_text=str(REPORT), key="report", description="The whole page")
    for number, (title, image) in enumerate(figures(summary), 1):
        create_image_artifact(image, key=f"figure-{number}", description=title)


def figures(summary: Summary) -> list[tuple[str, str]]:
    """Title and data URI of each of the report's figures by round, with the page's style."""
    found = []
    for figure in round_figures(summary):
        opening, rest = figure.svg.split(">", 1)
        svg = f'{opening} xmlns="http://www.w3.org/2000/svg"><style>{style_sheet()}</style>{rest}'
        encoded = base64.b64encode(svg.encode()).decode()
        found.append((figure.heading, f"data:image/svg+xml;base64,{encoded}"))
    return found


def publish_mlflow_links(experiment: str) -> None:
    """Publish a table of links to MLflow's runs, if MLflow is a server with a web page."""
    address = os.environ.get("MLFLOW_TRACKING_URI", "").rstrip("/")
    if not address.startswith("http"):
        return
    number, runs = runs_of(address, experiment)
    if not runs:
        return
    # The address that the worker uses may not work in a browser, and may contain a password.
    public = os.environ.get("JUICER_MLFLOW_URL", "").rstrip("/") or without_password(address)
    page = f"{public}/#/experiments/{quote(number)}"
    rows = [f"| [{name}]({page}/runs/{run}) | {status} |" for name, run, status in runs]
    table = "| run | status |\n|---|---|\n" + "\n".join(rows)
    opened = f"[{experiment}]({page}/runs?{TABLE_OF_RUNS})"
    create_markdown_artifact(f"{opened}\n\n{table}", key="mlflow", description="Runs in MLflow")
