"""Objectives of SFT other than the negative log-likelihood, as pure functions of logits and summed log-probabilities.

x is a prompt, y a demonstration, y' a response sampled from the policy before the training (ref).
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def gem_loss(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """sum_v q(v) [log pi(v) - log pi(y_t)] per token, with q = softmax(logits / temperature) held constant.

    Its gradient by the logits is q - onehot(y_t), so q fits the data: at the optimum pi is proportional to
    p_data ** temperature, flatter than the data below 1. At temperature 1 the gradient is that of -log pi(y_t).

    Source: Li et al., Preserving Diversity in Supervised Fine-Tuning of Large Language Models (arXiv 2408.16673), GEM
    with the linear h.

    Args:
        logits: (tokens, vocabulary).
        targets: (tokens,) the demonstration's tokens y_t.

    Returns:
        (tokens,).
    """
    q = (logits.detach() / temperature).softmax(-1)
    # The normaliser of pi is the same for all tokens and cancels: log pi(v) - log pi(y_t) is a difference of logits.
    return (q * logits).sum(-1) - logits.gather(-1, targets[:, None])[:, 0]


def gem_and_likelihood(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """`gem_loss`, and log pi(y_t) without a gradient, for the record: (tokens, 2)."""
    likelihood = -cross_entropy(logits.detach(), targets, reduction="none")
    return torch.stack([gem_loss(logits, targets, temperature), likelihood], dim=-1)


def dft_log_ratios(log_policy: Tensor, log_reference: Tensor, temperature: float) -> Tensor:
    """d_j = log pi(y'_j|x) / tau - log ref(y'_j|x), of any shape. The mean of exp(d_j) estimates u(x).

    u(x) = E_{y' ~ ref}[ exp(log pi(y'|x) / tau) / ref(y'|x) ] = sum_y' pi(y'|x) ** (1 / tau), which is 1 at tau 1.

    Source: Guo et al., Discriminative Finetuning of Generative Large Language Models (arXiv 2502.18679).
    """
    return log_policy / temperature - log_reference


def dft_log_normaliser(log_ratios: Tensor, before: Tensor, moving_average: float) -> Tensor:
    """log u = log( gamma mean_j exp(d_j) + (1 - gamma) u_before ): the moving average of a demonstration's normaliser.

    Args:
        log_ratios: d_j, (rows, samples).
        before: log u before this step, (rows,).
        moving_average: gamma, above 0 and at most 1.

    Returns:
        (rows,).
    """
    newest = log_ratios.logsumexp(1) - math.log(log_ratios.shape[1]) + math.log(moving_average)
    # With gamma 1 nothing is left of the old one.
    return torch.logaddexp(newest, before + math.log1p(-moving_average)) if moving_average < 1 else newest


def dft_loss(demonstration: Tensor, samples: Tensor, log_ratios: Tensor, log_normaliser: Tensor) -> Tensor:
    """-log pi(y|x) + mean_j w_j log pi(y'_j|x), with w_j = exp(d_j - log u) held constant, per row.

    It has the gradient of -log pi(y|x) + tau log u(x): the demonstration is to be told from the reference's responses.
    At tau 1 the exact u is 1 and the second term has the gradient 0, so that the objective is the likelihood's. A
    weight is at most samples / gamma, because u contains the row's own estimate.

    Source: Guo et al. (arXiv 2502.18679), DFT with summed log-probabilities as scores.

    Args:
        demonstration: log pi(y|x), (rows,).
        samples: log pi(y'_j|x), (rows, samples).
        log_ratios: d_j, (rows, samples).
        log_normaliser: log u, (rows,).

    Returns:
        (rows,).
    """
    weights = (log_ratios - log_normaliser[:, None]).detach().exp()
    return -demonstration + (weights * samples).mean(1)
