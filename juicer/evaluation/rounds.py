"""Whether a round improves on the one before, on validation prompts: what decides over the rounds of `rounds: auto`.

Held-out prompts play no part. A round that does not improve beyond noise is the last one that is tried.
"""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Literal

from juicer.evaluation.documents import Document
from juicer.evaluation.results import EvaluatedModel
from juicer.evaluation.significance import Difference, interval, share_difference
from juicer.runtime.errors import InputError
from juicer.settings.auto import RoundCriterion

Ending = Literal["discarded", "kept", "limit", "open"]


class RoundComparison(Document):
    """One round against the one before, the first against SFT. All is measured on validation prompts."""

    method: str
    """irft or rft."""
    round: int
    before: str
    """Name of the model before, for example rft-r1."""
    criterion: RoundCriterion
    """The mean score of the model's own responses, the preference accuracy, or the mean log-likelihood of the
    demonstrations in nats per response."""
    value: float
    value_before: float
    difference: float
    low: float | None
    """Lower end of its 95% interval (`juicer.evaluation.significance`); None below two prompts."""
    high: float | None
    count: int
    """Prompts, or pairs, that it was measured on."""
    improved: bool
    """Whether the interval lies above 0, with enough prompts to tell."""
    most: int
    """Largest number of rounds that are tried."""
    kl_to_sft: float
    """KL(pi || pi_sft) per response, in nats."""
    demonstrations_preferred: float | None = None
    """What the record of RFT's reward says of the round; left out of the file where it does not, like the next."""
    demonstrations_preferred_before: float | None = None
    agreement: float | None = None
    drift: float | None = None

    @property
    def measure(self) -> str:
        """The criterion in words."""
        return {
            "score": "mean score",
            "preferences": "preference accuracy",
            "likelihood": "mean log-likelihood of the demonstrations",
        }[self.criterion]

    @property
    def cases(self) -> str:
        """What it was measured on."""
        return "pairs" if self.criterion == "preferences" else "prompts"

    @property
    def ending(self) -> Ending:
        """What follows if this is the method's last comparison: the round is discarded; kept, because a method keeps
        one; the last that is allowed; or no end."""
        if not self.improved:
            return "kept" if self.round == 1 else "discarded"
        return "limit" if self.round >= self.most else "open"


class RoundComparisons(Document):
    """evaluation/rounds/NAME.json: the comparisons of all rounds so far, in order."""

    rounds: list[RoundComparison]

    def of(self, method: str) -> list[RoundComparison]:
        """The comparisons of one method."""
        return [each for each in self.rounds if each.method == method]


FACTS = ("demonstrations_preferred", "demonstrations_preferred_before", "agreement", "drift")
"""Of the record of RFT's reward, as far as it has them."""


def compare_round(
    model: EvaluatedModel, before: EvaluatedModel, criterion: RoundCriterion, most: int
) -> RoundComparison:
    """Compare a round with the one before.

    Raises:
        InputError: there is nothing to compare by; says what.
    """
    value, value_before, found = _compared(model, before, criterion)
    if model.validation is None:
        raise _missing(model, "validation prompts", "raise curate.validation_share")
    training = model.training.in_order() if model.training else []
    facts = {key: each.number(key) for each in training for key in FACTS if each.number(key) is not None}
    return RoundComparison(
        method=model.method,
        round=model.round,
        before=before.name,
        criterion=criterion,
        value=value,
        value_before=value_before,
        difference=_rounded(found.mean),
        low=_rounded(found.low) if math.isfinite(found.low) else None,
        high=_rounded(found.high) if math.isfinite(found.high) else None,
        count=found.count,
        improved=found.verdict == "better",
        most=most,
        kl_to_sft=model.validation.kl_to_sft,
        **facts,
    )


def score_difference(scores: Sequence[float | None], others: Sequence[float | None]) -> Difference | None:
    """The mean difference of two models' scores, paired over the prompts; None if none has both scores."""
    values = [
        mine - other for mine, other in zip(scores, others, strict=True) if mine is not None and other is not None
    ]
    if not values:
        return None
    count, mean = len(values), sum(values) / len(values)
    if count == 1:
        return Difference(mean, math.inf, -math.inf, math.inf, count)
    error = math.sqrt(sum((each - mean) ** 2 for each in values) / (count - 1) / count)
    return Difference(mean, error, *interval(values, mean, error), count)


def _compared(
    model: EvaluatedModel, before: EvaluatedModel, criterion: RoundCriterion
) -> tuple[float, float, Difference]:
    """The criterion of both models, and the difference."""
    mine, other = model.validation, before.validation
    if mine is None or other is None:
        raise _missing(model if mine is None else before, "validation prompts", "raise curate.validation_share")
    number = f"{model.method}.rounds to a number"
    if criterion == "preferences":
        if mine.preference_accuracy is None or other.preference_accuracy is None or not mine.pairs:
            raise _missing(model, "rejected responses of validation prompts", f"add a scorer, or set {number}")
        shares = mine.preference_accuracy, other.preference_accuracy
        return (*shares, share_difference(*shares, mine.pairs))
    if criterion == "likelihood":
        likelihoods, likelihoods_before = ([-nll for nll in each.validation_nll] for each in (model, before))
        found = _paired(model, before, likelihoods, likelihoods_before)
        if found is None:
            raise _missing(model, "log-likelihoods of validation demonstrations", "evaluate it anew: dvc repro")
        return _rounded(fmean(likelihoods)), _rounded(fmean(likelihoods_before)), found
    found = _paired(model, before, model.validation_scores, before.validation_scores)
    if found is None or mine.reward_mean is None or other.reward_mean is None:
        raise _missing(model, "scores of validation prompts", f"add a scorer, or set {number}")
    return mine.reward_mean, other.reward_mean, found


def _paired(
    model: EvaluatedModel, before: EvaluatedModel, values: Sequence[float | None], others: Sequence[float | None]
) -> Difference | None:
    """The difference over the same prompts; None if there are no values."""
    if len(values) != len(others):
        what = f"{model.name} and {before.name} were evaluated on different validation prompts"
        raise InputError(what, do="evaluate all models with the same recipe: dvc repro")
    return score_difference(values, others)


def _missing(model: EvaluatedModel, what: str, do: str) -> InputError:
    return InputError(f"there are no {what} to decide by whether another round is tried", where=model.name, do=do)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
