"""The stages tabulate and report, and what `make repro` ends with, as commands."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from juicer.recipe.graph import ABSENT
from tests.example_evaluations import evaluation, table, write_inputs


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


def outputs(project: Path) -> dict[str, str]:
    files = [project / "report/report.html", *project.glob("report/plots/*"), *project.glob("metrics/*")]
    return {str(file.relative_to(project)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_rows_add_up_to_a_table_that_the_report_is_made_of(project: Path) -> None:
    write_inputs(project, {"models": []})
    previous = ABSENT
    for model in (evaluation("base", "base", 0, quality=0.1), evaluation("sft", "sft", 0)):
        name = model["name"]
        Path(f"{name}.json").write_text(json.dumps(model))
        done = run("tasks.tabulate", "--previous", previous, "--row", f"{name}.json", "--out", f"tables/{name}.json")
        assert done.returncode == 0, done.stderr
        previous = f"tables/{name}.json"
    done = run("tasks.report", "--table", previous, "--raw", "data/raw", "--data", "data/curated")
    assert done.returncode == 0, done.stderr
    summary = json.loads(Path("metrics/summary.json").read_text())
    assert [model["name"] for model in summary["models"]] == ["base", "sft"]
    again = run("tasks.tabulate", "--previous", previous, "--row", "sft.json", "--out", "tables/twice.json")
    assert again.returncode == 1
    assert again.stderr.strip().startswith("error: sft.json: the table already has a model 'sft'")
    assert not Path("tables/twice.json").exists()


def test_two_runs_with_other_hash_seeds_and_other_costs_give_the_same_bytes(project: Path) -> None:
    arguments = write_inputs(project, table(3, 2))
    first = run("tasks.report", *arguments, PYTHONHASHSEED="1")
    assert first.returncode == 0, first.stderr
    before = outputs(project)
    assert len(before) == 8
    second = run("tasks.report", *arguments, PYTHONHASHSEED="2")
    assert second.returncode == 0, second.stderr
    assert outputs(project) == before
    assert Path("report/costs.html").is_file()
    assert Path("report/environment.html").is_file()


def test_the_last_words_are_the_table_and_where_the_report_is(project: Path) -> None:
    run("tasks.report", *write_inputs(project, table(2, 1)))
    done = run("juicer", "report", "--table")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == f"Report: {project / 'report/report.html'}"
    assert sum(line.startswith("> rft-r1") for line in lines) == 1
    assert max(map(len, lines[:-1])) <= 120


@pytest.mark.parametrize("missing", ["evaluation/tables/last.json", "data/raw/provenance.json"])
def test_a_missing_input_is_one_line_and_the_old_report_stays(project: Path, missing: str) -> None:
    arguments = write_inputs(project, table(1, 0))
    assert run("tasks.report", *arguments).returncode == 0
    before = outputs(project)
    Path(missing).unlink()
    done = run("tasks.report", *arguments)
    assert done.returncode == 1
    assert done.stderr == f"error: {missing}: no such file (run the stage that makes it: dvc repro)\n"
    assert outputs(project) == before


def test_the_stages_start_without_the_libraries_that_train() -> None:
    modules = "tasks.tabulate, tasks.report, juicer.cli, juicer.reporting.summary, juicer.recipe.activation"
    heavy = "{'torch', 'transformers', 'pandas', 'numpy', 'matplotlib', 'dvc', 'mlflow'}"
    code = f"import sys, {modules}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
