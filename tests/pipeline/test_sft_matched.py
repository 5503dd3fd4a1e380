"""The stages sft and sft_matched: every objective gives a model; the control has its budget and its best rate."""

import json
import math
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from juicer.recipe.activation import dump, load
from juicer.recipe.graph import ABSENT
from tasks import sft, sft_matched
from tests.small_pipeline import RECIPE, ROOT, ROW, save_tiny_model
from tests.stub_models import write_stub


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with an SFT model, a method's model that cost 30 steps, and demonstrations of one answer."""
    monkeypatch.chdir(tmp_path)
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, os.environ[name])
    save_tiny_model(tmp_path / "models/sft")
    (tmp_path / "models/method").mkdir()
    used = {"stage": "irft_train", "total_steps": 30, "total_response_tokens": 30}
    (tmp_path / "models/method/training.json").write_text(json.dumps(used))
    (tmp_path / "data").mkdir()
    for split in ("train", "validation"):
        rows = [{**ROW, "id": str(number), "rejected": None} for number in range(16)]
        (tmp_path / "data" / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, stage: ModuleType, options: list[str], *overrides: str) -> dict:
    """Run a stage; returns the training record of its model."""
    Path("rows.jsonl").write_text('{"prompt": "Is it raining?", "response": "No."}\n')
    write_stub(Path("models/world"))
    Path("params.yaml").write_text(dump(*load(ROOT / "recipes/quickstart.yaml", [*RECIPE, *overrides])))
    name = stage.__name__.removeprefix("tasks.")
    given = ["--policy", "models/sft", *options, "--data", "data", "--out", f"models/made-{name}"]
    monkeypatch.setattr(sys, "argv", [name, *given])
    with pytest.raises(SystemExit) as left:
        stage.main(stage.run, stage.arguments, stage.__doc__)
    assert left.value.code == 0
    assert Path(f"models/made-{name}/model.safetensors").is_file()
    return json.loads(Path(f"models/made-{name}/training.json").read_text())


def control(monkeypatch: pytest.MonkeyPatch, *overrides: str, irft: str = "models/method", rft: str = ABSENT) -> dict:
    """Run the stage; returns the control's training record."""
    return run(monkeypatch, sft_matched, ["--scorer", "models/sft", "--irft", irft, "--rft", rft], *overrides)


def costs() -> dict:
    """Of the stage that has just run; it is not started as a module here, so it has no name of its own."""
    return json.loads(Path(".juicer/costs/stage.json").read_text())


@pytest.mark.parametrize("rates", ["[1e-6, 1e-2]", "[1e-2, 1e-6]"])
def test_without_scorer_and_rejected_responses_the_control_s_rate_is_still_chosen(folder, monkeypatch, rates):
    record = control(monkeypatch, f"sft_matched.learning_rates={rates}", "sft.batch_size=4")
    gaps = record["facts"]["validation_of_learning_rates"]
    assert abs(gaps["0.01"]) < abs(gaps["1e-06"])
    assert record["facts"]["learning_rate"] == 1e-2


ONE_RATE = ["sft_matched.learning_rates=[1e-3]", "sft.batch_size=4"]


@pytest.mark.parametrize(("objective", "curve"), [("gem", "loss"), ("dft", "log_normaliser")])
def test_sft_by_another_objective_writes_a_model(folder, monkeypatch, objective, curve):
    record = run(monkeypatch, sft, [], f"sft.objective={objective}", "sft.dft.samples=3", "sft.batch_size=4")
    assert (record["stage"], record["steps"], record["facts"]["objective"]) == ("sft", 8, objective)
    assert len(record["curves"][curve]["value"]) == 8
    found = costs()
    assert found["steps"] == 8 and found["response_tokens"] == record["response_tokens"]
    assert found.get("samples") == (48 if objective == "dft" else None)


@pytest.mark.parametrize("objective", ["nll", "gem", "dft"])
def test_the_control_takes_its_budget_of_steps_with_every_objective(folder, monkeypatch, objective):
    # The method took 30 steps and few tokens.
    record = control(monkeypatch, *ONE_RATE, f"sft_matched.objective={objective}", "sft_matched.steps=20")
    assert (record["stage"], record["steps"], record["total_steps"]) == ("sft_matched", 30, 30)
    record = control(monkeypatch, *ONE_RATE, f"sft_matched.objective={objective}", "sft_matched.steps=33")
    assert record["steps"] == 33
    assert record["facts"].get("objective", "nll") == objective


@pytest.mark.parametrize("objective", ["nll", "gem", "dft"])
def test_the_control_takes_its_budget_of_tokens_with_every_objective(folder, monkeypatch, objective):
    few = control(monkeypatch, *ONE_RATE, f"sft.objective={objective}")
    each = few["response_tokens"] / few["steps"]  # all demonstrations are the same
    wanted = math.ceil(40.5 * each)
    record = control(monkeypatch, *ONE_RATE, f"sft.objective={objective}", f"sft_matched.response_tokens={wanted}")
    # DFT's samples differ in length, so 30 steps are not a mean to the token.
    assert record["steps"] == (41 if objective != "dft" else pytest.approx(41, abs=1))
    assert record["total_response_tokens"] >= wanted * (1 if objective != "dft" else 0.97)


def test_samples_count_among_the_tokens_of_the_control_and_are_those_of_the_start(folder, monkeypatch):
    given = [*ONE_RATE, "sft_matched.objective=dft", "sft_matched.learning_rates=[1e-3, 1e-4]"]
    record = control(monkeypatch, *given)
    likelihood = control(monkeypatch, *ONE_RATE)
    assert record["response_tokens"] > likelihood["response_tokens"]
    assert record["curves"]["log_normaliser"]["value"][0] == pytest.approx(0, abs=1e-4)


def test_without_rounds_a_control_of_so_many_steps_is_trained(folder, monkeypatch):
    none = ["irft.rounds=0", "rft.rounds=0", "sft_matched.steps=3"]
    assert control(monkeypatch, *ONE_RATE, *none, irft=ABSENT)["total_steps"] == 3
