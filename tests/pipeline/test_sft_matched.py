"""The stage sft_matched: the control's learning rate is the one that does best on validation."""

import json
import os
import sys
from pathlib import Path

import pytest

from juicer.recipe.activation import dump, load
from tasks import sft_matched
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


def control(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> dict:
    """Run the stage; returns the control's training record."""
    Path("rows.jsonl").write_text('{"prompt": "Is it raining?", "response": "No."}\n')
    write_stub(Path("models/world"))
    Path("params.yaml").write_text(dump(*load(ROOT / "recipes/quickstart.yaml", [*RECIPE, *overrides])))
    models = ["--policy", "models/sft", "--scorer", "models/sft", "--irft", "models/method", "--rft", "models/sft"]
    monkeypatch.setattr(sys, "argv", ["sft_matched", *models, "--data", "data", "--out", "models/sft-matched"])
    with pytest.raises(SystemExit) as left:
        sft_matched.main(sft_matched.run, sft_matched.arguments, sft_matched.__doc__)
    assert left.value.code == 0
    return json.loads(Path("models/sft-matched/training.json").read_text())


@pytest.mark.parametrize("rates", ["[1e-6, 1e-2]", "[1e-2, 1e-6]"])
def test_without_scorer_and_rejected_responses_the_control_s_rate_is_still_chosen(folder, monkeypatch, rates):
    record = control(monkeypatch, f"sft_matched.learning_rates={rates}", "sft.batch_size=4")
    gaps = record["facts"]["validation_of_learning_rates"]
    assert abs(gaps["0.01"]) < abs(gaps["1e-06"])
    assert record["facts"]["learning_rate"] == 1e-2
