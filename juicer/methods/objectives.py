"""The objectives as pure functions of rewards and summed log-probabilities. x is a prompt, y a demonstration (human
response), y' a response sampled from the policy. Every tensor is (batch,) unless stated otherwise.

r stands for the reward beta * log(pi / pi_ref). Every objective of IRFT takes r(x, y) and r(x, y') and has, where both
are zero, a positive multiple of equation (2) as its gradient. They differ in what they do with rewards that are not.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from juicer.settings.irft import Contrast, Objective

H = Literal["logistic", "identity"]


def implicit_reward(log_policy: Tensor, log_reference: Tensor, beta: float) -> Tensor:
    """r(x, y) = beta * [log pi(y|x) - log pi_ref(y|x)]: the reward for which the policy is optimal, up to log Z(x).

    Source: section 3 of the paper (closed form of the inner problem of (1)).
    """
    return beta * (log_policy - log_reference)


def contrastive_loss(demonstration_reward: Tensor, sample_reward: Tensor, h: H) -> Tensor:
    """-h( r(x, y) - r(x, y') ), per pair.

    h = identity descends the gradient of equation (2), grad l = (1/beta) E[grad r(x, y) - grad r(x, y')], up to the
    factor beta; h = log sigmoid is the bounded form of Algorithms 1 and 2 (and SPIN's loss).
    """
    margin = demonstration_reward - sample_reward
    return -logsigmoid(margin) if h == "logistic" else -margin


def logistic(r_y: Tensor, r_y_prime: Tensor) -> Tensor:
    """-log sigmoid( r(x, y) - r(x, y') ). Source: Algorithm 2 of the paper; SPIN (arXiv 2401.01335), equation 4.7."""
    return contrastive_loss(r_y, r_y_prime, "logistic")


def identity(r_y: Tensor, r_y_prime: Tensor) -> Tensor:
    """-( r(x, y) - r(x, y') ). Source: equation (2) of the paper."""
    return contrastive_loss(r_y, r_y_prime, "identity")


def space(r_y: Tensor, r_y_prime: Tensor, mu: float = 1.0) -> Tensor:
    """-log s(r(x, y)) - mu log(1 - s(r(x, y'))), s(z) = 1 / (1 + mu exp(-z)): noise-contrastive estimation.

    Rewards are absolute: s(r) is the probability that a response is a demonstration, where there are mu samples to one.
    Source: SPACE (arXiv 2512.07175).

    Args:
        mu: samples per demonstration, whose mean the second term is.
    """
    shift = torch.tensor(mu, dtype=r_y.dtype, device=r_y.device).log()
    return softplus(shift - r_y) + mu * softplus(r_y_prime - shift)


def bernoulli(r_y: Tensor, r_y_prime: Tensor) -> Tensor:
    """softplus(-r(x, y)) + softplus(r(x, y')). Source: GSIL (arXiv 2410.10093); SPACE with mu = 1."""
    return softplus(-r_y) + softplus(r_y_prime)


def brier(r_y: Tensor, r_y_prime: Tensor) -> Tensor:
    """(sigmoid(r(x, y)) - 1)^2 + sigmoid(r(x, y'))^2. Source: GSIL (arXiv 2410.10093)."""
    return (r_y.sigmoid() - 1) ** 2 + r_y_prime.sigmoid() ** 2


def hinge(r_y: Tensor, r_y_prime: Tensor) -> Tensor:
    """max(0, 1 - r(x, y)) + max(0, 1 + r(x, y')). Source: GSIL (arXiv 2410.10093)."""
    return (1 - r_y).relu() + (1 + r_y_prime).relu()


def kliep(r_y: Tensor, r_y_prime: Tensor) -> Tensor:
    """-r(x, y) + exp r(x, y'), the Kullback-Leibler importance estimation. Source: GSIL (arXiv 2410.10093)."""
    return -r_y + r_y_prime.exp()


def lsif(r_y: Tensor, r_y_prime: Tensor) -> Tensor:
    """-exp r(x, y) + exp(2 r(x, y')) / 2, least-squares importance fitting. Source: GSIL (arXiv 2410.10093)."""
    return -r_y.exp() + (2 * r_y_prime).exp() / 2


def spif(r_y: Tensor, r_y_prime: Tensor) -> Tensor:
    """-r(x, y) + r(x, y') + ( r(x, y)^2 + r(x, y')^2 ) / 2: the chi-squared variational form, a bounded reward.

    Its optimum at a response is r = (p_E - p) / (p_E + p), within (-1, 1), where p_E and p are the probabilities of
    demonstrations and samples. Source: the idea of SPIF (arXiv 2602.01357) in the form of LS-IQ (arXiv 2303.00599);
    SPIF's own constants were not available.
    """
    return -r_y + r_y_prime + (r_y**2 + r_y_prime**2) / 2


OBJECTIVES: dict[Objective, Callable[[Tensor, Tensor], Tensor]] = {
    "logistic": logistic,
    "identity": identity,
    "space": space,
    "bernoulli": bernoulli,
    "brier": brier,
    "hinge": hinge,
    "kliep": kliep,
    "lsif": lsif,
    "spif": spif,
}
"""The objectives of IRFT, by name."""


def irft_loss(
    log_policy: tuple[Tensor, Tensor],
    log_reference: tuple[Tensor, Tensor],
    beta: float,
    objective: Objective,
    contrast: Contrast = "mean",
) -> Tensor:
    """Algorithm 2's loss per demonstration, with r = beta log pi/ref: -h( r(x, y) - r(x, y') ), or another objective.

    Args:
        log_policy: log pi(y|x), (batch,), and log pi(y'|x) of n samples of each, (batch, n); sums over response tokens.
        log_reference: the same under the reference policy.
        contrast: `mean` is the mean loss over the samples; `best` takes the one with the highest reward only.

    Returns:
        (batch,).
    """
    r_y = implicit_reward(log_policy[0], log_reference[0], beta)
    r_y_prime = implicit_reward(log_policy[1], log_reference[1], beta)
    if contrast == "best":
        r_y_prime = r_y_prime.max(-1, keepdim=True).values
    loss = partial(space, mu=r_y_prime.shape[-1]) if objective == "space" else OBJECTIVES[objective]
    return loss(r_y[..., None], r_y_prime).mean(-1)


def normalise(reward: Tensor, mean: float, standard_deviation: float) -> Tensor:
    """(r - mean) / sd: keeps rewards comparable between rounds, and with the KL term."""
    return (reward - mean) / max(standard_deviation, 1e-6)


def mean_and_deviation(rewards: Tensor) -> tuple[float, float]:
    """Mean and (population) standard deviation of rewards of any shape, for `normalise`."""
    wide = rewards.to(torch.float64)
    return float(wide.mean()), float(wide.std(correction=0))
