"""The likelihood of demonstrations, against hand-computed values and a bootstrap."""

import math
import random
from statistics import fmean, stdev

import pytest

from juicer.evaluation.likelihood import likelihood_of, per_token_values


def test_nll_and_perplexity_are_those_of_two_demonstrations_by_hand() -> None:
    found = likelihood_of([2.0, 6.0], [2, 3])
    assert (found.nll, found.nll_sem) == (4.0, 2.0)
    assert found.per_token == pytest.approx(8 / 5)
    assert found.perplexity == pytest.approx(math.exp(8 / 5)), "a long demonstration counts more"
    assert found.perplexity_per_response == pytest.approx(math.exp((1 + 2) / 2)), "each counts the same"
    assert found.perplexity_per_response_sem == pytest.approx(math.exp(1.5) * 0.5)


def test_the_error_per_token_is_that_of_a_bootstrap_over_demonstrations() -> None:
    rng = random.Random(0)
    tokens = [rng.randint(3, 40) for _ in range(300)]
    nll = [count * rng.uniform(0.5, 1.5) + rng.gauss(0, 1) for count in tokens]
    draws = []
    for _ in range(400):
        rows = rng.choices(range(300), k=300)
        draws.append(sum(nll[row] for row in rows) / sum(tokens[row] for row in rows))
    found = likelihood_of(nll, tokens)
    assert found.per_token == pytest.approx(sum(nll) / sum(tokens))
    assert found.per_token_sem == pytest.approx(stdev(draws), rel=0.15)
    assert found.perplexity is not None and found.per_token_sem is not None
    assert found.perplexity_sem == pytest.approx(found.perplexity * found.per_token_sem)


def test_one_demonstration_has_a_likelihood_without_an_error() -> None:
    found = likelihood_of([3.0], [6])
    assert (found.nll, found.per_token, found.nll_sem, found.per_token_sem, found.perplexity_sem) == (
        3.0, 0.5, None, None, None,
    )  # fmt: skip


def test_a_perplexity_that_is_no_number_is_left_out() -> None:
    found = likelihood_of([2000.0, 1e6], [1, 1])
    assert (found.perplexity, found.perplexity_sem, found.perplexity_per_response) == (None, None, None)


def test_differences_per_token_of_two_models_are_linear_in_their_nll() -> None:
    tokens, one, other = [2, 5, 9], [1.0, 4.0, 6.0], [2.0, 3.0, 7.0]
    difference = [a - b for a, b in zip(per_token_values(one, tokens), per_token_values(other, tokens), strict=True)]
    together = per_token_values([a - b for a, b in zip(one, other, strict=True)], tokens)
    assert difference == pytest.approx(together)
    assert fmean(difference) == pytest.approx((11 - 12) / 16)
