"""metrics/summary.json and metrics/metrics.json as typed models: the report writes them, the registry reads them."""

from typing import Literal

from pydantic import Field

from juicer.evaluation.documents import Document, Number
from juicer.evaluation.results import Agreed, Instruments, Merits, Row, Tie
from juicer.evaluation.rounds import RoundComparison
from juicer.settings.choice import CRITERIA, Criterion


def win_rate_key(kind: Literal["voted", "judged"], control: str) -> str:
    """Name of the win rate against a control, by people's votes or by the pairwise judge."""
    return f"{kind}_win_rate" if control == "sft-matched" else f"{kind}_win_rate_vs_{control}"


class SummaryRow(Row):
    """One model of the summary. A metric is None where it cannot be computed; all are held-out unless named otherwise.

    What the metrics mean is said at `juicer.evaluation.results.Metrics`, in the words of the page at
    `juicer.reporting.numbers.COLUMNS`.
    """

    reward_mean: float | None = None
    reward_sem: float | None = None
    win_rate_vs_sft: float | None = None
    judge_mean: float | None = None
    judge_sem: float | None = None
    judge_win_rate: float | None = None
    """Share of held-out prompts on which the judge prefers the response to the control's, ties half."""
    judged_win_rate: float | None = None
    """Share of held-out prompts on which the pairwise judge prefers the response to that of sft-matched, ties half.
    Left out of the file where it was not asked, like all of these."""
    judged_win_rate_sem: float | None = None
    judged_win_rate_prompts: int | None = None
    judged_win_rate_vs_sft: float | None = None
    """The same against sft, where the recipe makes no sft-matched."""
    judged_win_rate_vs_sft_sem: float | None = None
    judged_win_rate_vs_sft_prompts: int | None = None
    voted_win_rate: float | None = None
    """Share of the held-out prompts voted on by people on which they prefer the response to that of sft-matched, ties
    half. Left out of the file without votes, like all of these."""
    voted_win_rate_sem: float | None = None
    voted_win_rate_prompts: int | None = None
    voted_win_rate_votes: int | None = None
    voted_win_rate_voters: int | None = None
    """Number of people."""
    voted_win_rate_vs_sft: float | None = None
    """The same against sft, where the recipe makes no sft-matched."""
    voted_win_rate_vs_sft_sem: float | None = None
    voted_win_rate_vs_sft_prompts: int | None = None
    voted_win_rate_vs_sft_votes: int | None = None
    voted_win_rate_vs_sft_voters: int | None = None
    preference_accuracy: float | None = None
    preference_accuracy_per_token: float | None = None
    preference_gap: float | None = None
    demonstration_nll: float | None = None
    demonstration_nll_sem: float | None = None
    demonstration_nll_per_token: float | None = None
    demonstration_nll_per_token_sem: float | None = None
    perplexity: float | None = None
    perplexity_sem: float | None = None
    perplexity_per_response: float | None = None
    perplexity_per_response_sem: float | None = None
    demonstration_gap: float | None = None
    demonstration_gap_sem: float | None = None
    response_tokens: float | None = None
    ended: float | None = None
    empty: float | None = None
    repeated: float | None = None
    kl_to_sft: float | None = None
    distinct_2: float | None = None
    oracle_mean: float | None = None
    """Left out of the file outside the quickstart world, like the next."""
    oracle_sem: float | None = None
    preference_gap_sem: float | None = None
    implicit_preference_accuracy: float | None = None
    reward_difference: float | None = None
    """Mean over prompts of the difference in score to the control."""
    reward_difference_sem: float | None = None
    """Its standard error; None below two prompts, like its interval."""
    reward_difference_low: float | None = None
    """Lower end of its 95% interval (`juicer.evaluation.significance`)."""
    reward_difference_high: float | None = None
    judge_difference: float | None = None
    """The same four by the judge's score; left out of the file without a judge."""
    judge_difference_sem: float | None = None
    judge_difference_low: float | None = None
    judge_difference_high: float | None = None
    nll_difference: float | None = None
    """The same four of the demonstrations' -log pi(y|x), in nats per response: below 0 is better."""
    nll_difference_sem: float | None = None
    nll_difference_low: float | None = None
    nll_difference_high: float | None = None
    nll_per_token_difference: float | None = None
    """The same four in nats per token of the demonstrations."""
    nll_per_token_difference_sem: float | None = None
    nll_per_token_difference_low: float | None = None
    nll_per_token_difference_high: float | None = None
    nll_difference_vs_sft: float | None = None
    """The same eight to sft; left out of the file where sft itself is the control."""
    nll_difference_vs_sft_sem: float | None = None
    nll_difference_vs_sft_low: float | None = None
    nll_difference_vs_sft_high: float | None = None
    nll_per_token_difference_vs_sft: float | None = None
    nll_per_token_difference_vs_sft_sem: float | None = None
    nll_per_token_difference_vs_sft_low: float | None = None
    nll_per_token_difference_vs_sft_high: float | None = None
    validation_reward_mean: float | None = None
    validation_preference_accuracy: float | None = None
    validation_demonstration_gap: float | None = None
    validation_preference_gap: float | None = None
    """Left out of the file where it was not measured, like all that follow of the validation prompts."""
    validation_demonstration_nll: float | None = None
    """Per response, in nats."""
    validation_demonstration_nll_sem: float | None = None
    validation_demonstration_nll_per_token: float | None = None
    validation_demonstration_nll_per_token_sem: float | None = None
    validation_perplexity: float | None = None
    validation_judged_win_rate: float | None = None
    """Share of validation prompts on which the pairwise judge prefers the response to the control's, ties half."""
    prompts: int | None = None
    """Number of held-out prompts."""
    pairs: int | None = None
    """Number of them that have a rejected response."""
    steps: int | None = None
    """Optimiser steps since SFT (for SFT: since base)."""
    reward_training_accuracy: float | None = None
    """Share of its training pairs that RFT's reward model ranks correctly."""
    response_tokens_trained: int | None = None
    """Response tokens trained on since SFT (for SFT: since base)."""

    @property
    def validation_merits(self) -> Merits:
        """The figures by which models are chosen."""
        return Merits(**{key: getattr(self, f"validation_{key}") for key in Merits._fields})

    def metric(self, key: str) -> float | None:
        """The metric of the name `key`: for tables, whose columns are named by keys."""
        value: float | None = getattr(self, key)
        return value


class Champion(Document):
    """The model chosen on validation prompts, and by which metric."""

    name: str
    selected_on: Literal["validation"] = "validation"
    criterion: Criterion | None = None
    """None where there are no validation prompts, so that nothing was chosen."""
    validation_reward_mean: float | None = None
    """The champion's value of the criterion, under the criterion's name."""
    validation_preference_accuracy: float | None = None
    validation_demonstration_gap: float | None = None
    validation_preference_gap: float | None = None
    validation_demonstration_nll: float | None = None
    validation_judged_win_rate: float | None = None
    ties: list[Tie] = Field(default_factory=list)
    """The criteria before it, of which several models shared the best value; left out of the file without any."""
    settled: bool = True
    """Whether a criterion left one model. If not, the champion is the earliest of those that share every best value,
    and the criterion is the first of the ties. Left out of the file where one did."""

    @property
    def value(self) -> float | None:
        """The champion's value of the criterion."""
        value: float | None = None if self.criterion is None else getattr(self, f"validation_{self.criterion}")
        return value


class PaperScores(Document):
    """One row of the paper's table, in per cent."""

    name: str
    arc: float
    truthfulqa: float
    winogrande: float
    gsm8k: float
    hellaswag: float
    mmlu: float
    average: float


class LeaderboardRow(Document):
    """One model of the leaderboard, in per cent."""

    name: str
    method: str
    round: int
    arc: float
    truthfulqa: float
    winogrande: float
    gsm8k: float
    hellaswag: float
    mmlu: float
    average: float
    errors: dict[str, float | None]
    """Standard error per benchmark; None where it is unknown."""
    paper: PaperScores | None
    """The paper's row for the same model; None where the paper has none."""


class Matters(Document):
    """Differences that are worth knowing of: where a run could not have shown them, it cannot tell."""

    score: float | None
    """In mean score; None where the control has fewer than two scores."""
    share: float
    """In preference accuracy."""
    judge: float | None = None
    """In the judge's mean score; left out of the file without a judge."""


class LeaderboardSummary(Document):
    """The public benchmarks, and how they were measured."""

    fewshot: dict[str, int]
    """Solved examples before each question, per benchmark."""
    metric: dict[str, str]
    """Metric and filter of lm-eval, per benchmark."""
    limit: int | None
    """Most questions per task; None for all."""
    models: list[LeaderboardRow]


class Judging(Document):
    """Who compared the responses of two models, and how far that can be trusted."""

    judge: str
    questions: int
    failed: int
    """Questions that remained without a verdict."""
    consistent: float | None
    """Share of the held-out prompts asked in which both orders have the same outcome, over all models."""
    tokens: int
    price: float


class Voting(Document):
    """People's votes on the models of a table against the control."""

    votes: int
    agreement: Agreed | None
    """Between two people's votes on a prompt, over all models."""
    with_judge: Agreed | None
    """The same between votes and a judge."""
    outdated: int
    """Votes on responses that the models no longer give; they do not count."""


class Summary(Document):
    """metrics/summary.json."""

    recipe: str
    """Name of the recipe."""
    seed: int
    control: str
    """Name of the model that differences are taken to: sft-matched, or sft where the recipe makes no control."""
    models: list[SummaryRow]
    champion: Champion
    criteria: list[Criterion] = Field(default_factory=lambda: list(CRITERIA))
    """What models are chosen by, in this order."""
    instruments: Instruments | None = None
    """How good scorer and judge are on held-out pairs; left out of the file where they were not measured."""
    judging: Judging | None = None
    """Left out of the file without a pairwise judge."""
    voting: Voting | None = None
    """Left out of the file without votes."""
    matters: Matters | None = None
    """None in the summary of an earlier version, whose differences are compared with none."""
    leaderboard: LeaderboardSummary | None = None
    """Left out of the file where the benchmarks were not run."""
    rounds: list[RoundComparison] | None = None
    """Of the methods on `rounds: auto`, each round against the one before; left out of the file without such."""

    def model(self, name: str) -> SummaryRow:
        """The model of this name.

        Raises:
            KeyError: there is none.
        """
        return {model.name: model for model in self.models}[name]


class DvcMetrics(Document):
    """metrics/metrics.json: the numbers of the summary as nested mappings, which `dvc metrics` can show and compare."""

    champion: str
    models: dict[str, dict[str, Number]] = Field(default_factory=dict)
    leaderboard: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Left out of the file where the benchmarks were not run."""
