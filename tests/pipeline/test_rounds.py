"""`rounds: auto` under DVC on the smallest world: what runs, what params.yaml records, and that a rerun repeats it."""

import json
import re
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.finished_pipeline import ROOT, SMALLEST, call, repro
from tests.shared import copied

AUTO = [*SMALLEST, "irft.rounds=auto"]
NEW = {"irft_generate@r2", "irft_train@r2", "evaluate@irft-r2", "compare_round@irft-r1", "compare_round@irft-r2"}
RULE, STAND_IN = 'improved=found.verdict == "better",', "improved=model.round == 1,"


@pytest.fixture(scope="module")
def project(finished_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with one round of each method, in which only the first one improves, whatever is measured."""
    folder = copied(finished_pipeline, tmp_path_factory.mktemp("project"))
    shutil.copytree(ROOT / "flows", folder / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    rule = folder / "juicer/evaluation/rounds.py"
    assert rule.read_text().count(RULE) == 1
    rule.write_text(rule.read_text().replace(RULE, STAND_IN))
    return folder


def recorded(folder: Path) -> dict:
    return YAML(typ="safe").load((folder / "params.yaml").read_text())


def ran_in(output: str) -> set[str]:
    return set(re.findall(r"^stage \d+ of \d+: (\S+) started\b", output, re.MULTILINE))


def test_rounds_are_added_until_one_does_not_improve_and_that_one_is_discarded(project):
    done = call(project, "juicer", "run", "quickstart", *AUTO, "--until", "report")
    said = [line for line in done.stdout.splitlines() if line.startswith("params.yaml: irft")]
    assert said == [
        "params.yaml: irft-r1 improves on sft, so irft-r2 is tried",
        "params.yaml: irft-r2 does not improve on irft-r1 beyond noise, so 1 round is kept",
    ]
    params = recorded(project)
    assert params["irft"]["rounds"] == "auto" and params["graph"]["rounds"] == {"irft": {"ran": 2, "kept": 1}}
    assert ran_in(done.stdout) == {"code", *NEW, "report"}
    summary = json.loads((project / "metrics/summary.json").read_text())
    assert [model["name"] for model in summary["models"]] == ["base", "sft", "sft-matched", "irft-r1", "rft-r1"]
    assert [(each["round"], each["improved"]) for each in summary["rounds"]] == [(1, True), (2, False)]
    page = (project / "report/report.html").read_text()
    assert "IRFT stopped after round 2" in page and "round 2 is discarded" in page and "How many rounds" in page


def test_the_same_recipe_and_a_plain_repro_run_nothing_again(project):
    before = (project / "params.yaml").read_text()
    done = call(project, "juicer", "run", "quickstart", *AUTO, "--until", "report")
    assert ran_in(done.stdout) == set() and (project / "params.yaml").read_text() == before
    assert repro(project, "report") == (set(), set())
    assert "irft.rounds is auto: 2 here" in call(project, "juicer", "run", "--dry-run").stdout


def test_a_plain_repro_reproduces_the_discarded_round_and_the_comparisons(project):
    for name in ("evaluation", "report", "metrics"):
        shutil.rmtree(project / name)
    (project / "dvc.lock").unlink()
    ran, restored = repro(project, "report")
    assert ran == {"code"} and restored >= NEW
    assert json.loads((project / "metrics/summary.json").read_text())["rounds"][1]["improved"] is False
