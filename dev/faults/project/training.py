"""Stands in for a training stage: many short steps, checkpoints, a live run, an output folder that is published."""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from juicer.runtime.files import write_json
from juicer.settings.irft import IrftTrainingSettings
from juicer.settings.sft import SftSettings
from juicer.stages.stage import Stage, main
from tasks import chain  # type: ignore[attr-defined]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--policy", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)


def run(stage: Stage) -> str:
    given, seed = stage.arguments, stage.value("seed")
    settings = (
        stage.read("sft", SftSettings) if stage.name == "sft" else stage.read("irft.training", IrftTrainingSettings)
    )
    rate = settings.optimiser.learning_rate
    text, policy = (given.data / "train.txt").read_text(), (given.policy / "weights.txt").read_text()
    state, done, losses = chain.begin(stage.name, seed, rate, text, policy), 0, list[float]()
    gate = Path(os.environ["JUICER_FAULTS_GATE"])
    pause = float(os.environ.get("JUICER_FAULTS_STEP", "0.04"))
    with stage.training(None, steps=chain.STEPS) as context:
        assert context.checkpoint is not None
        latest = context.checkpoint.latest()
        if latest is not None:
            done, state = int((latest / "step.txt").read_text()), (latest / "state.txt").read_text()
        for number in range(done, chain.STEPS):
            time.sleep(pause)
            while number and gate.exists():
                time.sleep(0.05)
            state = chain.step(state, number, rate)
            with Path(os.environ["JUICER_FAULTS_STEPS"]).open("a") as steps:
                steps.write(f"{stage.name} {number}\n")
            context.emit_metrics(number + 1, loss=1 / (number + 1))
            context.emit_tokens(10)
            context.progress(1)
            if context.checkpoint.due():
                context.checkpoint.save(_writer(number + 1, state))
        losses = [1 / (number + 1) for number in range(chain.STEPS)]
    with stage.publish(given.out) as folder:
        folder.mkdir()
        (folder / "weights.txt").write_text(chain.weights(state, rate))
        write_json(folder / "training.json", _record(stage.name, rate, losses))
    return f"{chain.STEPS} steps"


def _writer(step: int, state: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "step.txt").write_text(str(step))
        (folder / "state.txt").write_text(state)

    return write


def _record(stage: str, rate: float, losses: list[float]) -> dict[str, Any]:
    curves = {"loss": {"step": list(range(1, len(losses) + 1)), "value": losses}}
    counts = {"steps": len(losses), "response_tokens": 10 * len(losses)}
    # What was really used, beside what MLflow is told of the parameters.
    return {"stage": stage.partition("@")[0], **counts, "curves": curves, "facts": {"rate_used": rate}}


if __name__ == "__main__":
    main(run, arguments, __doc__)
