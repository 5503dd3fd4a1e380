"""The differences between two methods of a comparison, over its seeds: what a setting changes, or a further round.

    juicer compare-methods quickstart
    python -m bench.methods .juicer/methods/quickstart/results.json --against irft --methods irft-two
    python -m bench.methods bench/results/methods-imperfect.json --against rft-t1      # all other methods

The tables of a comparison are against SFT of at least the same effort. Here the differences are those between two
methods, per seed, on the same prompts. Their 95% intervals are over the seeds and not corrected for their number.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from juicer.claim.intervals import Estimate, over_units
from juicer.claim.measures import BY_KEY
from juicer.claim.methods.page import rows_of
from juicer.claim.methods.results import MethodComparison
from juicer.claim.page import table
from juicer.claim.results import Compared
from juicer.reporting.formatting import shown

METRICS = ("oracle", "accuracy", "kl")
"""Besides the primary ones."""


def difference(found: MethodComparison, model: Compared, other: Compared, metric: str) -> Estimate | None:
    """A model's value less the other's over the seeds that both have; None without at least two of them."""
    values = []
    for each in (model, other):
        figure = each.figure(metric)
        if figure is None:
            return None
        values.append(dict(zip(found.seeds_of(each), figure.by_seed, strict=True)))
    mine, theirs = values
    seeds = [seed for seed in mine if seed in theirs]
    return over_units([mine[seed] - theirs[seed] for seed in seeds], "seeds") if len(seeds) > 1 else None


def rows(found: MethodComparison, variant: str, against: str, methods: Sequence[str]) -> Iterator[list[str]]:
    """A row for every model of the methods: its differences to the other method's model of the same kind.

    The round that was chosen is compared with the chosen one, and the last with the last.
    """
    models = rows_of(found, variant)
    others = [each for each in models if each.method == against]
    for model in models:
        if model.method == against or model.method not in methods or not others:
            continue
        other = next((each for each in others if each.chosen == model.chosen), others[0])
        cells = [_cell(difference(found, model, other, key), key) for key in (*found.primary, *METRICS)]
        yield [model.name, other.name, *cells]


def _cell(estimate: Estimate | None, metric: str) -> str:
    if estimate is None:
        return "–"
    digits = BY_KEY[metric].digits
    return f"{shown(estimate.mean, digits, signed=True)} ± {shown(estimate.half_width, digits)}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.methods", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, help="results.json of a comparison")
    parser.add_argument("--against", required=True, metavar="METHOD", help="the method to compare with")
    parser.add_argument("--methods", nargs="+", default=[], metavar="METHOD", help="default: all others")
    given = parser.parse_args()
    found = MethodComparison.read(given.results)
    known = list(dict.fromkeys(model.method for variant in found.seeds for model in rows_of(found, variant)))
    if unknown := [name for name in (given.against, *given.methods) if name not in known]:
        parser.error(f"{given.results} has no method {unknown[0]}; it has {', '.join(known)}")
    for variant in found.seeds:
        head = ["model", "less", *(BY_KEY[key].title for key in (*found.primary, *METRICS))]
        print(f"{variant}:\n\n{table(head, list(rows(found, variant, given.against, given.methods or known)))}\n")


if __name__ == "__main__":
    main()
