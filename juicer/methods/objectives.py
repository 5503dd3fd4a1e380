"""The paper's objectives as pure functions of rewards and summed log-probabilities. x is a prompt, y a demonstration
(human response), y' a response sampled from the policy. Every tensor is (batch,) unless stated otherwise.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

Contrast = Literal["logistic", "identity"]


def implicit_reward(log_policy: Tensor, log_reference: Tensor, beta: float) -> Tensor:
    """r(x, y) = beta * [log pi(y|x) - log pi_ref(y|x)]: the reward for which the policy is optimal, up to log Z(x).

    Source: section 3 of the paper (closed form of the inner problem of (1)).
    """
    return beta * (log_policy - log_reference)


def contrastive_loss(demonstration_reward: Tensor, sample_reward: Tensor, h: Contrast) -> Tensor:
    """-h( r(x, y) - r(x, y') ), per pair.

    h = identity descends the gradient of equation (2), grad l = (1/beta) E[grad r(x, y) - grad r(x, y')], up to the
    factor beta; h = log sigmoid is the bounded form of Algorithms 1 and 2 (and SPIN's loss).
    """
    margin = demonstration_reward - sample_reward
    return -logsigmoid(margin) if h == "logistic" else -margin


def irft_loss(
    log_policy: tuple[Tensor, Tensor], log_reference: tuple[Tensor, Tensor], beta: float, h: Contrast
) -> Tensor:
    """Algorithm 2's loss per pair: -h( beta log pi/ref (y|x) - beta log pi/ref (y'|x) ).

    Args:
        log_policy: log pi(y|x) and log pi(y'|x), sums over response tokens.
        log_reference: the same under the reference policy.
    """
    demonstration = implicit_reward(log_policy[0], log_reference[0], beta)
    sample = implicit_reward(log_policy[1], log_reference[1], beta)
    return contrastive_loss(demonstration, sample, h)


def normalise(reward: Tensor, mean: float, standard_deviation: float) -> Tensor:
    """(r - mean) / sd: keeps rewards comparable between rounds, and with the KL term."""
    return (reward - mean) / max(standard_deviation, 1e-6)


def mean_and_deviation(rewards: Tensor) -> tuple[float, float]:
    """Mean and (population) standard deviation of rewards of any shape, for `normalise`."""
    wide = rewards.to(torch.float64)
    return float(wide.mean()), float(wide.std(correction=0))
