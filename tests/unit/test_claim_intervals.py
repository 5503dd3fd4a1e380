"""The statistics of a claim: Student's intervals over seeds, crossed intervals over seeds and prompts, Holm."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from bench.claim import differences
from juicer.claim.intervals import Estimate, crossed, estimate, holm, over_units

STORED = Path(__file__).resolve().parents[2] / "bench/results/claim.json"


def test_the_interval_of_five_seeds_is_student_s() -> None:
    found = over_units([1.0, 2.0, 3.0, 4.0, 5.0], "seeds")
    assert (found.mean, found.half_width) == (3.0, pytest.approx(2.77645 * 0.5**0.5, rel=1e-5))
    assert found.p == pytest.approx(0.0132, abs=1e-4)
    assert found.detectable() == pytest.approx(3.76106 * 0.5**0.5, rel=1e-5)


@pytest.mark.parametrize(("count", "quantile"), [(2, 12.706), (3, 4.303), (5, 2.776), (30, 2.045)])
def test_the_half_width_of_an_interval_over_seeds_is_student_s(count: int, quantile: float) -> None:
    values = [0.3 + 0.1 * (-1) ** number * number for number in range(count)]
    found = over_units(values, "seeds")
    assert found.half_width == pytest.approx(quantile * np.std(values, ddof=1) / math.sqrt(count), rel=1e-3)


def test_one_unit_has_no_interval_and_no_p_value() -> None:
    found = over_units([0.3], "seeds")
    assert (found.mean, found.half_width, found.p, found.detectable()) == (0.3, math.inf, 1.0, math.inf)
    assert over_units([0.0, 0.0], "seeds").p == 1.0
    equal = over_units([0.2, 0.2], "seeds")
    assert (equal.half_width, equal.p, equal.detectable()) == (0.0, 1.0, math.inf)


def test_the_crossed_variance_is_the_sum_of_that_of_prompt_means_and_that_of_seed_means() -> None:
    values = np.array([[1.0, 2.0, 6.0], [3.0, 2.0, 4.0]])
    found = crossed(values.tolist())
    first, second = values.mean(0).var(ddof=1) / 3, values.mean(1).var(ddof=1) / 2
    assert found.mean == pytest.approx(3.0)
    assert found.error**2 == pytest.approx(first + second)
    assert found.degrees == pytest.approx((first + second) ** 2 / (first**2 / 2 + second**2 / 1))
    assert crossed([[1.0, 1.0], [1.0, 1.0]]).half_width == 0.0
    assert crossed([[1.0], [2.0]]).over == "seeds"


@pytest.mark.parametrize(
    ("seed_effect", "prompt_effect", "noise"), [(0.3, 0.5, 1.0), (0.0, 1.0, 0.2), (0.5, 0.0, 0.5), (0.0, 0.0, 1.0)]
)
def test_crossed_intervals_cover_the_truth_about_as_often_as_they_say(
    seed_effect: float, prompt_effect: float, noise: float
) -> None:
    rng, repeats, inside = np.random.default_rng(0), 600, 0
    for _ in range(repeats):
        values = 0.4 + seed_effect * rng.normal(size=(5, 1)) + prompt_effect * rng.normal(size=(1, 40))
        found = crossed((values + noise * rng.normal(size=(5, 40))).tolist())
        inside += abs(found.mean - 0.4) <= found.half_width
    # A true 95% gives less than 0.93 in one of 80 such simulations; what counts noise twice covers more.
    assert inside / repeats >= 0.93


@pytest.mark.parametrize(("seeds", "lowest", "highest"), [(2, 0.86, 0.92), (3, 0.90, 0.95), (5, 0.93, 0.97)])
def test_with_two_or_three_seeds_they_cover_a_little_less(seeds: int, lowest: float, highest: float) -> None:
    rng, repeats, inside = np.random.default_rng(2), 1500, 0
    for _ in range(repeats):
        values = 0.3 * rng.normal(size=(seeds, 1)) + 0.5 * rng.normal(size=(1, 100)) + rng.normal(size=(seeds, 100))
        found = crossed(values.tolist())
        inside += abs(found.mean) <= found.half_width
    assert lowest <= inside / repeats <= highest


@pytest.mark.parametrize(("count", "comparisons"), [(5, 1), (5, 20), (40, 20)])
def test_a_detectable_difference_is_called_one_in_four_of_five_repetitions(count: int, comparisons: int) -> None:
    true = Estimate(0.0, count**-0.5, count - 1, "seeds").detectable(comparisons)
    values = true + np.random.default_rng(3).normal(size=(20_000, count))
    ratio = values.mean(1) / (values.std(1, ddof=1) * count**-0.5)
    found = Estimate(1.0, 1.0, count - 1, "seeds")
    called = [found._replace(mean=each).p <= 0.05 / comparisons for each in ratio]
    assert np.mean(called) == pytest.approx(0.8, abs=0.012)


def test_seeds_alone_or_all_values_as_one_sample_cover_too_rarely() -> None:
    rng, repeats = np.random.default_rng(1), 300
    inside = {"seeds": 0, "sample": 0}
    for _ in range(repeats):
        values = 0.3 * rng.normal(size=(5, 1)) + 1.0 * rng.normal(size=(1, 40)) + 0.2 * rng.normal(size=(5, 40))
        seeds = over_units(values.mean(1).tolist(), "seeds")
        sample = over_units(values.ravel().tolist(), "prompts")
        inside["seeds"] += abs(seeds.mean) <= seeds.half_width
        inside["sample"] += abs(sample.mean) <= sample.half_width
    assert inside["seeds"] / repeats < 0.93
    assert inside["sample"] / repeats < 0.8


def test_what_an_error_is_over_follows_from_the_prompts_of_the_seeds() -> None:
    first, second = {"a": 1.0, "b": 2.0}, {"b": 3.0, "a": 5.0}
    assert estimate([first]).over == "prompts"
    both = estimate([first, second])
    assert both.over == "seeds and prompts"
    assert both == crossed([[1.0, 2.0], [5.0, 3.0]])
    worlds = estimate([first, {"c": 4.0, "d": 5.0, "e": 9.0}])
    assert worlds == over_units([1.5, 6.0], "seeds")


def test_holm_stops_at_the_first_that_does_not_hold() -> None:
    assert holm([0.04, 0.001, 0.02]) == [True, True, True]
    assert holm([0.06, 0.001, 0.03]) == [False, True, False]
    assert holm([0.001, 0.04, 0.03, 0.03]) == [True, False, False, False]


def test_the_stored_tables_follow_from_the_stored_seeds_and_their_intervals_are_44() -> None:
    stored = json.loads(STORED.read_text())
    table = differences(stored["seeds"])
    assert table == stored["differences"]
    rows = [row for models in table.values() for metrics in models.values() for row in metrics.values()]
    survives = [row["survives"] for row in rows if "survives" in row]
    assert (len(survives), sum(map(bool, survives))) == (44, 16)
    loss = table["clean"]["rft"]["preference_accuracy_per_token"]
    assert loss["survives"] and (loss["difference"] or 0) < 0
    assert not table["imperfect"]["rft"]["oracle_mean"]["survives"]
