"""What the registry is told of the leaderboard."""

from pathlib import Path

from juicer.reporting.leaderboard_table import HEADINGS, paper_row
from tests.example_evaluations import benchmark_result
from tests.pipeline.test_register import Project

SCORES = dict(zip(HEADINGS, (20.0, 30.0, 50.0, 0.0, 25.0, 25.0, 25.0), strict=True))


def measured(folder: Path, *, paper: bool) -> Project:
    """A finished pipeline in which one model was measured."""
    finished = Project(folder)
    result = benchmark_result("irft-r2", "irft", 2)
    finished.stage("leaderboard@irft-r2", "", ["models/irft/r2"], ["evaluation/leaderboard/irft-r2"])
    finished.write("evaluation/leaderboard/irft-r2/results.json", result)
    table = ["evaluation/leaderboard-tables/irft-r2.json"]
    finished.stage("tabulate_leaderboard@irft-r2", "", ["evaluation/leaderboard/irft-r2/results.json"], table)
    finished.stages["report"]["deps"].append({"path": table[0], "hash": "md5", "md5": "0"})
    model = {key: result[key] for key in ("name", "method", "round")}
    row = {**model, **SCORES, "errors": {}, "paper": paper_row(2).as_json() if paper else None}
    finished.summary["leaderboard"] = {"fewshot": {}, "metric": {}, "limit": None, "models": [row]}
    finished.choose("irft-r2")
    return finished


def test_a_measured_model_is_a_run_with_its_scores_the_paper_s_and_a_table_of_both(project: Path) -> None:
    runs = {run.name: run for run in measured(project, paper=True).records().runs}
    run = runs["leaderboard@irft-r2"]
    assert {key: run.metrics[f"leaderboard/{key}"] for key in HEADINGS} == SCORES
    assert run.metrics["paper/average"] == 61.02
    assert (run.tags["model"], run.tags["version.lm_eval"]) == ("irft-r2", "0.4.13")
    assert "| irft-r2 | 20.00 |" in run.tags["mlflow.note.content"]
    assert "| the paper: IRFT, T = 2 | 76.13 |" in run.tags["mlflow.note.content"]


def test_a_version_carries_the_scores_of_its_model(project: Path) -> None:
    versions = {version.name: version for version in measured(project, paper=False).records().versions}
    assert versions["irft-r2"].figures["leaderboard_mmlu"] == 25
    assert not any("leaderboard" in key for key in versions["irft-r1"].figures)


def test_without_the_paper_there_are_only_our_scores(project: Path) -> None:
    runs = {run.name: run for run in measured(project, paper=False).records().runs}
    assert not any(key.startswith("paper/") for key in runs["leaderboard@irft-r2"].metrics)
