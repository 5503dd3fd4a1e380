"""evaluation/pairwise/NAME.json: what the judge said of a model's responses against the control's."""

from typing import Literal

from juicer.evaluation.documents import Document
from juicer.evaluation.results import Pairwise

Outcome = Literal["win", "loss", "tie"]


class JudgedPair(Document):
    """One prompt."""

    id: str
    """Of the prompt and its demonstration."""
    first: Outcome | None
    """Of the model, when its response stood first; None without a verdict."""
    second: Outcome | None
    """When it stood second."""
    response: str = ""
    """Digest of the model's response (`juicer.judging.question.response_digest`), and of the control's."""
    other: str = ""

    @property
    def value(self) -> float | None:
        """What the prompt counts for the model, in [0, 1]: the mean of both orders; None unless both have a verdict."""
        if self.first is None or self.second is None:
            return None
        return (_VALUES[self.first] + _VALUES[self.second]) / 2


_VALUES: dict[Outcome, float] = {"win": 1.0, "tie": 0.5, "loss": 0.0}


class PairwiseRecord(Document):
    """The whole of the file."""

    model: str
    against: str
    judge: str
    rubric: str
    """SHA-256 of the rubric's text."""
    prompts: int
    """Prompts with a verdict in both orders."""
    same: int
    """Prompts to which both gave the same response: ties, which the judge is not asked about."""
    win_rate: float | None
    """Mean over prompts, ties half, prompts with the same response among them; None without any."""
    win_rate_sem: float | None
    """Its standard error, over prompts; None below two."""
    consistent: float | None
    """Share of the prompts asked in which both orders have the same outcome; low if the judge prefers a place."""
    first_place: float | None
    """Share of the verdicts other than ties that are for the response which stood first; 1/2 without a preference."""
    questions: int
    """Questions asked: two for each prompt, without those that are the same."""
    failed: int
    """Questions that remained without a verdict."""
    asked_again: int
    """Times that a question had to be repeated."""
    tokens_in: int
    tokens_out: int
    """Tokens that the judge read and wrote, those of answers from the cache among them."""
    price: float
    """What they cost, by pairwise.price_in and price_out."""
    pairs: list[JudgedPair]
    validation: "PairwiseRecord | None" = None
    """The same of the validation prompts; None where they were not judged."""

    def summary(self) -> Pairwise:
        """What the table of models says of it."""
        parts = [self] if self.validation is None else [self, self.validation]
        return Pairwise(
            against=self.against,
            judge=self.judge,
            prompts=self.prompts,
            win_rate=self.win_rate,
            win_rate_sem=self.win_rate_sem,
            consistent=self.consistent,
            questions=sum(each.questions for each in parts),
            failed=sum(each.failed for each in parts),
            validation_win_rate=self.validation.win_rate if self.validation is not None else None,
            tokens=sum(each.tokens_in + each.tokens_out for each in parts),
            price=round(sum(each.price for each in parts), 6),
        )
