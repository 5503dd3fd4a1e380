"""The claim over several seeds: rounds are chosen on validation, differences are held-out, intervals are Student's."""

import json
import math
import subprocess
import sys
from types import SimpleNamespace

import pytest

from bench import claim
from bench.claim import METRICS, interval, run_seed
from juicer.reporting.numbers import summarise
from tests.example_evaluations import evaluation, parsed

# name: (method, round, quality on held-out prompts, quality on validation prompts)
MODELS = {
    "base": ("base", 0, 0.0, 0.0),
    "sft": ("sft", 0, 0.3, 0.3),
    "sft-matched": ("sft-matched", 0, 0.4, 0.4),
    "irft-r1": ("irft", 1, 0.9, 0.5),
    "irft-r2": ("irft", 2, 0.5, 0.9),
    "irft-r3": ("irft", 3, 0.6, 0.7),
    "rft-r1": ("rft", 1, 0.7, 0.8),
    "rft-r2": ("rft", 2, 0.8, 0.7),
}


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A finished world, whose commands are not run again."""
    folder = tmp_path / "imperfect-0"
    made = [
        evaluation(name, method, number, quality=quality, validation=validation)
        for name, (method, number, quality, validation) in MODELS.items()
    ]
    for model in [*made, evaluation("irft-r12", "irft", 12, quality=0.2, validation=1.0)]:
        path = folder / f"evaluation/models/{model['name']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(model))
    (folder / "metrics").mkdir()
    summary = summarise(parsed({"models": made}), "quickstart", 0)
    (folder / "metrics/summary.json").write_text(json.dumps(summary.as_json()))
    (folder / "dvc.yaml").touch()
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=0))
    return folder


def test_rounds_are_chosen_on_validation_prompts_and_their_figures_are_held_out(world):
    run_seed(world.parent, "imperfect", 0, ["few", "many"])
    chosen = json.loads((world / "results.json").read_text())
    assert {name: figures["round"] for name, figures in chosen.items()} == {
        "base": 0, "sft": 0, "sft-matched": 0, "irft T=3": 2, "irft T=3, last round": 3, "rft": 1,
        "irft T=12, last round": 12,
    }  # fmt: skip
    held_out = {"irft T=3": 0.5, "irft T=3, last round": 0.6, "rft": 0.7, "irft T=12, last round": 0.2}
    assert {name: chosen[name]["oracle_mean"] for name in held_out} == held_out
    assert chosen["rft"]["reward_mean"] == pytest.approx(4 * 0.7 - 1)
    assert all(set(METRICS) < set(figures) for figures in chosen.values())


@pytest.mark.parametrize(("count", "quantile"), [(2, 12.706), (3, 4.303), (5, 2.776), (30, 2.045)])
def test_the_half_width_of_an_interval_is_student_s(count, quantile):
    differences = [0.3 + 0.1 * (-1) ** number * number for number in range(count)]
    mean = sum(differences) / count
    deviation = math.sqrt(sum((each - mean) ** 2 for each in differences) / (count - 1))
    found, width = interval(differences)
    assert found == pytest.approx(mean)
    assert width == pytest.approx(quantile * deviation / math.sqrt(count), rel=1e-3)


def test_one_seed_has_no_interval():
    assert interval([0.3]) == (0.3, math.inf)


def test_the_table_has_differences_to_the_control_paired_by_seed(tmp_path, monkeypatch):
    values = {"sft": [0.0, 5.0], "sft-matched": [1.0, 3.0], "rft": [2.0, 5.0]}
    for seed in (0, 1):
        figures = {name: dict.fromkeys(METRICS, value[seed]) for name, value in values.items()}
        (tmp_path / f"imperfect-{seed}").mkdir()
        (tmp_path / f"imperfect-{seed}/results.json").write_text(json.dumps(figures))
    monkeypatch.setattr(claim, "run_seed", lambda *_: None)
    out = tmp_path / "claim.json"
    monkeypatch.setattr(sys, "argv", ["claim", "--work", str(tmp_path), "--out", str(out)])
    claim.main()
    row = json.loads(out.read_text())["differences"]["imperfect"]["rft"]["oracle_mean"]
    assert (row["seeds"], row["mean"], row["difference"]) == (2, 3.5, 1.5)
    assert row["half_width"] == pytest.approx(12.706 * 0.5, rel=1e-3)
