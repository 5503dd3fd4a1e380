"""One rule chooses: the first metric on validation that all have, its best value, the earlier model on a tie."""

import pytest

from juicer.evaluation.choice import Choice, best_on_validation
from juicer.evaluation.results import Merits


@pytest.mark.parametrize(
    ("merits", "chosen"),
    [
        # The scorer decides where there is one, whatever the other metrics say.
        ([(0.1, 0.9, 0.0), (0.3, 0.2, 5.0), (0.2, 0.5, 1.0)], (1, "reward_mean", 0.3)),
        ([(-0.3, 0.9, 0.0), (-0.1, 0.2, 5.0)], (1, "reward_mean", -0.1)),
        # A metric that one of them lacks decides nothing.
        ([(0.1, 0.9, 0.0), (None, 0.95, 5.0)], (1, "preference_accuracy", 0.95)),
        ([(None, 0.9, 2.0), (None, None, -1.0), (None, 0.1, 1.5)], (1, "demonstration_gap", -1.0)),
        # The gap nearest to 0 from either side.
        ([(None, None, -2.0), (None, None, 0.5), (None, None, -0.25)], (2, "demonstration_gap", -0.25)),
        # The earlier of equals, the simpler model.
        ([(0.1, None, None), (0.3, None, None), (0.3, None, None)], (1, "reward_mean", 0.3)),
        ([(None, None, 1.0), (None, None, -1.0)], (0, "demonstration_gap", 1.0)),
    ],
)  # fmt: skip
def test_the_best_is_chosen_by_the_first_metric_that_all_have(merits, chosen):
    assert best_on_validation([Merits(*each) for each in merits]) == Choice(*chosen)


def test_without_a_metric_that_all_have_nothing_is_chosen():
    assert best_on_validation([Merits(), Merits()]) is None
    assert best_on_validation([Merits(0.1), Merits(None, 0.5), Merits(None, None, 0.0)]) is None
    assert best_on_validation([]) is None
