"""A registered version as an outcome: from its tags, what was kept with it, and the dvc.lock that still names it."""

import json
from pathlib import Path

import pytest

from juicer.registry import outcome
from juicer.registry.outcome import outcome_of_version, row_of
from juicer.registry.versions import Version
from tests.example_evaluations import evaluation

WEIGHTS, EVALUATED = "a" * 32, "b" * 32
KEPT = """schema: '2.0'
stages:
  irft_train@r1:
    cmd: python -m tasks.irft_train
    deps:
    - path: data/curated
      hash: md5
      md5: {data}
      size: 1
    outs:
    - path: models/irft/r1
      hash: md5
      md5: {weights}
      size: 1
"""
EVALUATION = """  evaluate@irft-r1:
    cmd: python -m tasks.evaluate
    outs:
    - path: evaluation/models/irft-r1.json
      hash: md5
      md5: {evaluated}
      size: 1
"""
VERSION = Version(
    "quickstart",
    "3",
    {
        "model": "irft-r1", "method": "irft", "round": "1", "recipe": "quickstart", "seed": "4",
        "dvc_path": "models/irft/r1", "dvc_md5": WEIGHTS, "git_commit": "unknown",
        "metric.reward_mean": "1.5", "metric.prompts": "207", "metric.leaderboard_arc": "50",
    },
    "run",
    "logged",
)  # fmt: skip


class Registry:
    """Keeps a dvc.lock and a params.yaml."""

    def kept_text(self, version: Version, name: str) -> str:
        return {
            "dvc.lock": KEPT.format(data="c" * 32, weights=WEIGHTS),
            "params.yaml": "seed: 4\nirft: {rounds: 1, training: {beta: 1e-1}}\ngraph: {base: x}\n",
        }[name]


class Objects:
    """Has the evaluation, and nothing else."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "object"
        self.path.write_text(json.dumps(evaluation("irft-r1", "irft", 1)), encoding="utf-8")

    def find(self, md5: str) -> Path | None:
        return self.path if md5 == EVALUATED else None


@pytest.fixture(autouse=True)
def outside_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(outcome, "commit_of", lambda name: None)


def test_a_version_has_the_metrics_of_its_tags() -> None:
    row = row_of(VERSION)
    assert (row.name, row.method, row.round, row.path) == ("irft-r1", "irft", 1, "models/irft/r1")
    assert (row.reward_mean, row.prompts) == (1.5, 207)
    assert row.oracle_mean is None


def test_a_version_s_values_are_those_of_the_params_that_were_kept_with_it(tmp_path: Path) -> None:
    found = outcome_of_version(Registry(), VERSION, Objects(tmp_path))  # type: ignore[arg-type]
    assert found.values == {"seed": 4, "irft.rounds": 1, "irft.training.beta": 0.1}
    assert (found.label, found.seed, found.champion, found.whole) == ("models:/quickstart/3", "4", "irft-r1", False)


@pytest.mark.parametrize(("weights", "there"), [(WEIGHTS, True), ("d" * 32, False)])
def test_its_evaluation_is_found_where_a_dvc_lock_still_names_the_same_weights(
    tmp_path: Path, weights: str, there: bool
) -> None:
    lock = KEPT.format(data="c" * 32, weights=weights) + EVALUATION.format(evaluated=EVALUATED)
    Path("dvc.lock").write_text(lock, encoding="utf-8")
    found = outcome_of_version(Registry(), VERSION, Objects(tmp_path))  # type: ignore[arg-type]
    assert (found.evaluation("irft-r1") is not None) is there
