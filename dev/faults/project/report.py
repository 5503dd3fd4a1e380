"""Stands in for the report: the summary that `register` reads."""

import argparse
from pathlib import Path

from juicer.evaluation.results import EvaluatedModel
from juicer.runtime.files import write_json
from juicer.stages.stage import Stage, main


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--row", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--page", type=Path, required=True)


def run(stage: Stage) -> str:
    model = EvaluatedModel.read(stage.arguments.row)
    sft = {"name": "sft", "method": "sft", "round": 0, "path": "models/sft"}
    row = {"name": model.name, "method": model.method, "round": model.round, "path": model.path}
    rows = [sft, row | {"reward_mean": model.held_out.reward_mean}]
    shared = {"recipe": stage.value("name"), "seed": stage.value("seed"), "control": "sft"}
    with stage.publish(stage.arguments.out) as path:
        write_json(path, {**shared, "models": rows, "champion": {"name": model.name}})
    with stage.publish(stage.arguments.page) as path:
        path.write_text(f"{model.name} {model.held_out.reward_mean}\n")
    return "written"


if __name__ == "__main__":
    main(run, arguments, __doc__)
