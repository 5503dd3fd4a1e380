"""Compare a round with the one before on validation prompts, for `rounds: auto`: whether another one is to be tried.

The comparisons so far come before it in the file, because a DVC stage cannot take a list of dependencies from a
parameter.
"""

import argparse
from pathlib import Path
from typing import get_args

from juicer.evaluation.results import EvaluatedModel
from juicer.evaluation.rounds import RoundComparisons, compare_round
from juicer.runtime.files import write_json
from juicer.settings.auto import RoundCriterion
from juicer.stages.stage import Stage, main, optional_path


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, help="evaluation of the round")
    parser.add_argument("--before", type=Path, required=True, help="evaluation of the round before, or of SFT")
    parser.add_argument("--earlier", type=optional_path, required=True, help="comparisons so far")
    parser.add_argument("--criterion", choices=get_args(RoundCriterion), required=True, help="what has to improve")
    parser.add_argument("--most", type=int, required=True, help="largest number of rounds")
    parser.add_argument("--out", type=Path, required=True, help="comparisons to write (.json)")


def run(stage: Stage) -> str:
    given = stage.arguments
    model, before = EvaluatedModel.read(given.model), EvaluatedModel.read(given.before)
    found = compare_round(model, before, given.criterion, given.most)
    earlier = RoundComparisons.read(given.earlier).rounds if given.earlier else []
    with stage.publish(given.out) as path:
        write_json(path, RoundComparisons(rounds=[*earlier, found]).as_json())
    stage.record(prompts=found.count)
    does = "improves" if found.improved else "does not improve beyond noise"
    return f"{model.name} {does} on {before.name}: {found.criterion} {found.difference:+.3g}"


if __name__ == "__main__":
    main(run, arguments, __doc__)
