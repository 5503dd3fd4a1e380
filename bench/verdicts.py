"""How often two equal models are called different: the error of the report's findings and of promotion's gates.

    python bench/verdicts.py                  # some minutes on one core; writes bench/out/verdicts.json,
                                              # with --keep bench/results/
    python bench/verdicts.py --samples 2000   # a quick look

Scores are simulated: `samples` experiments per distribution and number of prompts, each judged by the code that judges
a run. Shares are not simulated: all possible pairs of counts are judged, and weighted by their probabilities.
"""

import argparse
import json
import math
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from scipy.stats import binom

from bench import results_file
from juicer.evaluation.significance import FEWEST, Difference, share_difference
from juicer.registry.gates import Judged, PromotionSettings, judge
from juicer.reporting.numbers import paired_difference, paired_interval

ROOT = Path(__file__).parents[1]
LIMIT = 0.06
SHOWN = (2, 9, 10, 12, 15, 20, 30, 50, 78, 150, 300)
"""The columns of the table in docs/verdicts.md."""
COUNTS = (2, 3, 5, 9, 10, 11, 12, 13, 14, 15, 17, 20, 25, 30, 35, 40, 50, 60, 78, 100, 125, 150, 200, 250, 300)
MEASURED = {"better_where_measured": ["reward_mean", "preference_accuracy"]}
GATE = PromotionSettings.parse({"better_than_base": [], "not_worse_than_champion": [], **MEASURED}, "gates")
Draw = Callable[[Generator, tuple[int, int]], np.ndarray]


def _same(draw: Draw) -> Draw:
    """The differences of two models whose scores have the same distribution."""
    return lambda rng, shape: draw(rng, shape) - draw(rng, shape)


DIFFERENCES: dict[str, Draw] = {
    # Two copies of one model: whatever its scores look like, their differences are symmetrical.
    "normal": lambda rng, shape: rng.normal(size=shape),
    "lognormal scores": _same(lambda rng, shape: rng.lognormal(size=shape)),
    "heavy tails (t with 3)": lambda rng, shape: rng.standard_t(3, size=shape),
    "seven in ten are ties": lambda rng, shape: rng.normal(size=shape) * (rng.random(shape) < 0.3),
    "whole scores from 1 to 5": _same(lambda rng, shape: rng.integers(1, 6, size=shape).astype(float)),
    "-1 or 1": lambda rng, shape: rng.choice([-1.0, 1.0], size=shape),
    "-1, 0 or 1, mostly 0": lambda rng, shape: rng.choice([-1.0, 0.0, 1.0], p=[0.1, 0.8, 0.1], size=shape),
    # Two models that are equal on average only: the one is seldom much better or much worse.
    "skewed (gamma 4, skewness 1)": lambda rng, shape: rng.gamma(4, size=shape) - 4,
    "skewed (lognormal, 1.75)": lambda rng, shape: rng.lognormal(0, 0.5, size=shape) - math.exp(0.125),
    "skewed (exponential, 2)": lambda rng, shape: rng.exponential(size=shape) - 1,
    "skewed (beta, 1.3)": lambda rng, shape: rng.beta(0.5, 2, size=shape) - 0.2,
    "skewed, half ties (2.8)": lambda rng, shape: (rng.exponential(size=shape) - 1) * (rng.random(shape) < 0.5),
    "normal less exponential": lambda rng, shape: rng.normal(size=shape) - rng.exponential(size=shape) + 1,
    "one in 20 fails (-2.1)": lambda rng, shape: rng.normal(size=shape) - 6 * (rng.random(shape) < 0.05) + 0.3,
    "-2, 0 or 1": lambda rng, shape: rng.choice([-2.0, 0.0, 1.0], p=[0.1, 0.7, 0.2], size=shape),
}
"""Distributions of the difference in score with a mean of 0, and the skewness of those that have some."""
BEYOND: dict[str, Draw] = {
    "lognormal (6.2)": lambda rng, shape: rng.lognormal(size=shape) - math.exp(0.5),
    "one in 50 fails badly (-5.7)": lambda rng, shape: rng.normal(size=shape) - 20 * (rng.random(shape) < 0.02) + 0.4,
}
"""Longer tails than the rule allows for. No rule can hold for all: a failure that was not seen cannot be counted."""
PAIRS: dict[str, tuple[Draw, Draw]] = {
    "normal": (DIFFERENCES["normal"], DIFFERENCES["normal"]),
    "normal, 3 times the spread": (DIFFERENCES["normal"], lambda rng, shape: 3 * rng.normal(size=shape)),
    "lognormal": (lambda rng, shape: rng.lognormal(size=shape), lambda rng, shape: rng.lognormal(size=shape)),
    "exponential and normal": (DIFFERENCES["skewed (exponential, 2)"], DIFFERENCES["normal"]),
    "whole scores from 1 to 5": 2 * (lambda rng, shape: rng.integers(1, 6, size=shape).astype(float),),
}
"""Distributions of the scores of two models with the same mean, for the gates."""
SHARES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)


def of_scores(differences: np.ndarray) -> bool:
    """Whether the report calls two models different, by their paired differences."""
    values = differences.tolist()
    zero = [0.0] * len(values)
    (mean, error), (low, high) = paired_difference(values, zero), paired_interval(values, zero)
    assert mean is not None and error is not None and low is not None and high is not None  # there are two at least
    return Difference(mean, error, low, high, len(values)).verdict in ("better", "worse")


def by_gate(figures: Mapping[str, float], others: Mapping[str, float]) -> bool:
    """Whether promotion's gate calls the one model or the other better."""
    one, other = Judged("one", "one", figures), Judged("other", "other", others)
    return any(
        verdict.result == "passed"
        for pair in ((one, other), (other, one))
        for verdict in judge(GATE, *pair, pair[1], None)
    )


def of_means(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether the gate calls two models different by their mean scores."""
    return by_gate(_figures(one), _figures(other))


def _figures(scores: np.ndarray) -> dict[str, float]:
    error = float(scores.std(ddof=1)) / math.sqrt(len(scores))
    return {"prompts": len(scores), "reward_mean": float(scores.mean()), "reward_sem": error}


def of_shares(count: int, called: Callable[[float, float], bool]) -> float:
    """The largest probability, over true shares, that two equal shares of `count` cases each are called different."""
    numbers = np.arange(count + 1)
    verdicts = np.array([[called(one / count, other / count) for other in numbers] for one in numbers])
    chances = [binom.pmf(numbers, count, share) for share in SHARES]
    return max(float(chance @ verdicts @ chance) for chance in chances)


def shares_by_report(count: int) -> Callable[[float, float], bool]:
    """How the report judges two preference accuracies of so many pairs."""
    return lambda one, other: share_difference(one, other, count).verdict in ("better", "worse")


def shares_by_gate(count: int) -> Callable[[float, float], bool]:
    """How the gate judges two preference accuracies of so many pairs."""
    common = {"prompts": count, "pairs": count}
    return lambda one, other: by_gate({**common, "preference_accuracy": one}, {**common, "preference_accuracy": other})


def simulated(
    name: str, draws: tuple[Draw, ...], called: Callable[..., bool], counts: list[int], samples: int
) -> list[float]:
    """The share of experiments in which two equal models are called different, per number of prompts."""
    shares = []
    for count in counts:
        rng = np.random.default_rng([zlib.crc32(name.encode()), count])
        rows = zip(*(draw(rng, (samples, count)) for draw in draws), strict=True)
        shares.append(sum(called(*row) for row in rows) / samples)
    return shares


def markdown(content: Mapping[str, Any]) -> str:
    """The table of docs/verdicts.md."""
    places = [content["counts"].index(count) for count in SHOWN if count in content["counts"]]
    lines = [
        f"| | true difference zero | {' | '.join(str(content['counts'][place]) for place in places)} |",
        f"|---|---|{'--:|' * len(places)}",
    ]
    for part in ("findings", "gates", "beyond"):
        for name, shares in content["called"][part].items():
            cells = [f"{shares[place]:.1%}" if place < len(shares) else "" for place in places]
            lines.append(f"| {part} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10000, help="experiments per distribution and number")
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS), help="numbers of prompts or pairs")
    results_file.add_arguments(parser, "verdicts.json")
    given = parser.parse_args()
    counts = given.counts

    table: dict[str, dict[str, list[float]]] = {}

    def add(part: str, name: str, shares: list[float]) -> None:
        table.setdefault(part, {})[name] = [round(share, 5) for share in shares]
        print(f"{part:16s} {name:30s} {' '.join(f'{share:5.1%}' for share in shares)}", flush=True)

    print(f"{'':47s} {' '.join(f'{count:5d}' for count in counts)}")
    for part, draws in (("findings", DIFFERENCES), ("beyond", BEYOND)):
        for name, draw in draws.items():
            add(part, name, simulated(name, (draw,), of_scores, counts, given.samples))
    for name, both in PAIRS.items():
        add("gates", name, simulated(name, both, of_means, counts, given.samples))
    few = [count for count in counts if count <= 100]
    add("findings", "preference accuracy", [of_shares(count, shares_by_report(count)) for count in counts])
    # The same rule as the report's, by slower code.
    add("gates", "preference accuracy", [of_shares(count, shares_by_gate(count)) for count in few])
    worst = max(max(shares) for part in ("findings", "gates") for shares in table[part].values())
    print(f"at most {worst:.1%} (asked: {LIMIT:.0%}); below {FEWEST} there is no verdict")
    content = {"counts": counts, "samples": given.samples, "fewest": FEWEST, "worst": round(worst, 5), "called": table}
    results_file.write(given.out, json.dumps(content) + "\n")
    print(f"\n{markdown(content)}")
    if worst > LIMIT:
        raise SystemExit(f"more than {LIMIT:.0%} of verdicts are wrong")


if __name__ == "__main__":
    main()
