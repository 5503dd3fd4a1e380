"""What the label-free signals of RFT's reward are held against: rounds that are worse than the one before."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import signals
from juicer.claim.copies import MARK, PARAMS
from tests.example_evaluations import evaluation, training_of


def write(folder: Path, number: int, quality: float, facts: dict[str, float]) -> None:
    """The evaluation of a round whose reward has these facts."""
    reward = training_of("rft_reward", 5, 5, number, ("loss",)) | {"facts": facts}
    training = training_of("rft_policy", 5, 10, number, ("loss",)) | {"reward": reward}
    made: dict[str, Any] = evaluation(f"rft-r{number}", "rft", number, quality=quality, training=training)
    # The scores on validation prompts decide here.
    made["validation_scores"] = [quality + 0.01 * (place % 3) for place in range(30)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"rft-r{number}.json").write_text(json.dumps(made))


def finish(run: Path, rounds: int) -> None:
    """Mark a run as finished with so many rounds."""
    (run / MARK).parent.mkdir(parents=True)
    (run / MARK).touch()
    models = "".join(f"    rft-r{number}: {{}}\n" for number in range(1, rounds + 1))
    (run / PARAMS).write_text(f"graph:\n  models:\n{models}")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Two seeds of a method: the second round of the first one falls back, and its reward has turned round."""
    for seed, (second, agreement) in enumerate(((0.2, -0.6), (0.9, 0.7))):
        folder = tmp_path / f"imperfect/rft-t3/seed-{seed}/evaluation/models"
        finish(folder.parents[1], 2)
        write(folder, 1, 0.5, {"demonstrations_preferred": 0.5})
        write(folder, 2, second, {"demonstrations_preferred": 0.8, "demonstrations_preferred_before": 0.2,
                                  "agreement": agreement})  # fmt: skip
    return tmp_path


def test_every_round_but_the_first_is_compared_with_the_one_before(work: Path) -> None:
    rows = list(signals.rows_of(work))
    assert [(row["seed"], row["round"], row["worse"]) for row in rows] == [(0, 2, True), (1, 2, False)]
    assert [row["score"] for row in rows] == pytest.approx([-0.3, 0.4])
    assert [row["agreement"] for row in rows] == [-0.6, 0.7]


def test_rounds_of_a_longer_run_before_and_of_runs_that_have_not_finished_do_not_count(work: Path) -> None:
    folder = work / "imperfect/rft-t3/seed-1"
    write(folder / "evaluation/models", 3, 0.1, {})
    assert [row["round"] for row in signals.rows_of(work)] == [2, 2]
    (folder / MARK).unlink()
    assert [row["seed"] for row in signals.rows_of(work)] == [0]


def test_a_signal_is_counted_where_it_was_given_and_where_the_round_is_worse(work: Path) -> None:
    rows = list(signals.rows_of(work))
    turned = signals.told(rows, "agreement", 0.0)
    assert (turned["rounds"], turned["worse"], turned["given"], turned["given_and_worse"]) == (2, 1, 1, 1)
    assert (turned["score_where_given"], turned["score_elsewhere"]) == (-0.3, 0.4)
    passed = signals.told(rows, "demonstrations_preferred_before", 0.5)
    assert (passed["given"], passed["given_and_worse"], passed["score_elsewhere"]) == (2, 1, None)
    assert signals.told(rows, "drift", 0.0)["rounds"] == 0


def test_the_results_are_written_with_their_rounds(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = work / "signals.json"
    monkeypatch.setattr(sys, "argv", ["signals", str(work), "--out", str(out)])
    signals.main()
    found = json.loads(out.read_text())
    assert list(found["summary"]) == ["imperfect, rft-t3"] and len(found["rounds"]) == 2
