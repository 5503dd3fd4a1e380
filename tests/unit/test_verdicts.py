"""The simulation of equal models: that what is stored and documented is what the rule promises."""

import json
from pathlib import Path

import pytest

from bench.verdicts import (
    COUNTS,
    DIFFERENCES,
    LIMIT,
    PAIRS,
    markdown,
    of_means,
    of_scores,
    of_shares,
    shares_by_gate,
    shares_by_report,
    simulated,
)

ROOT = Path(__file__).resolve().parents[2]
STORED = json.loads((ROOT / "bench/results/verdicts.json").read_text())


def test_no_more_than_six_in_a_hundred_verdicts_on_equal_models_are_wrong() -> None:
    assert (STORED["counts"], min(STORED["counts"]), max(STORED["counts"])) == (list(COUNTS), 2, 300)
    called = STORED["called"]
    assert set(called["findings"]) == {*DIFFERENCES, "preference accuracy"}
    assert set(called["gates"]) == {*PAIRS, "preference accuracy"}
    largest = max(max(shares) for part in ("findings", "gates") for shares in called[part].values())
    assert largest == STORED["worst"] <= LIMIT


def test_the_documented_table_is_the_stored_one() -> None:
    assert markdown(STORED) in (ROOT / "docs/verdicts.md").read_text()


@pytest.mark.parametrize("count", [2, 9, 10, 20])
def test_shares_are_judged_alike_by_the_report_and_the_gate_and_as_was_stored(count: int) -> None:
    found = of_shares(count, shares_by_report(count))
    assert found == of_shares(count, shares_by_gate(count)) <= LIMIT
    assert round(found, 5) == STORED["called"]["findings"]["preference accuracy"][COUNTS.index(count)]


def test_the_simulation_is_seeded() -> None:
    draw = DIFFERENCES["skewed (exponential, 2)"]
    first, second = (simulated("a", (draw,), of_scores, [10, 20], 100) for _ in range(2))
    assert first == second
    assert max(first) < 0.12
    assert max(simulated("b", PAIRS["lognormal"], of_means, [9, 20], 50)) < 0.15
