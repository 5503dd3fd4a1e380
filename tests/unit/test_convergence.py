"""Rounds with exact sampling approach a stationary point of (1) at least as fast as the theory says."""

import pytest

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
