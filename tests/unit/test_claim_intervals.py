"""The statistics of the claim over seeds."""

import json
from pathlib import Path

import pytest

from bench.claim import differences, holm, interval, p_value

STORED = Path(__file__).resolve().parents[2] / "bench/results/claim.json"


def test_the_interval_of_five_seeds_is_student_s() -> None:
    mean, half = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (mean, half) == (3.0, pytest.approx(2.77645 * 0.5**0.5, rel=1e-5))
    assert p_value([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(0.0132, abs=1e-4)
    assert interval([1.0]) == (1.0, float("inf"))
    assert p_value([1.0]) == p_value([0.0, 0.0]) == 1.0


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
