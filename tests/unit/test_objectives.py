"""The objectives agree with their equations."""

import math
from itertools import product

import pytest
import torch

from juicer.methods.objectives import (
    OBJECTIVES,
    contrastive_loss,
    implicit_reward,
    irft_loss,
    mean_and_deviation,
    normalise,
    space,
)


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
    reference = torch.tensor([-5.0]), torch.tensor([[-4.0]])
    irft_loss((log_policy[0], log_policy[1][:, None]), reference, 0.1, h).sum().backward()
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


OBJECTIVE_NAMES = sorted(OBJECTIVES)


@pytest.mark.parametrize("name", OBJECTIVE_NAMES)
def test_every_objective_pushes_equally_up_and_down_where_both_rewards_are_zero(name):
    rewards = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(OBJECTIVES[name](rewards[:1], rewards[1:]).sum(), rewards)
    assert gradient[0] < 0
    assert gradient.sum().item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logistic", math.log(1 + math.exp(-1.5))),
        ("identity", -1.5),
        ("space", math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-0.5))),
        ("bernoulli", math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-0.5))),
        ("brier", (1 / (1 + math.e)) ** 2 + (1 / (1 + math.exp(0.5))) ** 2),
        ("hinge", 0.5),
        ("kliep", -1 + math.exp(-0.5)),
        ("lsif", -math.e + math.exp(-1) / 2),
        ("spif", -1.5 + 0.625),
    ],
)
def test_an_objective_has_the_value_of_its_equation(name, value):
    loss = OBJECTIVES[name](torch.tensor([1.0], dtype=torch.float64), torch.tensor([-0.5], dtype=torch.float64))
    assert loss.item() == pytest.approx(value, abs=1e-12)


def test_space_weighs_the_samples_by_their_number():
    one, other = torch.tensor([0.7], dtype=torch.float64), torch.tensor([0.2], dtype=torch.float64)
    share = [1 / (1 + 3 * math.exp(-value)) for value in (0.7, 0.2)]
    expected = -math.log(share[0]) - 3 * math.log(1 - share[1])
    assert space(one, other, mu=3).item() == pytest.approx(expected, abs=1e-12)


def test_the_best_sample_is_the_one_with_the_highest_reward():
    log_policy = torch.tensor([0.0]), torch.tensor([[1.0, 3.0, 2.0]])
    zero = torch.tensor([0.0]), torch.zeros(1, 3)
    assert irft_loss(log_policy, zero, 1.0, "identity", "best").tolist() == [3.0]
    assert irft_loss(log_policy, zero, 1.0, "identity", "mean").tolist() == [2.0]


def test_space_takes_the_number_of_samples_as_its_ratio():
    log_policy = torch.tensor([0.3]), torch.tensor([[1.0, 0.5]])
    zero = torch.tensor([0.0]), torch.zeros(1, 2)
    # -log s(0.3) - 2 log(1 - s(z)), with s(z) = 1 / (1 + 2 exp(-z)), is the mean over both samples z.
    own = math.log(1 + 2 * math.exp(-0.3))
    other = [2 * math.log(1 + math.exp(z) / 2) for z in (1.0, 0.5)]
    assert irft_loss(log_policy, zero, 1.0, "space").item() == pytest.approx(own + sum(other) / 2)


START, TEACHER = torch.tensor([0.40, 0.35, 0.25]), torch.tensor([0.50, 0.30, 0.20])


def loss_at(policy, demonstrations, samples, objective, contrast):
    """The expected loss over y ~ demonstrations and all pairs of samples, against START."""
    rewards, total = torch.log(policy) - torch.log(START), torch.zeros(())
    for y, first, second in product(range(3), repeat=3):
        probability = demonstrations[y] * samples[first] * samples[second]
        two = torch.stack([rewards[first], rewards[second]])[None]
        zero = torch.zeros(1), torch.zeros(1, 2)
        total = total + probability * irft_loss((rewards[y][None], two), zero, 1.0, objective, contrast)[0]
    return total


@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name != "space"])
def test_the_mean_over_two_samples_has_the_expected_gradient_of_one(objective):
    logits = torch.log(torch.tensor([0.3, 0.3, 0.4])).requires_grad_()
    two = loss_at(logits.softmax(-1), TEACHER, START, objective, "mean")
    rewards, one = torch.log(logits.softmax(-1)) - torch.log(START), torch.zeros(())
    for y, sample in product(range(3), repeat=2):
        zero = torch.zeros(1), torch.zeros(1, 1)
        loss = irft_loss((rewards[y][None], rewards[sample][None, None]), zero, 1.0, objective)[0]
        one = one + TEACHER[y] * START[sample] * loss
    (of_two,), (of_one,) = (torch.autograd.grad(loss, logits, retain_graph=True) for loss in (two, one))
    torch.testing.assert_close(of_two, of_one)


@pytest.mark.parametrize("objective", ["logistic", "identity"])
def test_the_best_of_two_samples_keeps_a_policy_from_the_demonstrations_that_the_mean_leads_to(objective):
    near = START + 0.1 * (TEACHER - START)
    before, after = (
        {c: loss_at(at, TEACHER, START, objective, c).item() for c in ("mean", "best")} for at in (START, near)
    )
    assert after["mean"] < before["mean"]
    assert after["best"] > before["best"]
