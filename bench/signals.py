"""Do the signals of RFT's reward, which need no labels, know when a round falls back? From finished comparisons.

    juicer compare-methods quickstart
    python -m bench.signals .juicer/methods/quickstart      # with --keep: bench/results/signals.json

Every round of RFT after a method's first one is compared with the round before, in the score on validation prompts and
in the oracle where there is one. Three signals are asked what they would have said: the reward disagrees with that of
the round before (agreement below 0), the reward of before no longer prefers the demonstrations (below 1/2), and the new
reward does not prefer them either.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from bench import results_file
from juicer.claim.copies import MARK, PARAMS
from juicer.evaluation.results import EvaluatedModel
from juicer.evaluation.rounds import FACTS, score_difference
from juicer.runtime.files import read_yaml, value_at

SIGNALS = {
    "agreement below 0": ("agreement", 0.0),
    "the reward before prefers samples": ("demonstrations_preferred_before", 0.5),
    "the new reward prefers samples": ("demonstrations_preferred", 0.5),
}
"""By name, the fact and what it has to be below."""
Row = dict[str, float | int | str | bool | None]


def rows_of(work: Path) -> Iterator[Row]:
    """A row for every round but the first of every finished run of RFT, also for one that was discarded."""
    for mark in sorted(work.glob(f"*/*/seed-*/{MARK}")):
        folder = work.joinpath(*mark.relative_to(work).parts[:3])
        variant, method, seed = folder.relative_to(work).parts
        # Not all files that are there: some may be of a longer run before.
        names = value_at(read_yaml(folder / PARAMS), "graph.models")
        found = [EvaluatedModel.read(folder / f"evaluation/models/{name}.json") for name in names]
        models = sorted((each for each in found if each.method == "rft"), key=lambda each: each.round)
        for before, model in pairwise(models):
            facts = model.training.reward.facts if model.training and model.training.reward else {}
            yield {
                "variant": variant,
                "method": method,
                "seed": int(seed.removeprefix("seed-")),
                "round": model.round,
                **{key: _number(facts.get(key)) for key in FACTS},
                **_changes(before, model),
            }


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _changes(before: EvaluatedModel, model: EvaluatedModel) -> Row:
    """How the round compares with the one before on validation prompts."""
    gap = score_difference(model.validation_scores, before.validation_scores)
    old, new = (each.validation.oracle_mean if each.validation else None for each in (before, model))
    return {
        "score": None if gap is None else round(gap.mean, 4),
        "worse": gap is not None and gap.verdict == "worse",
        "oracle": None if old is None or new is None else round(new - old, 4),
    }


def told(rows: Sequence[Row], fact: str, below: float) -> dict[str, float | int | None]:
    """How often a signal was given in rounds that are worse than the one before, and in the others."""
    known = [row for row in rows if row[fact] is not None]
    given = [row for row in known if float(row[fact] or 0.0) < below]
    worse = [row for row in known if row["worse"]]

    def change(those: Sequence[Row]) -> float | None:
        values = [float(row["score"]) for row in those if row["score"] is not None]
        return round(fmean(values), 4) if values else None

    return {
        "rounds": len(known),
        "worse": len(worse),
        "given": len(given),
        "given_and_worse": sum(bool(row["worse"]) for row in given),
        "score_where_given": change(given),
        "score_elsewhere": change([row for row in known if row not in given]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder of a comparison, .juicer/methods/RECIPE")
    results_file.add_arguments(parser, "signals.json")
    given = parser.parse_args()
    rows = list(rows_of(given.work))
    if not rows:
        parser.error(f"{given.work} has no finished run of RFT with several rounds")
    methods = sorted({(str(row["variant"]), str(row["method"])) for row in rows})
    summary = {
        f"{variant}, {method}": {
            name: told([row for row in rows if (row["variant"], row["method"]) == (variant, method)], *signal)
            for name, signal in SIGNALS.items()
        }
        for variant, method in methods
    }
    print(json.dumps(summary, indent=1))
    results_file.write(given.out, json.dumps({"summary": summary, "rounds": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
