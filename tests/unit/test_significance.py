"""Intervals, verdicts and the power of a comparison."""

import math
import random
from collections.abc import Callable

import pytest

from juicer.evaluation.significance import (
    FEWEST,
    Difference,
    half_width,
    interval,
    quantile,
    share_difference,
    share_error,
    skewness,
)
from juicer.reporting.numbers import paired_difference, paired_interval


def compared(differences: list[float]) -> Difference:
    mean, error = paired_difference(differences, [0.0] * len(differences))
    low, high = paired_interval(differences, [0.0] * len(differences))
    assert None not in (mean, error, low, high)
    return Difference(mean, error, low, high, len(differences))  # type: ignore[arg-type]


@pytest.mark.parametrize(("degrees", "value"), [(1, 12.7062), (2, 4.3027), (9, 2.2622), (77, 1.9913), (299, 1.9679)])
def test_quantiles_are_those_of_the_tables(degrees: int, value: float) -> None:
    assert quantile(0.975, degrees) == pytest.approx(value, abs=5e-5)
    assert quantile(0.5, degrees) == pytest.approx(0, abs=1e-12)


def test_an_interval_is_student_s_and_longer_by_four_in_n() -> None:
    assert half_width(10) == pytest.approx(2.26216 * 1.4, rel=1e-5)
    assert half_width(10**6) == pytest.approx(1.96, abs=1e-4)
    assert half_width(100, 0.8) < half_width(100)
    assert half_width(1) == half_width(0) == math.inf


def test_an_interval_is_longer_on_the_side_of_the_long_tail_and_symmetrical_without_one() -> None:
    values = [-1.0, -1.0, -1.0, 3.0]
    assert skewness(values) == pytest.approx(1.1547, abs=1e-4)
    low, high = interval(values, 0.0, 1.0)
    shift = skewness(values) * (1 + 2 * half_width(4) ** 2) / 12
    assert (low, high) == (-half_width(4), pytest.approx(half_width(4) + shift))
    assert interval([-value for value in values], 0.0, 1.0) == (pytest.approx(-high), half_width(4))
    assert interval([-1.0, 0.0, 1.0], 0.0, 1.0) == (-half_width(3), half_width(3))
    assert skewness([2.0, 2.0]) == 0


def test_a_verdict_is_the_side_of_zero_that_the_interval_lies_on() -> None:
    assert Difference(1.0, 0.4, 0.1, 1.9, FEWEST).verdict == "better"
    assert Difference(-1.0, 0.4, -1.9, -0.1, FEWEST).verdict == "worse"
    assert Difference(1.0, 0.5, 0.0, 2.0, FEWEST).verdict == "undecided"
    assert Difference(0.0, 0.0, 0.0, 0.0, FEWEST).verdict == "undecided"
    assert Difference(0.1, 0.0, 0.1, 0.1, FEWEST).verdict == "undecided"  # equal values do not show their spread
    assert Difference(1.0, 0.4, 0.1, 1.9, FEWEST - 1).verdict == "too few"


def test_one_prompt_has_neither_error_nor_interval() -> None:
    assert paired_difference([2.0], [1.0]) == (1.0, None)
    assert paired_interval([2.0], [1.0]) == paired_interval([None, 2.0], [None, 1.0]) == (None, None)


def test_a_share_has_an_error_at_0_and_at_1_too() -> None:
    assert share_error(0.65, 20) == pytest.approx(math.sqrt(0.625 * 0.375 / 24))
    assert share_error(1.0, 100) == pytest.approx(share_error(0.0, 100))
    assert share_error(1.0, 100) > 0


def test_shares_of_the_same_pairs_are_compared_as_independent_ones() -> None:
    found = share_difference(0.7, 0.5, 200)
    assert found.error == pytest.approx(math.hypot(share_error(0.7, 200), share_error(0.5, 200)))
    assert (found.low + found.high) / 2 == pytest.approx(0.2)
    assert found.verdict == "better"
    assert share_difference(1.0, 0.0, 9).verdict == "too few"
    assert share_difference(1.0, 0.0, 1).detectable == math.inf


def test_what_78_pairs_can_show_and_how_many_a_twentieth_takes() -> None:
    found = share_difference(0.6, 0.6, 78)
    assert found.detectable == pytest.approx(0.225, abs=5e-4)
    needed = found.needed(0.05)
    assert needed == pytest.approx(1500, rel=0.02)
    assert share_difference(0.6, 0.6, needed).detectable == pytest.approx(0.05, rel=0.01)
    assert found.needed(0.5) < 78
    assert found.needed(100.0) == FEWEST


def test_the_difference_that_can_be_shown_is_shown_in_four_of_five_runs() -> None:
    rng = random.Random(0)
    true = compared([rng.gauss(0, 1) for _ in range(2000)]).error * math.sqrt(2000 / 40)
    detectable = Difference(0.0, true, 0.0, 0.0, 40).detectable
    runs = [compared([rng.gauss(detectable, 1) for _ in range(40)]).verdict for _ in range(800)]
    assert 0.75 < runs.count("better") / len(runs) < 0.87


NOTHING: dict[str, Callable[[random.Random], float]] = {
    "normal": lambda rng: rng.gauss(0, 1),
    "skewed": lambda rng: rng.expovariate(1) - 1,
    "mostly ties": lambda rng: rng.gauss(0, 1) if rng.random() < 0.3 else 0.0,
    "two values": lambda rng: rng.choice((-1.0, 1.0)),
}


@pytest.mark.parametrize("kind", NOTHING)
@pytest.mark.parametrize("count", [2, 9, 10, 25])
def test_equal_models_are_rarely_called_different(kind: str, count: int) -> None:
    """The whole simulation is bench/verdicts.py; of 800 runs the standard error is 0.8%."""
    rng = random.Random(f"{kind} {count}")
    runs = [compared([NOTHING[kind](rng) for _ in range(count)]).verdict for _ in range(800)]
    assert (runs.count("better") + runs.count("worse")) / len(runs) <= (0 if count < FEWEST else 0.06)
