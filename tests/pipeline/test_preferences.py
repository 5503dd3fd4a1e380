"""The stage preferences: a reward model from pairs, in a folder that every scorer slot takes."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from juicer import scorers
from juicer.data import demonstrations
from juicer.data.demonstrations import Demonstration
from juicer.evaluation.pairs_record import RECORD, PairsRecord
from juicer.recipe.activation import dump, load
from juicer.settings.compute import ComputeSettings
from juicer.settings.data import CurateSettings, ScorerSettings
from juicer.settings.preferences import FOLDERS
from juicer.sources.curation import side_of
from tasks import curate, preferences
from tests.small_pipeline import RECIPE, ROOT, save_tiny_model

SHARES = {"scorer": 0.4, "judge": 0.3}
CURATE = {"validation_share": 0.1, "held_out_share": 0.1}
OVERRIDES = [
    *RECIPE,
    *(f"curate.{key}={value}" for key, value in CURATE.items()),
    "curate.keep=null",
    *(
        f"{key}={value}"
        for role, share in SHARES.items()
        for key, value in {
            f"preferences.{role}.share": share,
            f"preferences.{role}.epochs": 4,
            f"preferences.{role}.batch_size": 8,
            f"preferences.{role}.least_pairs": 20,
            f"preferences.{role}.held_out_share": 0.35,
            f"preferences.{role}.optimiser": "{learning_rate: 3e-3}",
            f"{role}.kind": "sequence-classification",
            f"{role}.model": FOLDERS[role],
        }.items()
    ),
]


def pairs(count: int, *, swapped: bool = False) -> list[Demonstration]:
    """People prefer a greeting to a refusal; the other way round if swapped."""
    good, bad = ("No.", "Hello.") if swapped else ("Hello.", "No.")
    asked = [[{"role": "user", "content": f"how are you, number {i}"}] for i in range(count)]
    return [Demonstration.make(prompt, good, rejected=bad) for prompt in asked]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a base model and fetched pairs."""
    monkeypatch.chdir(tmp_path)
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, os.environ[name])
    save_tiny_model(tmp_path / "models/world")
    Path("data/raw").mkdir(parents=True)
    demonstrations.write(Path("data/raw/demonstrations.jsonl"), pairs(160))
    Path("rows.jsonl").write_text('{"prompt": "Is it raining?", "response": "No."}\n')
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, stage: Any, *words: str, overrides: tuple[str, ...] = ()) -> int:
    """Run a stage in this process; returns its exit code."""
    Path("params.yaml").write_text(dump(*load(ROOT / "recipes/quickstart.yaml", [*OVERRIDES, *overrides])))
    monkeypatch.setattr(sys, "argv", [stage.__name__.rpartition(".")[2], *words])
    with pytest.raises(SystemExit) as left:
        stage.main(stage.run, stage.arguments, stage.__doc__)
    return int(left.value.code or 0)


def train(monkeypatch: pytest.MonkeyPatch, role: str, *overrides: str, more: tuple[str, ...] = ()) -> int:
    words = ["--role", role, "--raw", "data/raw", "--trunk", "models/world", "--out", FOLDERS[role], *more]
    return run(monkeypatch, preferences, *words, overrides=overrides)


def curated(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> int:
    words = ["--policy", "models/world", "--scorer", FOLDERS["scorer"]]
    return run(monkeypatch, curate, *words, overrides=overrides)


def load_scorer(role: str) -> scorers.Scorer:
    settings = ScorerSettings(kind="sequence-classification", model=FOLDERS[role])
    found = scorers.load(settings, Path(FOLDERS[role]), ComputeSettings())
    assert found is not None
    return found


def test_scorer_and_judge_are_trained_on_prompts_that_are_on_no_other_side(folder, monkeypatch, capfd) -> None:
    assert train(monkeypatch, "scorer") == train(monkeypatch, "judge") == 0
    settings, rows = CurateSettings(**CURATE), pairs(160)
    sides = {row.prompt_hash()[:16]: side_of(row.split_hash(), settings, False, SHARES) for row in rows}
    records = {role: PairsRecord.read(Path(FOLDERS[role], RECORD)) for role in SHARES}
    for role, record in records.items():
        assert record.trained_pairs + record.held_out_pairs == list(sides.values()).count(role)
        assert {sides[prompt] for prompt in record.held_out_prompts} == {role}
        assert record.accuracy == 1.0
        assert record.low < 1.0
    assert "accuracy 1.000 (95% interval" in capfd.readouterr().out

    # A folder like any reward model's: the scorer that loads it agrees with the record.
    scorer = load_scorer("judge")
    chosen, rejected = ([(row.prompt, text) for row in rows[:10]] for text in ("Hello.", "No."))
    assert all(first > second for first, second in zip(scorer.score(chosen), scorer.score(rejected), strict=True))

    assert curated(monkeypatch) == 0
    kept = {
        row.prompt_hash()[:16]
        for split in ("train", "validation", "held_out")
        for row in demonstrations.read(Path("data/curated", f"{split}.jsonl"))
    }
    assert kept == {prompt for prompt, side in sides.items() if side not in SHARES}
    dropped = json.loads(Path("data/curated/curation.json").read_text())["dropped"]
    assert dropped == {f"pairs_of_{role}": list(sides.values()).count(role) for role in SHARES}


def test_what_the_scorer_learns_does_not_depend_on_the_recipes_seed(folder, monkeypatch) -> None:
    weights = []
    for seed in (0, 5):
        assert train(monkeypatch, "scorer", f"seed={seed}") == 0
        weights.append(Path(FOLDERS["scorer"], "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert train(monkeypatch, "scorer", "preferences.seed=1") == 0
    assert Path(FOLDERS["scorer"], "model.safetensors").read_bytes() != weights[0]


def test_a_scorer_worse_than_chance_does_not_curate_unless_told(folder, monkeypatch, capfd) -> None:
    assert train(monkeypatch, "scorer") == 0
    record = PairsRecord.read(Path(FOLDERS["scorer"], RECORD))
    worse = record.model_copy(update={"accuracy": 0.4, "low": 0.2, "high": 0.6})
    Path(FOLDERS["scorer"], RECORD).write_text(json.dumps(worse.as_json()))
    assert curated(monkeypatch) == 1
    said = capfd.readouterr().err
    assert "the scorer is no better than chance on held-out pairs: accuracy 0.400" in said
    assert not Path("data/curated").exists()
    assert curated(monkeypatch, "scorer.accept_chance=true") == 0


def test_too_few_pairs_stop_the_stage_before_it_trains(folder, monkeypatch, capfd) -> None:
    assert train(monkeypatch, "judge", "preferences.judge.least_pairs=100") == 1
    assert "preferences.judge has" in capfd.readouterr().err
    assert not Path(FOLDERS["judge"]).exists()


def test_pairs_of_their_own_file_lose_prompts_that_the_demonstrations_have(folder, monkeypatch, capfd) -> None:
    own = [*pairs(100), *(row.model_copy(update={"prompt": [{"role": "user", "content": f"what is {i}"}]})
                          for i, row in enumerate(pairs(140)))]  # fmt: skip
    lines = [
        json.dumps({"prompt": row.prompt[0]["content"], "chosen": row.response, "rejected": row.rejected})
        for row in own
    ]
    Path("pairs.jsonl").write_text("\n".join(lines) + "\n")
    given = ("preferences.source=pairs.jsonl", "preferences.judge.share=0.5", "preferences.scorer.share=0.5")
    for role in SHARES:
        assert train(monkeypatch, role, *given, more=("--pairs", "pairs.jsonl")) == 0
    records = [PairsRecord.read(Path(FOLDERS[role], RECORD)) for role in SHARES]
    assert sum(record.trained_pairs + record.held_out_pairs for record in records) == 140
    assert not set(records[0].held_out_prompts) & set(records[1].held_out_prompts)
    assert "100 pairs have a prompt that the demonstrations have" in capfd.readouterr().err
