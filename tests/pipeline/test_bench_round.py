"""The parts of bench/round.py that have sizes, at the size that is for tests: every way starts, and has its name."""

import pytest

from bench import round_tables, stock
from bench.round import add, measure
from bench.sizes import SIZES

pytestmark = pytest.mark.slow


def test_a_round_is_measured_against_every_way_of_trl():
    found = measure("speed", "toy", None, None, threads=1)
    fp32 = {name for name in stock.ways(SIZES["toy"].training) if name.endswith("_fp32")}
    for part in ("round_vs_stock", "training_vs_stock"):
        assert fp32 | {"ours"} <= set(found[part]["seconds"])
        assert found[part]["against"] in stock.STOCK
    assert {"round_vs_stock", "sampling_vs_stock", "training_vs_stock", "training_vs_floor", "arithmetic"} <= set(found)
    assert found["shapes"]["prompts"] == SIZES["toy"].prompts
    losses = found["training_vs_stock"]["mean_loss"]
    assert losses["matched_precomputed_fp32"] == pytest.approx(losses["matched_fp32"], abs=1e-3)
    results: dict = {}
    add(results, "speed", "toy", found, {})
    assert any(row.figure.startswith("toy: training, share of the limit") for row in round_tables.rows(results))


def test_a_round_the_spin_way_is_measured_with_and_without_start_up():
    found = measure("spin", "toy", None, None, threads=1)["spin"]
    ways = {"ours", "ours_small", "spin", "spin_matched"}
    for key in ("with_startup", "without_startup"):
        assert set(found[key]["seconds"]) == ways
        assert found[key]["against"] == "spin"
    assert set(found["cpu_seconds_by_step"]["spin"]) == {"generate", "convert", "train"}
    for name in ways:
        steps = found["cpu_seconds_by_step"][name].values()
        assert all(0 < step["work"] < step["whole"] for step in steps)
