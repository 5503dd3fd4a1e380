"""The objectives agree with their equations."""

import math

import pytest
import torch

from juicer.methods.objectives import contrastive_loss, implicit_reward, irft_loss, mean_and_deviation, normalise


def test_implicit_reward_is_beta_times_the_log_ratio():
    reward = implicit_reward(torch.tensor([-1.0, -2.0]), torch.tensor([-3.0, -2.0]), beta=0.5)
    assert reward.tolist() == [1.0, 0.0]


def test_logistic_contrast_of_equal_rewards_is_log_two():
    loss = contrastive_loss(torch.zeros(3), torch.zeros(3), "logistic")
    assert loss.tolist() == pytest.approx([math.log(2)] * 3)


def test_identity_contrast_is_the_negative_margin():
    assert contrastive_loss(torch.tensor([3.0]), torch.tensor([1.0]), "identity").item() == -2.0


def test_logistic_contrast_stays_finite_for_extreme_margins():
    loss = contrastive_loss(torch.tensor([-1e4, 1e4]), torch.tensor([1e4, -1e4]), "logistic")
    assert torch.isfinite(loss).all()
    assert loss[1].item() == 0.0


@pytest.mark.parametrize("h", ["logistic", "identity"])
def test_irft_gradient_raises_the_demonstration_and_lowers_the_sample(h):
    log_policy = torch.tensor([[-5.0], [-4.0]], requires_grad=True)
    irft_loss((log_policy[0], log_policy[1]), (torch.tensor([-5.0]), torch.tensor([-4.0])), 0.1, h).sum().backward()
    expected = 0.1 * (0.5 if h == "logistic" else 1.0)
    assert log_policy.grad is not None
    assert log_policy.grad.flatten().tolist() == pytest.approx([-expected, expected])


def test_normalised_rewards_have_zero_mean_and_unit_variance():
    rewards = torch.tensor([[1.0, 2.0], [3.0, 10.0]])
    mean, deviation = mean_and_deviation(rewards)
    normalised = normalise(rewards, mean, deviation)
    assert normalised.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert normalised.var(correction=0).item() == pytest.approx(1.0, rel=1e-6)


def test_normalising_a_constant_reward_does_not_divide_by_zero():
    assert torch.isfinite(normalise(torch.ones(4), 1.0, 0.0)).all()


def test_a_deviation_below_a_millionth_counts_as_a_millionth():
    assert normalise(torch.tensor([3.0]), 1.0, 0.0).item() == pytest.approx(2e6)
    assert normalise(torch.tensor([3.0]), 1.0, 1e-5).item() == pytest.approx(2e5)


def test_mean_and_deviation_are_taken_in_float64():
    rewards = torch.tensor([2.0**24, 1.0, 1.0])
    wide = rewards.double()
    assert mean_and_deviation(rewards) == (wide.mean().item(), wide.std(correction=0).item())
