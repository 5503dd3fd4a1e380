"""TensorBoard and Weights & Biases, through the callbacks that transformers' trainers have for them (`report_to`).

A trainer of transformers or TRL gets the names by `WorkContext.tracking`, and logs all that it knows. Our own loops
have no trainer: `Curves` drives the same callbacks with their curves.
"""

import importlib.util
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from juicer.runtime.errors import InputError

FOLDER = Path(".juicer/tensorboard")
WANDB = Path(".juicer/wandb")
WITHOUT_KEY = {"offline", "disabled", "dryrun"}
"""Values of WANDB_MODE with which nothing is sent."""


def is_installed(package: str) -> bool:
    """Whether a package can be imported."""
    return importlib.util.find_spec(package) is not None


def check_trackers(report_to: Sequence[str], environment: Mapping[str, str] = os.environ) -> None:
    """Check that every tracker can be used.

    Raises:
        InputError: its package is not installed, or the key is missing.
    """
    for name in report_to:
        if not is_installed(name):
            do = f"pip install {name}, or leave it out"
            raise InputError(f"tracking.report_to names {name}, which is not installed", where="tracking", do=do)
    sends = "wandb" in report_to and environment.get("WANDB_MODE") not in WITHOUT_KEY
    if sends and not environment.get("WANDB_API_KEY"):
        do = "set WANDB_API_KEY in the environment, or WANDB_MODE=offline"
        raise InputError("tracking.report_to names wandb, and there is no key", where="tracking", do=do)


@contextmanager
def prepared(report_to: Sequence[str], recipe: str, folder: Path) -> Iterator[None]:
    """Set up the trackers for one training in the block, and end them after it.

    Args:
        recipe: name of the recipe, which is the project of Weights & Biases unless WANDB_PROJECT is set.
        folder: where TensorBoard's events go.
    """
    if not report_to:
        yield
        return
    if "wandb" in report_to:
        WANDB.mkdir(parents=True, exist_ok=True)
    chosen = {
        "TENSORBOARD_LOGGING_DIR": str(folder.absolute()),
        # Models are recorded in MLflow, and hooks on the weights are no business of a tracker.
        "WANDB_LOG_MODEL": "false",
        "WANDB_WATCH": "false",
    }
    defaults = {"WANDB_PROJECT": recipe, "WANDB_DIR": str(WANDB.absolute()), "WANDB_SILENT": "true"}
    before = {name: os.environ.get(name) for name in (*chosen, *defaults)}
    os.environ.update({**chosen, **{name: value for name, value in defaults.items() if before[name] is None}})
    try:
        yield
    finally:
        if (wandb := sys.modules.get("wandb")) is not None and wandb.run is not None:
            wandb.finish()  # the next training of the stage is a run of its own
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@dataclass
class Arguments:
    """What the callbacks read of a trainer's arguments."""

    run_name: str
    facts: dict[str, Any]
    output_dir: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The configuration of the run."""
        return dict(self.facts)

    def to_json_string(self) -> str:
        """The same as text."""
        return json.dumps(self.facts, indent=2)


class Curves:
    """Logs the curves of a training loop as a trainer would. An `Observer` (juicer/runtime/context.py)."""

    def __init__(self, report_to: Sequence[str], run_name: str, facts: dict[str, Any]) -> None:
        """Start a run with each tracker.

        Args:
            facts: what is to be known of the run.
        """
        from transformers import TrainerControl, TrainerState
        from transformers.integrations import integration_utils

        self._callbacks = [make() for make in integration_utils.get_reporting_integration_callbacks(list(report_to))]
        self._state, self._control = TrainerState(), TrainerControl()
        self._arguments = Arguments(run_name, facts)
        for callback in self._callbacks:
            callback.on_train_begin(self._arguments, self._state, self._control, model=None)

    def on_metrics(self, step: int, values: dict[str, float]) -> None:
        """Receive one point of each named curve."""
        self._state.global_step = step
        for callback in self._callbacks:
            callback.on_log(self._arguments, self._state, self._control, logs=dict(values), model=None)

    def on_tokens(self, count: float) -> None:
        """Trackers count no tokens."""

    def close(self) -> None:
        """End the runs."""
        for callback in self._callbacks:
            callback.on_train_end(self._arguments, self._state, self._control, model=None)
