"""How curves differ, in text."""

import json

from juicer.reporting.plot_difference import compare, curves

STEPS = {"x": "step", "y": "value"}
TRAINING = """stage,model,round,quantity,step,value
irft_train@r1,irft-r1,1,loss,2,0.5
irft_train@r1,irft-r1,1,loss,1,1.0
irft_train@r1,irft-r1,1,accuracy,1,0.25
"""


def test_a_curve_is_what_shares_all_words_in_the_order_of_its_steps() -> None:
    assert curves(TRAINING, "training.csv", STEPS) == {
        "irft_train@r1 irft-r1 loss": [1.0, 0.5], "irft_train@r1 irft-r1 accuracy": [0.25],
    }  # fmt: skip


def test_a_word_of_its_own_in_every_row_names_a_point_and_no_curve() -> None:
    rows = [{"name": f"irft-r{each}", "method": "irft", "round": each, "value": each, "sem": None} for each in (1, 2)]
    assert curves(json.dumps(rows), "reward.json", {"x": "round", "y": "value"}) == {"irft": [1.0, 2.0]}


def test_a_point_that_is_no_number_is_left_out() -> None:
    assert curves("step,value\n1,nan\n2,\n3,4\n", "training.csv", STEPS) == {"": [4.0]}


def test_a_file_without_points_has_no_curves() -> None:
    assert curves("step,value\n", "training.csv", STEPS) == curves("", "reward.json", STEPS) == {}


def test_only_curves_that_changed_came_or_went_are_shown() -> None:
    before, now = {"same": [1.0], "up": [0.0, 0.5], "gone": [1.0]}, {"same": [1.0], "up": [0.0, 1.0], "new": [2.0, 3.0]}
    assert compare("Score", before, now) == [
        "| Score | up | ▁▅ 0.5 | ▁█ 1 |", "| Score | new | – | ▁█ 3 |", "| Score | gone | ▁ 1 | – |",
    ]  # fmt: skip


def test_a_long_curve_is_drawn_from_its_first_to_its_last_point() -> None:
    (row,) = compare("Loss", {}, {"": [float(each) for each in range(100)]})
    assert row == "| Loss |  | – | ▁▂▂▃▄▄▅▅▆▇▇█ 99 |"
