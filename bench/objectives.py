"""Where do the rounds of each objective of IRFT lead? Measured exactly, in a world whose responses can be listed.

    python -m bench.objectives      # a minute; writes bench/out/; with --keep the tracked
                                    # bench/results/objectives.json and docs/objectives.png

The policy is a table of logits, one for each response, so that no network limits what it can be. A round starts at
pi_t, which is its reference and whose samples are weighted by their probability, and takes K steps of Adam on the exact
expectation of the objective, with linear decay. Short rounds stay near the policy that was sampled; long ones are all
but solved. Plotted is KL(pi_E || pi_t): zero where the policy is the demonstrations' distribution.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bench import results_file
from juicer.methods.objectives import OBJECTIVES, implicit_reward
from juicer.settings.irft import Objective
from tests.enumerable import World

ROOT = Path(__file__).parents[1]
WORLD = World()
DEMONSTRATIONS = WORLD.draw_distribution(1, spread=0.5)
"""pi_E(y|x), (prompts, responses)."""
START = WORLD.log_policy(WORLD.make_policy(0)).detach()
"""log pi_0(y|x)."""
BETAS = (0.1, 0.3, 1.0, 3.0)
UNIT = 1e-12
"""Below this a divergence is rounding."""


@dataclass(frozen=True)
class Rounds:
    """How long the rounds are.

    Attributes:
        steps: K.
        rate: Adam's first step size, in nats of a logit.
        count: T.
    """

    steps: int
    rate: float
    count: int


SHORT, LONG = Rounds(4, 0.02, 300), Rounds(200, 0.1, 10)
LENGTHS = {"short": SHORT, "long": LONG}


def divergence(log_policy: Tensor) -> float:
    """KL(pi_E || pi), in nats, the mean over prompts."""
    return max(float((DEMONSTRATIONS * (DEMONSTRATIONS.log() - log_policy)).sum(1).mean()), 0.0)


def run(objective: Objective, rounds: Rounds, beta: float) -> list[float]:
    """KL(pi_E || pi_t) before each round and after the last; shorter where the loss or policy is no longer finite."""
    logits = START.clone().requires_grad_()
    found = [divergence(START)]
    for _ in range(rounds.count):
        start = logits.log_softmax(1).detach()
        probabilities = DEMONSTRATIONS[:, :, None] * start.exp()[:, None, :] / len(WORLD.prompts)
        optimiser = torch.optim.Adam([logits], lr=rounds.rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / rounds.steps)
        for _ in range(rounds.steps):
            reward = implicit_reward(logits.log_softmax(1), start, beta)
            loss = (probabilities * OBJECTIVES[objective](reward[:, :, None], reward[:, None, :])).sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        value = divergence(logits.log_softmax(1).detach())
        if not (torch.isfinite(loss) and value < float("inf")):
            break
        found.append(value)
    return found


def plot(runs: Mapping[str, Mapping[Objective, Mapping[float, Sequence[float]]]], file: Path) -> None:
    """A row per length of the rounds, a panel per objective, a line per beta."""
    from matplotlib import pyplot

    names = list(next(iter(runs.values())))
    figure, grid = pyplot.subplots(
        len(runs), len(names), figsize=(2.0 * len(names) + 0.6, 2.6 * len(runs)), sharex="row", sharey=True,
        layout="constrained",
    )  # fmt: skip
    for row, (length, by_objective) in zip(grid, runs.items(), strict=True):
        for panel, (name, lines) in zip(row, by_objective.items(), strict=True):
            for beta, values in lines.items():
                panel.semilogy([max(value, UNIT) for value in values], label=f"beta {beta:g}", linewidth=1.3)
            panel.axhline(divergence(START), color="#9aa0a6", linewidth=0.8, linestyle=":")
            panel.set(title=name, xlabel="round", ylim=(UNIT, 100))
            panel.grid(alpha=0.3)
        row[0].set_ylabel(f"{length} rounds, K = {LENGTHS[length].steps}\nKL to demonstrations, nats")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(BETAS), frameon=False)
    figure.savefig(file, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    results_file.add_arguments(parser, "objectives.json")
    parser.add_argument("--plot", type=Path, help="by default beside the results")
    given = parser.parse_args()
    torch.set_num_threads(1)

    runs = {
        length: {name: {beta: run(name, rounds, beta) for beta in BETAS} for name in OBJECTIVES}
        for length, rounds in LENGTHS.items()
    }
    figures: dict[str, dict[str, dict[str, dict[str, float | bool]]]] = {}
    for length, by_objective in runs.items():
        for name, lines in by_objective.items():
            for beta, values in lines.items():
                finite = len(values) == LENGTHS[length].count + 1
                kept = {"smallest": float(f"{min(values):.3g}"), "last": float(f"{values[-1]:.3g}")}
                figures.setdefault(length, {}).setdefault(name, {})[f"{beta:g}"] = {**kept, "finite": finite}
                end = "" if finite else f", not finite after round {len(values) - 1}"
                reached = f"KL {kept['last']:g} (smallest {kept['smallest']:g})"
                print(f"{length} rounds, {name}, beta {beta:g}: {reached}{end}", flush=True)
    whole = {"start": float(f"{divergence(START):.6g}"), "runs": figures}
    results_file.write(given.out, json.dumps(whole) + "\n")
    tracked = given.out == results_file.TRACKED / "objectives.json"
    plot(runs, given.plot or (ROOT / "docs/objectives.png" if tracked else given.out.with_suffix(".png")))


if __name__ == "__main__":
    main()
