"""Rounds with exact sampling approach a stationary point of (1) at least as fast as the theory says, and the rounds of
every objective lead where docs/methods.md says."""

import pytest

from bench import objectives
from bench.convergence import RATES, likelihood_bound, norm_bound, run_exactly, smallest_so_far


@pytest.mark.parametrize("method", ["irft", "rft"])
@pytest.mark.parametrize(("rounds", "steps"), [(96, 1), (24, 4)])
def test_the_gradient_norm_falls_at_least_as_one_over_the_root_of_all_steps(method, rounds, steps):
    points = run_exactly(method, rounds, steps, RATES[method])
    bound = norm_bound(points[0], RATES[method])
    assert [point.steps for point in points] == list(range(0, rounds * steps + 1, steps))
    for point, norm in zip(points[1:], smallest_so_far(points)[1:], strict=True):
        assert norm <= bound(point.steps)
    assert points[-1].gradient_norm < points[0].gradient_norm / 4
    assert points[0].likelihood < points[-1].likelihood < likelihood_bound()


LONG = objectives.Rounds(steps=200, rate=0.1, count=2)
START = objectives.divergence(objectives.START)


@pytest.mark.parametrize("beta", [0.1, 1.0])
@pytest.mark.parametrize("objective", sorted(objectives.OBJECTIVES))
def test_short_rounds_of_every_objective_lead_to_the_demonstrations(objective, beta):
    found = objectives.run(objective, objectives.Rounds(steps=4, rate=0.02, count=50), beta)
    assert found[-1] < 1e-3 < START == found[0]


@pytest.mark.parametrize("objective", ["logistic", "space", "bernoulli", "brier", "kliep", "lsif"])
def test_solved_rounds_with_beta_one_are_the_demonstrations(objective):
    assert objectives.run(objective, LONG, beta=1.0)[-1] < 1e-9


def test_solved_rounds_of_the_bounded_reward_approach_the_demonstrations_slowly():
    found = objectives.run("spif", LONG, beta=1.0)
    assert START > found[1] > found[2] > 1e-3


@pytest.mark.parametrize("objective", sorted(objectives.OBJECTIVES))
def test_solved_rounds_with_a_small_beta_overshoot(objective):
    assert objectives.run(objective, LONG, beta=0.1)[1] > 2 * START


def test_the_bound_of_the_reward_is_what_keeps_a_smaller_beta_from_overshooting():
    ends = {name: objectives.run(name, LONG, beta=0.3)[-1] for name in ("logistic", "space", "spif")}
    assert ends["spif"] < START < min(ends["logistic"], ends["space"])
