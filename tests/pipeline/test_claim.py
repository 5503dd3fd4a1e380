"""`juicer claim` over two seeds and two variants, in copies of a project whose stages write down given figures."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from juicer.claim.results import Claim
from tests.example_evaluations import evaluation
from tests.stub_project import call, environment, make_project, ran

NAMES = {"base": ("base", 0), "sft": ("sft", 0), "sft-matched": ("sft-matched", 0), "irft-r1": ("irft", 1)}
RECIPE = """
extends: quickstart.yaml
name: mine
fetch: {source: rows.jsonl, licence: mine}
pretrain: null
policy: {model: models/mine}
scorer: {kind: none, model: null}
template: {max_prompt_tokens: 48, max_response_tokens: 16}
irft: {rounds: 1}
rft: {rounds: 0}
claim:
  seeds: [0, 1]
  variants:
    imperfect: []
    imperfect-t12: [irft.training.beta=0.5]
    clean: [irft.training.beta=0.7]
"""
MAKE = """
import json, os, sys, time
from pathlib import Path

stage, out = sys.argv[1], Path(sys.argv[2])
with Path(os.environ["RAN"]).open("a") as ran:
    ran.write(f"{stage} {Path.cwd().parent.name}/{Path.cwd().name}\\n")
assert (Path("models/mine") / "config.json").is_file() and Path("models/mine").is_symlink()
if os.environ.get("FAILS") == f"{stage} {Path.cwd().parent.name}":
    sys.exit("error: no more paper")
time.sleep(float(os.environ.get("SLEEPS", "0")) if stage == "train" else 0)
out.parent.mkdir(parents=True, exist_ok=True)
if stage == "report":
    names, keys = sorted(Path("evaluation/models").glob("*.json")), ("name", "method", "round", "path")
    models = [{key: json.loads(path.read_text())[key] for key in keys} for path in names]
    Path("report").mkdir(exist_ok=True)
    Path("report/report.html").touch()
    chosen = {"champion": {"name": "sft", "criterion": None}, "control": "sft"}
    out.write_text(json.dumps({"recipe": "mine", "seed": 0, "models": models, **chosen}))
elif stage == "evaluate":
    out.write_text((Path("figures") / out.name).read_text())
else:
    out.mkdir()
    (out / "weights").write_text(stage)
"""
GRAPH = """
stages:
  sft:
    cmd: python make.py sft models/sft
    deps: [make.py, "${graph.base}"]
    params: [seed, sft]
    outs: [models/sft]
  train:
    cmd: python make.py train models/irft
    deps: [make.py, models/sft]
    params: [seed, irft.training]
    outs: [models/irft]
  evaluate:
    foreach: ${graph.models}
    do:
      cmd: python make.py evaluate evaluation/models/${key}.json
      deps: [make.py, figures, models/irft]
      outs: ["evaluation/models/${key}.json"]
  report:
    cmd: python make.py report metrics/summary.json
    deps: [make.py, evaluation/models/base.json, evaluation/models/sft.json, evaluation/models/sft-matched.json,
           evaluation/models/irft-r1.json]
    outs: [metrics/summary.json, report/report.html]
  register:
    cmd: python make.py register registered
    deps: [metrics/summary.json]
    outs: [registered]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a model that git ignores, as the working directory."""
    figures = {
        name: evaluation(name, method, number, quality=0.3 + 0.2 * number) for name, (method, number) in NAMES.items()
    }
    folder = make_project(tmp_path / "project", RECIPE, GRAPH, MAKE, figures)
    monkeypatch.chdir(folder)
    return folder


def claim(folder: Path, *words: str, code: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
    """Run `juicer claim mine`, which has to end with `code`."""
    return call(folder, "claim", "mine", *words, code=code, **more)


def test_every_variant_and_seed_runs_once_shares_what_it_can_and_is_resumed(project: Path) -> None:
    two = ("--seeds", "0", "1", "--variants", "imperfect", "clean")
    failed = claim(project, *two, code=1, FAILS="train clean")
    assert "imperfect (seeds 0, 1): difference to sft-matched" in failed.stdout
    assert (
        "clean, seed 0: failed" in failed.stdout
        and "no more paper" in (project / ".juicer/claim/mine/clean/seed-0.log").read_text()
    )
    assert "2 of 4 runs failed: clean, seed 0, clean, seed 1" in failed.stderr.splitlines()[-1]
    stages = ran(project)
    # The SFT of a seed is the same in both variants: it is trained once, and restored in the other one.
    assert [each for each in stages if each.startswith("sft")] == ["sft imperfect/seed-0", "sft imperfect/seed-1"]
    assert not any(each.startswith("register") for each in stages)

    done = claim(project, *two)
    assert "2 of 4 runs have finished before" in done.stdout
    # The figures are the same as before, so that only what has failed runs again.
    assert ran(project) == ["train clean/seed-0", "train clean/seed-1"]
    found = Claim.read(project / ".juicer/claim/mine/results.json")
    assert found.seeds == {"imperfect": [0, 1], "clean": [0, 1]}
    assert found.primary == ["score", "accuracy"]
    assert {"claim.md", "claim.png", "claim.svg"} <= {path.name for path in (project / ".juicer/claim/mine").iterdir()}
    # The weights are in the cache, and the input is still the project's own.
    assert not (project / ".juicer/claim/mine/clean/seed-0/models/sft").exists()
    assert (project / "models/mine/config.json").is_file()

    assert "4 of 4 runs have finished before" in claim(project, *two).stdout
    again = claim(project, "--again", "--variants", "clean")
    assert ran(project) == [] and "clean (seeds 0, 1)" in again.stdout and "imperfect" not in again.stdout


def test_ctrl_c_ends_all_and_says_how_to_resume(project: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "juicer", "claim", "mine", "--seeds", "0", "--variants", "clean"],
        cwd=project, env=environment(project, SLEEPS="600"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    log = project.parent / "ran"
    while not (log.exists() and "train" in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines() == ["juicer: interrupted; what has finished is kept, and the same command resumes"]
    ran(project)
    claim(project, "--seeds", "0", "--variants", "clean")
    assert not any(each.startswith("sft") for each in ran(project))
