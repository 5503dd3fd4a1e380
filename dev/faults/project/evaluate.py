"""Stands in for an evaluation: its figures are those of the model's bytes."""

import argparse
from pathlib import Path

from juicer.runtime.files import write_json
from juicer.stages.stage import Stage, main
from tasks import chain  # type: ignore[attr-defined]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", required=True)
    parser.add_argument("--policy", type=Path, required=True)
    parser.add_argument("--scorer", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)


def run(stage: Stage) -> str:
    given, seed = stage.arguments, stage.value("seed")
    score = chain.score((given.policy / "weights.txt").read_bytes(), (given.data / "held_out.txt").read_bytes(), seed)
    unknown = (
        "reward_sem preference_accuracy preference_accuracy_per_token preference_gap preference_gap_sem "
        "implicit_preference_accuracy oracle_mean oracle_sem"
    )
    plain = {"demonstration_gap": 0.0, "response_tokens": 1.0, "ended": 1.0, "kl_to_sft": 0.0, "distinct_2": 1.0}
    metrics = {"prompts": 1, "pairs": 0, "reward_mean": score, **plain, **dict.fromkeys(unknown.split())}
    row = {"name": given.name, "method": "irft", "round": 1, "path": str(given.policy)}
    with stage.publish(given.out) as path:
        write_json(path, {**row, "held_out": metrics, "held_out_scores": [score]})
    return f"{score:.3f}"


if __name__ == "__main__":
    main(run, arguments, __doc__)
