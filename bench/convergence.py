"""Do T rounds of K steps reach a stationary point of (1)? Measured exactly, in a world whose responses can be listed.

    python -m bench.convergence     # some minutes; writes bench/out/; with --keep the tracked
                                    # bench/results/convergence.json and docs/convergence.png

With exact sampling (Algorithms 1 and 2, h = identity) every pair is weighted by its probability, the steps are plain
gradient steps of the code's losses, and RFT's policy is the closed form of the inner problem. Beside it IRFT as it
runs: sampled pairs, h = log sigmoid, RMSProp restarted each round. The gradient of (1) is summed over all responses.
"""

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bench import results_file
from juicer.data.dialogues import Dialogue
from juicer.methods.irft import irft_round
from juicer.methods.objectives import identity, implicit_reward
from juicer.methods.pairs import Pair
from juicer.methods.reward import rewards
from juicer.models.log_probability import compute_in_chunks, response_log_probabilities
from juicer.runtime.seeding import derive
from juicer.sampling.decoding import sample_responses
from juicer.settings.irft import IrftTrainingSettings
from juicer.settings.training import OptimiserSettings, SamplingSettings
from tests.enumerable import END_OF_TEXT, World, flat_gradient, likelihood, optimal_policy

ROOT = Path(__file__).parents[1]
WORLD = World()
DEMONSTRATIONS = WORLD.draw_distribution(1, spread=0.5)
"""pi_E(y|x), (prompts, responses)."""
DIALOGUES = [Dialogue([*prompt], response) for prompt in WORLD.prompts for response in WORLD.responses]
Method = Literal["irft", "rft"]
CPU = torch.device("cpu")
BETA = 1.0
RATES: dict[Method, float] = {"irft": 0.003, "rft": 0.001}
"""eta; larger ones soon exceed 2 / (largest curvature), and the norm jumps."""
LINES = {"K = 1": (1, 1), "K = 4": (4, 1), "K = 16, eta / 4": (16, 4), "K = 16": (16, 1)}
"""K, and what eta is divided by: over a round theta moves by K * eta, away from the policy that was sampled."""


@dataclass(frozen=True)
class Point:
    """Where theta is after some rounds."""

    steps: int
    """Gradient steps so far, T * K."""
    gradient_norm: float
    """|grad l(theta)|, exact."""
    likelihood: float
    """l(theta), exact, in nats."""


def measure(steps: int, log_policy: Tensor, model: PreTrainedModel) -> Point:
    """The gradient norm of (1), by summing over all responses."""
    value = likelihood(log_policy, DEMONSTRATIONS)
    return Point(steps, float(flat_gradient(value, model).norm()), float(value.detach()))


def run_exactly(method: Method, rounds: int, steps: int, rate: float) -> list[Point]:
    """T rounds of K plain gradient steps, every pair (y, y') weighted by pi_E(y|x) pi_t(y'|x).

    Args:
        rate: eta of theta <- theta + eta grad l.

    Returns:
        rounds + 1 points: before each round and after the last.
    """
    log_reference = WORLD.log_policy(WORLD.make_policy(0)).detach()
    model = WORLD.make_policy(0) if method == "irft" else WORLD.make_reward(3)
    compute = partial(response_log_probabilities if method == "irft" else rewards, model)

    def log_policy() -> Tensor:
        if method == "irft":
            return WORLD.log_policy(model)
        return optimal_policy(log_reference, WORLD.reward(model), BETA)

    def values() -> Tensor:
        return compute_in_chunks(compute, DIALOGUES, END_OF_TEXT, CPU, len(DIALOGUES)).view_as(DEMONSTRATIONS)

    def loss_of(start: Tensor) -> Tensor:
        reward = implicit_reward(values(), start, BETA) if method == "irft" else values()
        return identity(reward[:, :, None], reward[:, None, :])

    optimiser = torch.optim.SGD(model.parameters(), lr=rate / BETA)
    points = []
    for finished in range(rounds):
        points.append(measure(finished * steps, log_policy(), model))
        start, samples = values().detach(), log_policy().detach().exp()
        probabilities = DEMONSTRATIONS[:, :, None] * samples[:, None, :] / len(WORLD.prompts)
        for _ in range(steps):
            optimiser.zero_grad()
            (probabilities * loss_of(start)).sum().backward()
            optimiser.step()
    return [*points, measure(rounds * steps, log_policy(), model)]


def run_as_it_is(rounds: int, steps: int, samples: int, learning_rate: float) -> list[Point]:
    """T rounds of K steps by the code that a recipe runs: sampled responses, log sigmoid, RMSProp.

    Args:
        samples: pairs per prompt and round; demonstrations and samples are both drawn anew each round.

    Returns:
        rounds + 1 points.
    """
    policy, demonstrator, template = WORLD.make_policy(0), WORLD.make_policy(1), WORLD.template()
    WORLD.realise(demonstrator, DEMONSTRATIONS)
    prompts = [(str(number), [*prompt]) for number, prompt in enumerate(WORLD.prompts)]
    sampling = SamplingSettings(samples_per_prompt=samples, batch_size=samples * len(prompts))
    optimiser = OptimiserSettings(name="rmsprop", learning_rate=learning_rate, warmup_ratio=0, max_gradient_norm=None)
    settings = IrftTrainingSettings(epochs=steps, batch_size=samples * len(prompts), beta=BETA, optimiser=optimiser)
    points = []
    for finished in range(rounds):
        points.append(measure(finished * steps, WORLD.log_policy(policy), policy))
        y, y_prime = (
            sample_responses(model, template, prompts, sampling, derive(0, name, str(finished)))
            for name, model in (("demonstrations", demonstrator), ("samples", policy))
        )
        pairs = [
            Pair(Dialogue(one.prompt, one.response), Dialogue(other.prompt, other.response))
            for one, other in zip(y, y_prime, strict=True)
        ]
        irft_round(policy, policy, pairs, settings, END_OF_TEXT, seed=finished)
    return [*points, measure(rounds * steps, WORLD.log_policy(policy), policy)]


def likelihood_bound() -> float:
    """The largest possible l: no policy gives the demonstrations a higher likelihood than pi_E itself."""
    return float(likelihood(DEMONSTRATIONS.log(), DEMONSTRATIONS))


def norm_bound(first: Point, rate: float) -> Callable[[int], float]:
    """C / sqrt(T * K), C = sqrt(2 (l* - l_0) / eta): what gradient ascent guarantees for the smallest gradient norm."""
    constant = math.sqrt(2 * (likelihood_bound() - first.likelihood) / rate)
    return lambda steps: constant / math.sqrt(steps)


def smallest_so_far(points: list[Point]) -> list[float]:
    """min over the steps so far of the gradient norm: the quantity that converges, norms are not monotone."""
    return list(accumulate((point.gradient_norm for point in points), min))


def thinned(points: list[Point]) -> dict[str, list[float]]:
    """Columns to keep: every point up to 64 steps, then one in 16 steps, to 6 significant digits."""
    kept = [asdict(point) for point in points if point.steps <= 64 or point.steps % 16 == 0]
    return {name: [float(f"{row[name]:.6g}") for row in kept] for name in kept[0]}


def plot(curves: dict[str, dict[str, list[Point]]], file: Path) -> None:
    """One panel per kind of run: the smallest gradient norm so far over T * K, and the bound."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        1, len(curves), figsize=(4.2 * len(curves), 3.6), sharex=True, layout="constrained"
    )
    for panel, (title, lines) in zip(panels, curves.items(), strict=True):
        for label, points in lines.items():
            steps = [point.steps for point in points]
            panel.loglog(steps[1:], smallest_so_far(points)[1:], label=label)
        for method in RATES:
            if title.lower().startswith(f"{method}, exact"):
                bound = norm_bound(points[0], RATES[method])
                ends = [1, points[-1].steps]
                panel.loglog(ends, [bound(step) for step in ends], "k--", label=r"$C/\sqrt{TK}$")
        panel.set(title=title, xlabel="steps T · K")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    panels[0].set_ylabel("smallest gradient norm of (1) so far")
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2048, help="T * K of the exact runs; the sampled ones take 1/8")
    results_file.add_arguments(parser, "convergence.json")
    parser.add_argument("--plot", type=Path, help="by default beside the results")
    given = parser.parse_args()
    torch.set_num_threads(1)

    curves: dict[str, dict[str, list[Point]]] = {
        f"{method.upper()}, exact sampling": {
            label: run_exactly(method, given.steps // steps, steps, rate / divisor)
            for label, (steps, divisor) in LINES.items()
        }
        for method, rate in RATES.items()
    }
    curves["IRFT as it runs, K = 4"] = {
        f"{2 * samples} pairs a round": run_as_it_is(given.steps // 32, 4, samples, learning_rate=5e-4)
        for samples in (16, 64)
    }
    for title, lines in curves.items():
        for label, points in lines.items():
            last = points[-1]
            print(
                f"{title}, {label}: gradient norm {points[0].gradient_norm:.3f} -> {min(smallest_so_far(points)):.4f} "
                f"in {last.steps} steps, likelihood {points[0].likelihood:.4f} -> {last.likelihood:.4f} "
                f"of at most {likelihood_bound():.4f}"
            )
    runs = {title: {label: thinned(points) for label, points in lines.items()} for title, lines in curves.items()}
    results_file.write(given.out, json.dumps({"beta": BETA, "rates": RATES, "runs": runs}) + "\n")
    tracked = given.out == results_file.TRACKED / "convergence.json"
    plot(curves, given.plot or (ROOT / "docs/convergence.png" if tracked else given.out.with_suffix(".png")))


if __name__ == "__main__":
    main()
