"""`juicer report --against` on a real git repository and a real DVC cache, with made-up results."""

import json
import shutil
import subprocess
import sys
from hashlib import md5
from pathlib import Path
from typing import Any

import pytest

from juicer.evaluation.results import EvaluatedModel
from juicer.reporting.numbers import summarise
from juicer.runtime.files import write_json
from tests.example_evaluations import parsed, table, with_rows

LOCK = """schema: '2.0'
stages:
{evaluations}  report:
    cmd: python -m tasks.report
    deps:
{deps}    params:
      params.yaml:
        irft:
          rounds: {rounds}
    outs:
    - path: metrics/summary.json
      hash: md5
      md5: {summary}
      size: 1
"""
EVALUATION = """  evaluate@{name}:
    cmd: python -m tasks.evaluate
    outs:
    - path: evaluation/models/{name}.json
      hash: md5
      md5: {md5}
      size: 1
"""
DEP = "    - path: evaluation/models/{name}.json\n      hash: md5\n      md5: {md5}\n      size: 1\n"


def write_results(project: Path, shift: float, rounds: int) -> str:
    """Write results whose scores are higher by `shift`, with a dvc.lock and DVC's copies; returns the summary's md5."""
    evaluated = table(1, 1)
    entries, deps = "", ""
    for model in evaluated["models"]:
        model["held_out_scores"] = [
            score + shift * (1 + place % 2) for place, score in enumerate(model["held_out_scores"])
        ]
        model["held_out"]["reward_mean"] += 1.5 * shift
        with_rows(model, [f"p{place}" for place in range(60)])
        kept = _write(project, f"evaluation/models/{model['name']}.json", EvaluatedModel.parse(model, "").as_json())
        entries += EVALUATION.format(name=model["name"], md5=kept)
        deps += DEP.format(name=model["name"], md5=kept)
    summary = _write(project, "metrics/summary.json", summarise(parsed(evaluated), "quickstart", 0).as_json())
    lock = LOCK.format(evaluations=entries, deps=deps, rounds=rounds, summary=summary)
    (project / "dvc.lock").write_text(lock, encoding="utf-8")
    return summary


def _write(project: Path, path: str, values: Any) -> str:
    file = project / path
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, values)
    found = md5(file.read_bytes(), usedforsecurity=False).hexdigest()
    kept = cached(project, found)
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, kept)
    return found


def cached(project: Path, found: str) -> Path:
    return project / ".dvc/cache/files/md5" / found[:2] / found[2:]


def git(*arguments: str) -> None:
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *who, *arguments], check=True, capture_output=True)


def against(what: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "juicer", "report", "--against", what]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def earlier(project: Path) -> str:
    """A project with better results than those of its last commit; the md5 of that commit's summary."""
    git("init", "-q")
    summary = write_results(project, 0.0, rounds=1)
    git("add", "dvc.lock", "dvc.yaml", "params.yaml", ".dvc/config")
    git("commit", "-q", "-m", "Record a run")
    write_results(project, 0.05, rounds=2)
    return summary


def test_a_revision_s_results_come_from_the_cache_and_are_paired_with_those_of_now(project: Path, earlier: str) -> None:
    done = against("HEAD")
    assert done.returncode == 0, done.stderr
    score = next(line for line in done.stdout.splitlines() if line.startswith("  Score"))
    assert "+0.075" in score and score.endswith("better")
    assert "Champions: rft-r1 there, rft-r1 here, 60 held-out prompts in common" in done.stdout
    assert "irft.rounds: 1 -> 2" in done.stdout
    assert "is better than rft-r1 of HEAD" in (project / "report/against.html").read_text(encoding="utf-8")
    assert json.loads((project / "metrics/summary.json").read_text())["champion"]["name"] == "rft-r1"


def test_another_folder_is_compared_by_its_files(project: Path, earlier: str) -> None:
    shutil.copytree(project, project / "other", ignore=shutil.ignore_patterns(".git", "other"))
    write_results(project / "other", 0.5, rounds=2)
    done = against("other")
    assert done.returncode == 0, done.stderr
    assert "There: other, recipe quickstart" in done.stdout
    assert "is worse than rft-r1 of other" in done.stdout
    shutil.rmtree(project / "other/metrics")
    refused = against("other")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert (
        "error: other/metrics/summary.json: there are no results (make them in that folder: juicer run)"
        in refused.stderr
    )


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_results_that_the_cache_has_no_more_are_refused_and_nothing_is_written(
    project: Path, earlier: str, damage: str
) -> None:
    kept = cached(project, earlier)
    if damage == "missing":
        kept.unlink()
    else:
        kept.write_text("{}")
    refused = against("HEAD")
    assert (refused.returncode, refused.stdout) == (1, "")
    said = {
        "missing": f"neither DVC's cache nor a remote has its metrics/summary.json ({earlier})",
        "damaged": f"the object {earlier} of DVC's cache is damaged",
    }
    assert said[damage] in refused.stderr and len(refused.stderr.splitlines()) == 1
    assert not (project / "report/against.html").exists()


@pytest.mark.parametrize("what", ["nowhere", "--output=x", "deadbeef"])
def test_what_is_no_revision_is_refused(project: Path, earlier: str, what: str) -> None:
    command = [sys.executable, "-m", "juicer", "report", f"--against={what}"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert f"{what!r} is neither a git revision, nor a folder of a project, nor models:/NAME/VERSION" in refused.stderr
