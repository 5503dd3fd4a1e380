"""Whether a difference between two models is more than chance, and how large a difference a run could have shown.

All intervals are of 95%. A mean of n values lies within t(n - 1) standard errors, by Student's t. A few values do not
show how long the tails of their distribution are, so that t alone calls too many differences real. Intervals are
therefore lengthened twice: both sides by 4 / n, and, where the values are known, the side of their longer tail by
Johnson's correction for skewness. For shares, 4 / n is what Agresti and Coull's four added cases amount to. Below
FEWEST values there is no verdict. `bench/verdicts.py` shows how often equal models are called different.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

FEWEST = 10
"""With fewer values than this, there is no verdict: too few to tell."""
ADDED = 4
"""Cases that are added to a share, half of them successes; also what intervals are lengthened by: ADDED / n."""
UPPER, POWER = 0.975, 0.8

Verdict = Literal["better", "worse", "undecided", "too few"]


@dataclass(frozen=True)
class Difference:
    """A difference between two models and its 95% interval."""

    mean: float
    error: float
    """Standard error."""
    low: float
    high: float
    count: int
    """Number of prompts or pairs that it was measured on."""
    added: int = 0
    """Cases that the error counts besides them."""

    @property
    def verdict(self) -> Verdict:
        """The side of zero that the interval lies on."""
        if self.count < FEWEST:
            return "too few"
        # Values that are all equal do not show how far the next one may lie.
        if self.low <= 0 <= self.high or self.error == 0:
            return "undecided"
        return "better" if self.low > 0 else "worse"

    @property
    def detectable(self) -> float:
        """The smallest true difference that would be called better with a probability of 80%; infinite below two."""
        if self.count < 2:
            return math.inf
        return (half_width(self.count) + quantile(POWER, self.count - 1)) * self.error

    def needed(self, difference: float) -> int:
        """Number of prompts or pairs that a true difference would need to be called better in 80% of runs.

        Args:
            difference: larger than 0.
        """
        spread, count = self.error * math.sqrt(self.count + self.added), float(FEWEST)
        for _ in range(50):  # the number depends on the quantiles, which depend on the number
            around = max(FEWEST, math.ceil(count))
            count = ((half_width(around) + quantile(POWER, around - 1)) * spread / difference) ** 2 - self.added
            if math.ceil(count) == around:
                break
        return max(FEWEST, math.ceil(count))


def mean_and_error(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and standard error of the mean; (None, None) without values, no error for a single value."""
    if not values:
        return None, None
    mean = sum(values) / len(values)
    if len(values) == 1:
        return mean, None
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))


@lru_cache(maxsize=4096)
def quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t distribution with this many degrees of freedom (at least 1)."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))


def half_width(count: int, upper: float = UPPER) -> float:
    """Half of an interval's length, in standard errors, for a figure from `count` values; infinite below two.

    Args:
        upper: the probability below the interval's upper end; 0.975 for 95%.
    """
    return math.inf if count < 2 else quantile(upper, count - 1) * (1 + ADDED / count)


def skewness(values: Sequence[float]) -> float:
    """Third central moment over the standard deviation cubed; 0 if the values are all equal."""
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / len(values)
    if variance == 0:
        return 0.0
    return float(sum((value - mean) ** 3 for value in values) / len(values) / variance**1.5)


def interval(values: Sequence[float], mean: float, error: float, upper: float = UPPER) -> tuple[float, float]:
    """The interval of a mean.

    Args:
        values: what it is the mean of, at least two.
        mean: their mean.
        error: its standard error.
        upper: the probability below the interval's upper end; 0.975 for 95%.
    """
    count = len(values)
    width = half_width(count, upper)
    # Johnson (1978). The mean of skewed values tends to the side away from their long tail.
    shift = skewness(values) * (1 + 2 * width**2) / (6 * math.sqrt(count))
    return mean - error * (width + max(0.0, -shift)), mean + error * (width + max(0.0, shift))


def share_error(share: float, count: float) -> float:
    """Standard error of a share of `count` cases by Agresti and Coull: two more cases each way, so never 0."""
    adjusted = (share * count + ADDED / 2) / (count + ADDED)
    return math.sqrt(adjusted * (1 - adjusted) / (count + ADDED))


def win_rate_error(values: Sequence[float]) -> float:
    """Standard error of a win rate: the mean of values from 0 to 1, where a tie is 1/2.

    At least the error with two more wins and two more losses, as in `share_error`, so never 0: that a few people agree
    does not say that everybody would.
    """
    added = [*values, *[0.0, 1.0] * (ADDED // 2)]
    mean = sum(added) / len(added)
    with_added = math.sqrt(sum((value - mean) ** 2 for value in added)) / len(added)
    return max(with_added, mean_and_error(values)[1] or 0.0)


def win_rate_difference(rate: float, error: float, count: int) -> Difference:
    """How far a win rate is above 1/2, that of an equal model.

    Args:
        rate: mean over prompts, ties half.
        error: its standard error, as `win_rate_error` has it.
        count: number of prompts.
    """
    width = half_width(count) * error
    return Difference(rate - 0.5, error, rate - 0.5 - width, rate - 0.5 + width, count, ADDED)


def share_difference(share: float, other: float, count: int) -> Difference:
    """The difference of two models' shares of the same cases.

    The two are treated as independent: a table of shares does not say in which cases both are right. On the same cases
    the true error is rarely larger.
    """
    error = math.hypot(share_error(share, count), share_error(other, count))
    mean, width = share - other, half_width(count) * error
    return Difference(mean, error, mean - width, mean + width, count, ADDED)
