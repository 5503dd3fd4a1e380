"""How likely a model finds demonstrations: negative log-likelihood and perplexity, per token and per response.

It is the objective (1) of the paper on rows that no stage trained on, and needs nothing but demonstrations. It says how
well a model predicts what experts wrote, not how good its own responses are: SFT minimises exactly this.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from juicer.evaluation.significance import mean_and_error

HIGHEST = 700.0
"""The largest NLL per token whose perplexity is a floating-point number."""


class Likelihood(NamedTuple):
    """The likelihood of demonstrations. Errors are over demonstrations, and None below two."""

    nll: float
    """Mean of -log pi(y|x), in nats per response."""
    nll_sem: float | None
    per_token: float
    """-log pi of all demonstrations over the number of their tokens, in nats."""
    per_token_sem: float | None
    perplexity: float | None
    """exp(per_token): long demonstrations count more. None where it is too large to be a number."""
    perplexity_sem: float | None
    perplexity_per_response: float | None
    """exp of the mean over demonstrations of each one's NLL per token: each counts the same, however long it is."""
    perplexity_per_response_sem: float | None


def likelihood_of(nll: Sequence[float], tokens: Sequence[int]) -> Likelihood:
    """The likelihood of demonstrations.

    Args:
        nll: -log pi(y|x) of each, in nats; at least one.
        tokens: of each, end-of-text included.
    """
    mean, error = mean_and_error(nll)
    per_token, per_token_sem = mean_and_error(per_token_values(nll, tokens))
    by_response, by_response_sem = mean_and_error([each / count for each, count in zip(nll, tokens, strict=True)])
    assert mean is not None and per_token is not None and by_response is not None, "there is at least one"
    return Likelihood(
        mean,
        error,
        per_token,
        per_token_sem,
        *_perplexity(per_token, per_token_sem),
        *_perplexity(by_response, by_response_sem),
    )


def per_token_values(nll: Sequence[float], tokens: Sequence[int]) -> list[float]:
    """Values whose mean is sum(nll) / sum(tokens) and whose variance over prompts is that of this ratio (delta method).

    With the ratio r and the mean length t, they are r + (nll[p] - r tokens[p]) / t. They are linear in nll: as the
    lengths are those of the same demonstrations, this holds for differences between models too.
    """
    ratio, length = sum(nll) / sum(tokens), sum(tokens) / len(tokens)
    return [ratio + (each - ratio * count) / length for each, count in zip(nll, tokens, strict=True)]


def _perplexity(nll: float, error: float | None) -> tuple[float | None, float | None]:
    """exp(nll), and its error to first order."""
    if nll > HIGHEST:
        return None, None
    value = math.exp(nll)
    return value, None if error is None else value * error
