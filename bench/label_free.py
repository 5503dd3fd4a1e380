"""How good are choices that need no label? From finished comparisons in worlds whose exact judgement is known.

    juicer compare-methods quickstart
    python -m bench.label_free .juicer/methods/quickstart

In every finished run each criterion chooses among SFT, its continuation and the rounds, on validation prompts. The
regret is how far the choice lies below the best of these models by the world's oracle, on held-out prompts.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from juicer.claim.copies import MARK, PARAMS
from juicer.evaluation.choice import best_on_validation
from juicer.evaluation.results import EvaluatedModel
from juicer.runtime.files import read_yaml, value_at
from juicer.settings.choice import CRITERIA, UNJUDGED

ASKED = tuple(dict.fromkeys([*CRITERIA, *UNJUDGED]))
ANY = "any of them, by chance"


def runs_of(work: Path) -> Iterator[tuple[str, list[EvaluatedModel]]]:
    """The world and the models of every finished run, without base, in the order of the recipe."""
    for mark in sorted(work.glob(f"*/*/seed-*/{MARK}")):
        folder = work.joinpath(*mark.relative_to(work).parts[:3])
        names = value_at(read_yaml(folder / PARAMS), "graph.models")
        found = [EvaluatedModel.read(folder / f"evaluation/models/{name}.json") for name in names]
        yield folder.relative_to(work).parts[0], [model for model in found if model.method != "base"]


def regrets(models: Sequence[EvaluatedModel]) -> dict[str, float]:
    """By criterion, how far its choice lies below the best model; {} without an oracle or anything to choose from."""
    known = [model.held_out.oracle_mean for model in models]
    values = [value for value in known if value is not None]
    if len(values) < len(known) or len(values) < 2:
        return {}
    merits = [model.validation.merits for model in models if model.validation is not None]
    chosen = {each: best_on_validation(merits, [each]) for each in ASKED if len(merits) == len(models)}
    found: dict[str, float] = {
        each: max(values) - values[choice.place] for each, choice in chosen.items() if choice is not None
    }
    return {**found, ANY: max(values) - fmean(values)}


def as_table(found: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """A table of the mean regrets, a column per world."""
    lines = ["| chosen by | " + " | ".join(f"{world} ({len(runs)} runs)" for world, runs in found.items()) + " |"]
    lines.append("|---|" + "--:|" * len(found))
    for name in [*ASKED, ANY]:
        cells = [[run[name] for run in runs if name in run] for runs in found.values()]
        if any(cells):
            shown = (f"{fmean(cell):.3f}" if cell else "–" for cell in cells)
            lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder of a comparison of methods")
    found = dict[str, list[dict[str, float]]]()
    for world, models in runs_of(parser.parse_args().work):
        if run := regrets(models):
            found.setdefault(world, []).append(run)
    print(as_table(found) if found else "no finished run has an oracle")


if __name__ == "__main__":
    main()
