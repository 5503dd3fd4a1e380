"""The arithmetic of bench/: ratios of medians, exponents, and a floor that computes useful tokens only."""

import pytest
import torch

from bench.measure import Timings, exponent, ratio, total
from bench.stock import Floor
from juicer.data.dialogues import Dialogue


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_is_that_power(power):
    sizes = [10, 40, 160]
    assert exponent(sizes, [3 * size**power for size in sizes]) == pytest.approx(power)


def test_a_ratio_is_of_medians_so_one_disturbed_repeat_does_not_move_it():
    ours, stock = Timings(wall=[2.0, 2.0, 90.0], cpu=[1.0, 1.0, 1.5]), Timings(wall=[6.0] * 3, cpu=[5.0, 4.0, 4.0])
    found = ratio(ours, {"stock": stock, "matched": ours}, 2.5)
    assert (found["ratio"], found["stock_cpu"], found["stock_wall"], found["matched_cpu"]) == (4.0, 4.0, 3.0, 1.0)
    assert found["seconds"]["stock"]["cpu"] == [5.0, 4.0, 4.0]


def test_parts_are_added_repeat_by_repeat():
    both = total([Timings([1.0, 2.0], [0.5, 0.5]), Timings([10.0, 20.0], [5.0, 6.0])])
    assert (both.wall, both.cpu) == ([11.0, 22.0], [5.5, 6.5])


def test_a_piece_of_work_is_timed_by_both_clocks_and_returned():
    times = Timings()
    assert times.time(lambda: 7) == 7
    assert len(times.wall) == len(times.cpu) == 1


def test_the_floor_holds_every_dialogue_once_and_no_padding():
    dialogues = [Dialogue([2, 3], [4] * (1 + number % 3)) for number in range(10)]
    floor = Floor.of(dialogues, padding=0, device=torch.device("cpu"), batch_size=2)
    assert all(bool(batch.attention.all()) for batch in floor.batches)
    assert sum(len(batch.tokens) for batch in floor.batches) == len(dialogues)
    assert sum(batch.tokens.numel() for batch in floor.batches) == floor.tokens == sum(map(len, dialogues))
