"""Trackers beside MLflow: off by default, refused where they cannot be used, and no part of any result's key."""

import argparse
import os
from pathlib import Path
from typing import Any

import pytest
from transformers.integrations import integration_utils

from juicer.recipe.activation import dump, load
from juicer.runtime.errors import InputError
from juicer.stages.checkpoint import key_of
from juicer.stages.stage import Stage
from juicer.training import trackers
from juicer.training.trackers import FOLDER, Curves, check_trackers, prepared

QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"


class Tracker:
    """Stands in for a callback of transformers."""

    runs: list["Tracker"]

    def __init__(self) -> None:
        Tracker.runs.append(self)
        self.folder = os.environ.get("TENSORBOARD_LOGGING_DIR", "")
        self.points, self.ended, self.name = list[tuple[int, dict[str, float]]](), False, ""

    def on_train_begin(self, arguments: Any, state: Any, control: Any, **given: Any) -> None:
        assert arguments.to_json_string().startswith("{") and state.is_world_process_zero
        self.name = arguments.run_name

    def on_log(self, arguments: Any, state: Any, control: Any, logs: dict[str, float], **given: Any) -> None:
        self.points.append((state.global_step, logs))

    def on_train_end(self, arguments: Any, state: Any, control: Any, **given: Any) -> None:
        self.ended = True


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    Tracker.runs = []
    monkeypatch.setattr(trackers, "is_installed", lambda name: True)
    monkeypatch.setattr(
        integration_utils, "get_reporting_integration_callbacks", lambda names: [Tracker for _ in names]
    )


def stage_with(folder: Path, *overrides: str) -> Stage:
    (folder / "params.yaml").write_text(dump(*load(QUICKSTART, overrides)))
    stage = Stage("irft_train@r1", argparse.Namespace(params=folder / "params.yaml"))
    stage.value("irft.training")
    return stage


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    return tmp_path


def test_a_package_that_is_missing_is_named_before_work_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "is_installed", lambda name: False)
    with pytest.raises(InputError, match=r"tensorboard, which is not installed \(pip install tensorboard"):
        check_trackers(["tensorboard"])
    check_trackers([])


@pytest.mark.parametrize("environment", [{}, {"WANDB_API_KEY": ""}, {"WANDB_MODE": "online"}])
def test_weights_and_biases_needs_a_key_from_the_environment(installed: None, environment: dict[str, str]) -> None:
    with pytest.raises(InputError, match="WANDB_API_KEY"):
        check_trackers(["wandb"], environment)


@pytest.mark.parametrize("environment", [{"WANDB_API_KEY": "secret"}, {"WANDB_MODE": "offline"}])
def test_with_a_key_or_offline_it_is_accepted(installed: None, environment: dict[str, str]) -> None:
    check_trackers(["wandb", "tensorboard"], environment)


def test_a_recipe_that_asks_for_a_tracker_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "is_installed", lambda name: False)
    with pytest.raises(InputError, match="names tensorboard, which is not installed"):
        load(QUICKSTART, ["tracking.report_to=[tensorboard]"])


def test_what_is_installed_is_found() -> None:
    assert trackers.is_installed("pytest") and not trackers.is_installed("no_such_tracker")


def test_an_unknown_tracker_is_refused() -> None:
    with pytest.raises(InputError, match="tracking"):
        load(QUICKSTART, ["tracking.report_to=[comet]"])


def test_without_trackers_training_has_none(folder: Path) -> None:
    with stage_with(folder).training(None, steps=2, resumable=False) as context:
        assert context.tracking.report_to == () and context.tracking.run_name is None
        assert len(context.observers) == 2
    assert not FOLDER.exists()


def test_the_curves_of_a_loop_reach_the_tracker_in_a_folder_outside_the_outputs(folder: Path, installed: None) -> None:
    stage = stage_with(folder, "tracking.report_to=[tensorboard]")
    with stage.training(None, "policy", steps=2, resumable=False) as context:
        context.emit_metrics(1, loss=0.5)
        context.emit_metrics(2, loss=0.25, accuracy=1.0)
        (run,) = Tracker.runs
        assert not run.ended
    assert run.points == [(1, {"loss": 0.5}), (2, {"loss": 0.25, "accuracy": 1.0})]
    assert run.ended and run.name == "irft_train@r1 policy"
    assert Path(run.folder).relative_to(folder).parts[:4] == (".juicer", "tensorboard", "quickstart", "irft_train@r1")
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ


def test_a_trainer_gets_the_names_and_logs_by_itself(folder: Path, installed: None) -> None:
    stage = stage_with(folder, "tracking.report_to=[tensorboard]")
    with stage.training(None, resumable=False) as context:
        assert context.tracking.report_to == ("tensorboard",)
        assert context.tracking.run_name == "irft_train@r1"
        assert os.environ["TENSORBOARD_LOGGING_DIR"].startswith(str(folder / FOLDER))
    assert Tracker.runs == []


def test_a_tracker_changes_no_key_and_one_folder_is_one_piece_of_work(folder: Path, installed: None) -> None:
    plain = stage_with(folder)
    key = key_of(plain.arguments, plain._read)
    folders = set()
    for overrides in (["tracking.report_to=[tensorboard]"], ["tracking.report_to=[tensorboard, wandb]"]):
        os.environ["WANDB_MODE"] = "offline"
        try:
            stage = stage_with(folder, *overrides)
            with stage.training(None, resumable=False):
                folders.add(os.environ["TENSORBOARD_LOGGING_DIR"])
        finally:
            del os.environ["WANDB_MODE"]
        assert key_of(stage.arguments, stage._read) == key
        assert "tracking" not in stage._read
    assert len(folders) == 1


def test_the_environment_is_as_before_and_models_never_go_to_a_tracker(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_LOG_MODEL", "end")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.delenv("WANDB_DIR", raising=False)
    with prepared(["wandb"], "quickstart", folder / "events"):
        assert os.environ["WANDB_LOG_MODEL"] == "false"
        assert os.environ["WANDB_PROJECT"] == "mine"
        assert Path(os.environ["WANDB_DIR"]) == folder / ".juicer/wandb"
    assert os.environ["WANDB_LOG_MODEL"] == "end" and "WANDB_DIR" not in os.environ


def test_tensorboard_itself_has_the_curves(folder: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with prepared(["tensorboard"], "quickstart", folder / "events"):
        curves = Curves(["tensorboard"], "sft", {"steps": 2})
        curves.on_metrics(1, {"loss": 0.5})
        curves.on_metrics(2, {"loss": 0.25})
        curves.close()
    events = EventAccumulator(str(folder / "events")).Reload()
    assert [(each.step, each.value) for each in events.Scalars("train/loss")] == [(1, 0.5), (2, 0.25)]
