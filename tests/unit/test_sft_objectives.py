"""GEM and DFT by hand: values, gradients, and the bounds that their docstrings promise."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from juicer.methods.sft_objectives import (
    dft_log_normaliser,
    dft_log_ratios,
    dft_loss,
    gem_and_likelihood,
    gem_loss,
)

TARGETS = torch.tensor([0, 2])


def logits():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, generator=generator, dtype=torch.float64).requires_grad_()


def test_gem_is_the_mean_advantage_of_the_tempered_policy_over_the_demonstration():
    # pi = (1/2, 1/4, 1/4), and q at temperature 1/2 is proportional to its squares: (4, 1, 1) / 6.
    given = torch.tensor([[0.5, 0.25, 0.25]]).log()
    expected = 4 / 6 * math.log(0.5 / 0.25) + 2 / 6 * math.log(0.25 / 0.25)
    assert gem_loss(given, torch.tensor([1]), 0.5).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
def test_the_gradient_of_gem_is_the_tempered_policy_less_the_demonstration(temperature):
    given = logits()
    (gradient,) = torch.autograd.grad(gem_loss(given, TARGETS, temperature).sum(), given)
    q = (given.detach() / temperature).softmax(1)
    torch.testing.assert_close(gradient, q - torch.eye(3, dtype=torch.float64)[TARGETS])


def test_gem_at_temperature_1_has_the_gradient_of_the_likelihood():
    given = logits()
    (gem,) = torch.autograd.grad(gem_loss(given, TARGETS, 1.0).sum(), given)
    (likelihood,) = torch.autograd.grad(cross_entropy(given, TARGETS, reduction="sum"), given)
    torch.testing.assert_close(gem, likelihood)


def test_the_likelihood_beside_gem_has_no_gradient():
    given = logits()
    both = gem_and_likelihood(given, TARGETS, 0.7)
    torch.testing.assert_close(both[:, 0], gem_loss(given, TARGETS, 0.7))
    torch.testing.assert_close(both[:, 1], -cross_entropy(given, TARGETS, reduction="none"))
    (gradient,) = torch.autograd.grad(both[:, 1].sum() + 0 * given.sum(), given)
    assert not gradient.any()


def test_ratios_divide_the_policy_by_the_temperature_and_not_the_reference():
    found = dft_log_ratios(torch.tensor([-6.0]), torch.tensor([-2.0]), 2.0)
    assert found.tolist() == [-1.0]


def test_the_normaliser_is_the_moving_average_of_the_mean_ratio():
    ratios = torch.tensor([[1.0, 3.0], [2.0, 2.0]]).log()
    before = torch.tensor([1.0, 5.0]).log()
    found = dft_log_normaliser(ratios, before, 0.75).exp()
    torch.testing.assert_close(found, torch.tensor([0.75 * 2 + 0.25 * 1, 0.75 * 2 + 0.25 * 5]))
    torch.testing.assert_close(dft_log_normaliser(ratios, before, 1.0).exp(), torch.tensor([2.0, 2.0]))


def test_normalisers_of_long_responses_do_not_overflow():
    ratios = torch.tensor([[800.0, -900.0]])
    found = dft_log_normaliser(ratios, torch.zeros(1), 0.85)
    assert found.item() == pytest.approx(800 - math.log(2) + math.log(0.85), rel=1e-6)
    loss = dft_loss(torch.zeros(1), torch.tensor([[-1.0, -1.0]]), ratios, found)
    # The largest weight is samples / gamma.
    assert loss.item() == pytest.approx(-1 / 2 * 2 / 0.85, rel=1e-4)


def test_dft_raises_the_demonstration_and_lowers_samples_by_their_weights():
    y, samples = torch.tensor([-3.0], requires_grad=True), torch.tensor([[-2.0, -4.0]], requires_grad=True)
    ratios, log_u = torch.tensor([[1.0, 3.0]]).log(), torch.tensor([2.0]).log()
    loss = dft_loss(y, samples, ratios, log_u)
    assert loss.item() == pytest.approx(3 + (0.5 * -2 + 1.5 * -4) / 2)
    for_y, for_samples = torch.autograd.grad(loss.sum(), (y, samples))
    assert for_y.tolist() == [-1.0]
    torch.testing.assert_close(for_samples, torch.tensor([[0.25, 0.75]]))


def test_weights_have_no_gradient():
    samples = torch.tensor([[-2.0, -4.0]], requires_grad=True)
    ratios = dft_log_ratios(samples, torch.tensor([[-2.0, -4.0]]), 1.0)
    (gradient,) = torch.autograd.grad(dft_loss(torch.zeros(1), samples, ratios, torch.zeros(1)).sum(), samples)
    torch.testing.assert_close(gradient, torch.tensor([[0.5, 0.5]]))
