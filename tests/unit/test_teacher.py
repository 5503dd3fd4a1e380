"""What the reward of RFT says, without labels, about whether the policy has passed its demonstrations."""

import pytest
import torch

from juicer.methods.teacher import Watched, watch

DEMONSTRATIONS, SAMPLES = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([0.0, 2.0, 5.0, 1.0])


def test_the_first_round_says_how_often_demonstrations_are_preferred_and_ties_count_half():
    assert watch(Watched(DEMONSTRATIONS, SAMPLES), None) == {"demonstrations_preferred": 2.5 / 4}


def test_a_reward_that_has_turned_round_disagrees_with_the_one_before():
    before = Watched(DEMONSTRATIONS, SAMPLES)
    turned = watch(Watched(-DEMONSTRATIONS, -SAMPLES), before)
    assert turned["agreement"] == pytest.approx(-1.0)
    assert turned["demonstrations_preferred"] == 1.5 / 4
    assert turned["demonstrations_preferred_before"] == 2.5 / 4


def test_a_reward_that_is_only_shifted_agrees_and_its_drift_is_in_standard_deviations():
    before = Watched(DEMONSTRATIONS, SAMPLES)
    deviation = torch.cat([DEMONSTRATIONS, SAMPLES]).std(correction=0).item()
    facts = watch(Watched(DEMONSTRATIONS + 3, SAMPLES + 3), before)
    assert facts["agreement"] == pytest.approx(1.0)
    assert facts["drift"] == pytest.approx(3 / deviation, abs=1e-6)


def test_a_constant_reward_has_neither_agreement_nor_drift():
    flat = Watched(torch.ones(3), torch.ones(3))
    assert watch(Watched(torch.rand(3), torch.rand(3)), flat).keys() == {
        "demonstrations_preferred",
        "demonstrations_preferred_before",
    }
    assert "agreement" not in watch(flat, Watched(torch.tensor([0.0, 1.0, 2.0]), torch.ones(3)))
