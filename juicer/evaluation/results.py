"""The files that evaluations write: one row per model, and tables of rows.

Writers (tasks.evaluate, tasks.tabulate) and readers (the report, the registry) share these models. Those of the public
benchmarks are in `juicer.evaluation.benchmark_results`.
"""

from typing import Generic, Literal, NamedTuple, Self, TypeVar

from pydantic import Field, JsonValue, model_validator

from juicer.evaluation.documents import Document
from juicer.settings.choice import Criterion


class Merits(NamedTuple):
    """The figures of validation prompts by which models are chosen; None where one was not measured."""

    reward_mean: float | None = None
    preference_accuracy: float | None = None
    demonstration_gap: float | None = None
    preference_gap: float | None = None
    demonstration_nll: float | None = None
    judged_win_rate: float | None = None
    """Against the control, by the pairwise judge; 1/2 of the control itself."""


class Tie(Document):
    """A criterion of a choice that left several models with its best value."""

    criterion: Criterion
    value: float
    """The best value; of the demonstration gap, the earliest model's."""
    best: int
    """Number of models that share it."""
    compared: int
    """Number of models that were compared by it."""


class Metrics(Document):
    """Metrics of one policy on one set of prompts; None where one cannot be computed."""

    prompts: int
    """Number of prompts evaluated."""
    reward_mean: float | None
    """Mean score of the policy's own sampled responses (the paper's Figure 2b)."""
    reward_sem: float | None
    """Its standard error; like all of them None below two values."""
    preference_accuracy: float | None
    """Share of held-out pairs with log pi(chosen|x) > log pi(rejected|x)."""
    preference_accuracy_per_token: float | None
    """The same with both log-probabilities divided by their number of tokens, because sums favour short responses."""
    preference_gap: float | None
    """Mean of log pi(chosen|x) - log pi(rejected|x), in nats (Figure 2a)."""
    preference_gap_sem: float | None
    """Its standard error."""
    implicit_preference_accuracy: float | None
    """Share of pairs with a higher implicit reward log pi/pi_sft for the chosen response; None for SFT itself."""
    demonstration_gap: float
    """Mean of log pi(y|x) - log pi(y'|x), in nats, for the demonstration y and the policy's own sample y'."""
    response_tokens: float
    """Mean length of a sampled response, end-of-text token included."""
    ended: float
    """Share of sampled responses that ended before the length limit."""
    kl_to_sft: float
    """KL(pi || pi_sft) per response, in nats, estimated on the policy's own samples."""
    distinct_2: float
    """Distinct token pairs over all token pairs of the samples: low when the policy has collapsed."""
    oracle_mean: float | None
    """Mean of the world's exact judgement; only in the quickstart world."""
    oracle_sem: float | None
    """Its standard error."""
    pairs: int
    """Number of prompts with a rejected response: the preference metrics are shares of these."""
    judge_mean: float | None = None
    """Mean score by the judge, a reward model that chose no demonstration; None without one."""
    judge_sem: float | None = None
    """Its standard error."""
    demonstration_nll: float | None = None
    """Mean of -log pi(y|x) of the demonstrations, per response, in nats."""
    demonstration_nll_sem: float | None = None
    """Its standard error."""
    demonstration_nll_per_token: float | None = None
    """-log pi of all demonstrations over the number of their tokens, in nats: its exponential is the perplexity."""
    demonstration_nll_per_token_sem: float | None = None
    """Its standard error."""
    perplexity: float | None = None
    """exp(demonstration_nll_per_token): long demonstrations count more. None where it is too large to be a number."""
    perplexity_sem: float | None = None
    """Its standard error."""
    perplexity_per_response: float | None = None
    """exp of the mean over demonstrations of each one's NLL per token: each counts the same, however long it is."""
    perplexity_per_response_sem: float | None = None
    """Its standard error."""
    demonstration_gap_sem: float | None = None
    """Standard error of demonstration_gap."""
    empty: float | None = None
    """Share of sampled responses without any text."""
    repeated: float | None = None
    """Share of sampled responses that repeat themselves (`juicer.evaluation.repetition`)."""

    @property
    def merits(self) -> Merits:
        """The metrics by which models are chosen."""
        return Merits(
            reward_mean=self.reward_mean,
            preference_accuracy=self.preference_accuracy,
            demonstration_gap=self.demonstration_gap,
            preference_gap=self.preference_gap,
            demonstration_nll=self.demonstration_nll,
        )

    def rounded(self) -> Self:
        """The same to 6 significant digits."""
        return self.model_copy(
            update={key: float(f"{value:.6g}") for key, value in self.numbers().items() if isinstance(value, float)}
        )


class Turn(Document):
    """One turn of a prompt."""

    role: Literal["system", "user", "assistant"]
    content: str


class ShownSample(Document):
    """A prompt and the model's response to it, as the report shows them."""

    prompt: str
    demonstration: str
    response: str
    score: float | None
    """None without a scorer."""
    oracle: float | None
    """None outside the quickstart world."""
    turns: list[Turn] | None = None
    """The prompt's turns; left out of evaluations of an earlier version."""
    ended: bool | None = None
    """Whether the response ended by itself; given only where one of the shown responses was cut."""

    @property
    def was_cut(self) -> bool:
        """Whether the response reached the length limit before it ended."""
        return self.ended is False


class Curve(Document):
    """One quantity logged during training."""

    step: list[int]
    value: list[float]

    @model_validator(mode="after")
    def _are_pairs(self) -> Self:
        if len(self.step) != len(self.value):
            raise ValueError(f"there are {len(self.step)} steps and {len(self.value)} values")
        return self


class Training(Document):
    """The training record of a model (training.json), as `juicer.training.record.TrainingRecord` writes it."""

    stage: str
    """Kind of stage, for example irft_train."""
    steps: int
    """Optimiser steps of this stage."""
    response_tokens: int
    """Response tokens that this stage trained on."""
    total_steps: int = 0
    """Optimiser steps since the SFT policy, earlier rounds included; 0 for SFT itself."""
    total_response_tokens: int = 0
    """Response tokens since the SFT policy, earlier rounds included; 0 for SFT itself."""
    curves: dict[str, Curve] = Field(default_factory=dict)
    """Per quantity."""
    facts: dict[str, JsonValue] = Field(default_factory=dict)
    """Single values worth keeping, for example K or the accuracy."""
    reward: "Training | None" = None
    """The record of the round's reward model, for a policy of RFT."""

    def number(self, fact: str) -> float | None:
        """A fact that is a number; None if there is none of this name."""
        value = self.facts.get(fact)
        return value if isinstance(value, float) else None

    def in_order(self) -> "list[Training]":
        """The records of a model in the order of training: the reward model's, if any, before the policy's."""
        return [self] if self.reward is None else [self.reward, self]


class Row(Document):
    """What every row about a model begins with."""

    name: str
    """For example irft-r1."""
    method: str
    """base, sft, sft-matched, irft or rft."""
    round: int
    """0 for a model that no round made."""
    path: str
    """Folder of the model."""


class PerPrompt(Document):
    """What was measured on each held-out prompt, in the order of the prompts: differences are paired over these."""

    id: list[str]
    """Of the prompt and its demonstration (`Demonstration.id`)."""
    demonstration_tokens: list[int]
    """Tokens of the demonstration, end-of-text included."""
    gap: list[float | None]
    """log pi(chosen|x) - log pi(rejected|x), in nats; None without a rejected response, like the next."""
    gap_per_token: list[float | None]
    """The same, each divided by its number of tokens."""
    kl: list[float]
    """log pi(y'|x) - log pi_sft(y'|x) of the sampled response, in nats; 0 for SFT itself."""
    response_tokens: list[int]
    """Tokens of the sampled response."""
    ended: list[bool]
    """Whether the sampled response ended before the length limit."""
    empty: list[bool]
    """Whether it has no text."""
    repeated: list[bool]
    """Whether it repeats itself."""
    response: list[str] = Field(default_factory=list)
    """The sampled response, which people and judges compare with another model's."""


class Instruments(Document):
    """How good the scorer and the judge are, on the held-out pairs, which neither was trained on."""

    pairs: int
    scorer_accuracy: float | None = None
    """Share of the pairs in which the scorer gives the chosen response more, ties half; None without a scorer."""
    judge_accuracy: float | None = None
    """The same of the judge."""
    agreement: float | None = None
    """Share of the pairs in which both prefer the same response; None unless there are both."""


class Pairwise(Document):
    """What the pairwise judge said of a model's responses to held-out prompts, against those of the control."""

    against: str
    """Name of the control."""
    judge: str
    prompts: int
    """Prompts with a verdict in both orders, and those to which both gave the same response."""
    win_rate: float | None
    """Mean over prompts of both orders, ties half; None without any."""
    win_rate_sem: float | None
    """Its standard error, over prompts; None below two."""
    consistent: float | None
    """Share of the prompts asked in which both orders have the same outcome; low if the judge prefers a place."""
    questions: int
    """Of held-out and validation prompts, like the next."""
    failed: int
    """Questions that remained without a verdict."""
    validation_win_rate: float | None = None
    """The same of the validation prompts, by which models may be chosen; None where they were not judged."""
    tokens: int = 0
    """Tokens that the judge read and wrote, on validation prompts too."""
    price: float = 0
    """What they cost, by pairwise.price_in and price_out."""


class Agreed(Document):
    """How often two opinions about a prompt were the same."""

    share: float
    of: int
    """Number of comparisons."""


class Voted(Document):
    """What people said of a model's responses to held-out prompts, against those of the control."""

    against: str
    """Name of the control."""
    votes: int
    """The last one of each person on each prompt, on the responses of this evaluation; skipped ones do not count."""
    prompts: int
    voters: int
    outdated: int
    """Votes on responses that the models no longer give: kept, and not counted."""
    win_rate: float | None
    """Mean over the prompts voted on, ties half; None without any."""
    win_rate_sem: float | None
    """Its standard error, over prompts."""
    agreement: Agreed | None
    """Between two people's votes on a prompt; None where nobody voted on the same."""
    with_judge: Agreed | None = None
    """Between votes and the judge, ties of either left out; None without a judge."""


class EvaluatedModel(Row):
    """evaluation/models/NAME.json: what tasks.evaluate measured of one model."""

    held_out: Metrics
    held_out_scores: list[float | None]
    """The scorer's score of each response; None without a scorer."""
    held_out_judged: list[float | None] = Field(default_factory=list)
    """The judge's score of each response; None without a judge."""
    held_out_nll: list[float] = Field(default_factory=list)
    """-log pi(y|x) of each demonstration, in nats."""
    held_out_tokens: list[int] = Field(default_factory=list)
    """Tokens of each demonstration, end-of-text included: only in tables of models, which leave out the next."""
    held_out_rows: PerPrompt | None = None
    """What else was measured on each prompt."""
    instruments: Instruments | None = None
    """Only in the evaluation of the base model: they do not depend on the model."""
    samples: list[ShownSample] = Field(default_factory=list)
    """The first of the held-out prompts and their responses."""
    validation: Metrics | None = None
    """None where there were no validation prompts."""
    validation_scores: list[float | None] = Field(default_factory=list)
    validation_nll: list[float] = Field(default_factory=list)
    """-log pi(y|x) of each demonstration of the validation prompts, in nats."""
    validation_rows: PerPrompt | None = None
    """As held_out_rows, of the validation prompts."""
    training: Training | None = None
    """None for a model that was not trained here."""
    pairwise: Pairwise | None = None
    """Only in tables, as the next: tasks.tabulate adds them."""
    voted: Voted | None = None


R = TypeVar("R", bound=Row)


class Table(Document, Generic[R]):
    """evaluation/tables/NAME.json or evaluation/leaderboard-tables/NAME.json: the rows of all models so far."""

    models: list[R]
