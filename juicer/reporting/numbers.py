"""The numbers of the report: from the table of evaluations to metrics/summary.json.

Pure functions, no files. Models are compared on held-out prompts and chosen on validation prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from juicer.evaluation.choice import best_on_validation
from juicer.evaluation.likelihood import per_token_values
from juicer.evaluation.results import Agreed, EvaluatedModel, Merits, Table
from juicer.evaluation.rounds import score_difference
from juicer.evaluation.significance import Difference
from juicer.reporting.contract import Champion, DvcMetrics, Judging, Matters, Summary, SummaryRow, Voting, win_rate_key
from juicer.reporting.formatting import significant
from juicer.reporting.leaderboard_table import scores_of
from juicer.runtime.errors import InputError
from juicer.settings.choice import CRITERIA, Criterion
from juicer.settings.report import MattersSettings

Scores = Sequence[float | None]
EVEN = 0.5
"""The win rate of a model that is as good as the other one."""
LATER = (
    "oracle_mean",
    "oracle_sem",
    "judge_mean",
    "judge_sem",
    "demonstration_nll",
    "demonstration_nll_sem",
    "demonstration_nll_per_token",
    "demonstration_nll_per_token_sem",
    "perplexity",
    "perplexity_sem",
    "perplexity_per_response",
    "perplexity_per_response_sem",
    "demonstration_gap_sem",
    "empty",
    "repeated",
)
"""Metrics that not every evaluation has; the summary leaves out those that are missing."""
OF_VALIDATION = (
    "preference_gap",
    "demonstration_nll",
    "demonstration_nll_sem",
    "demonstration_nll_per_token",
    "demonstration_nll_per_token_sem",
    "perplexity",
)
"""The same of the validation prompts."""


@dataclass(frozen=True)
class Column:
    """One column of the table of models, on the page and in the terminal."""

    key: str
    heading: str
    explanation: str
    digits: int
    best: Literal["high", "low", None] = None
    """Which direction is better; None where neither is good by itself."""
    error: str | None = None
    """Key of the standard error shown beside it."""
    signed: bool = False
    fault: bool = False
    """Whether it counts something that should not occur, so that a column of zeros says nothing."""
    behaviour: bool = False
    """Whether it says how a model answers, rather than how well; the page has a table for each."""


COLUMNS = (
    Column(
        "reward_mean",
        "Score",
        "Mean score that the recipe's scorer gives to the model's own sampled responses, ± its standard error "
        "over prompts (the paper's Figure 2b).",
        3,
        "high",
        "reward_sem",
    ),
    Column(
        "win_rate_vs_sft",
        "Wins vs sft",
        "Share of held-out prompts on which the response scores higher than the one of sft; ties count half.",
        3,
        "high",
    ),
    Column(
        "judge_mean",
        "Judge",
        "Mean score that the judge gives to the model's own sampled responses, ± its standard error over prompts. The "
        "judge is a reward model that chose neither demonstrations nor rounds.",
        3,
        "high",
        "judge_sem",
    ),
    Column(
        "judge_win_rate",
        "Judge: wins",
        "Share of held-out prompts on which the judge prefers the response to that of the control (sft-matched); ties "
        "count half.",
        3,
        "high",
    ),
    *(
        Column(
            f"voted_win_rate{suffix}",
            f"Votes: wins{heading}",
            f"Share of the held-out prompts voted on by people on which they prefer the response to that of {against}, "
            "± its standard error; ties count half. Prompts with the same response of both are not asked.",
            3,
            "high",
            f"voted_win_rate{suffix}_sem",
        )
        for suffix, heading, against in (("", "", "sft-matched"), ("_vs_sft", " vs sft", "sft"))
    ),
    *(
        Column(
            f"judged_win_rate{suffix}",
            f"Pairwise: wins{heading}",
            f"Share of held-out prompts on which a pairwise judge, asked in both orders, prefers the response to that "
            f"of {against}, ± its standard error; ties count half.",
            3,
            "high",
            f"judged_win_rate{suffix}_sem",
        )
        for suffix, heading, against in (("", "", "sft-matched"), ("_vs_sft", " vs sft", "sft"))
    ),
    Column(
        "oracle_mean",
        "Oracle",
        "Mean of the quickstart world's exact judgement of the responses, ± its standard error. "
        "No stage trains on it or chooses by it.",
        3,
        "high",
        "oracle_sem",
    ),
    Column(
        "preference_accuracy",
        "Pref. accuracy",
        "Share of held-out pairs in which the chosen response is more likely than the rejected one, by the sum of "
        "token log-probabilities. Sums favour short responses.",
        3,
        "high",
    ),
    Column(
        "preference_accuracy_per_token",
        "… per token",
        "The same with both log-probabilities divided by their number of tokens.",
        3,
        "high",
    ),
    Column(
        "implicit_preference_accuracy",
        "… implicit",
        "The same for the implicit reward, log π − log π_sft: what was learnt since sft, independent of the lengths.",
        3,
        "high",
    ),
    Column(
        "preference_gap",
        "Pref. gap",
        "Mean of log π(chosen|x) − log π(rejected|x) on held-out pairs, in nats, ± its standard error "
        "(the paper's Figure 2a).",
        2,
        "high",
        "preference_gap_sem",
        signed=True,
    ),
    Column(
        "demonstration_nll",
        "NLL",
        "Negative log-likelihood of a held-out demonstration, −log π(y|x), in nats per response, ± its standard error "
        "over prompts. It needs no scorer. A model that memorised its training rows has a high one.",
        2,
        "low",
        "demonstration_nll_sem",
    ),
    Column(
        "nll_difference",
        "NLL − control's",
        "The difference of NLL to the control (sft-matched), paired over the same prompts, ± its standard error. Below "
        "0 the held-out demonstrations are more likely than under the control.",
        3,
        "low",
        "nll_difference_sem",
        signed=True,
    ),
    Column(
        "perplexity",
        "Perplexity",
        "The exponential of the NLL per token, end-of-text included: among how many equally likely tokens the model in "
        "effect chooses when it predicts a held-out demonstration, ± its standard error.",
        3,
        "low",
        "perplexity_sem",
    ),
    Column(
        "demonstration_gap",
        "Demo. gap",
        "Mean of log π(demonstration|x) − log π(own sample|x), in nats. Near 0 when demonstrations look like the "
        "model's own samples; no direction is good by itself.",
        2,
        signed=True,
        behaviour=True,
    ),
    Column(
        "response_tokens",
        "Tokens",
        "Mean length of a sampled response. Self-play can make it grow.",
        1,
        behaviour=True,
    ),
    Column(
        "ended",
        "Ended",
        "Share of sampled responses that ended before the length limit.",
        3,
        "high",
        behaviour=True,
    ),
    Column("empty", "Empty", "Share of sampled responses without any text.", 3, fault=True, behaviour=True),
    Column(
        "repeated",
        "Repeated",
        "Share of sampled responses that say the same four words three times.",
        3,
        fault=True,
        behaviour=True,
    ),
    Column(
        "kl_to_sft",
        "KL",
        "KL divergence to sft per response, in nats, on the model's own samples.",
        2,
        behaviour=True,
    ),
    Column(
        "distinct_2",
        "Distinct-2",
        "Distinct token pairs over all token pairs of the samples. A sharp fall means that the policy collapsed.",
        3,
        behaviour=True,
    ),
    Column(
        "steps",
        "Steps",
        "Optimiser steps since sft, earlier rounds included (of sft: since base).",
        0,
        behaviour=True,
    ),
)


def win_rate(scores: Scores, others: Scores) -> float | None:
    """Share of prompts where the score is higher than the other's, ties half; None if nothing was scored.

    Raises:
        InputError: the two are not scores of the same number of prompts.
    """
    pairs = _paired(scores, others)
    if not pairs:
        return None
    return sum(1.0 if mine > other else 0.5 if mine == other else 0.0 for mine, other in pairs) / len(pairs)


def paired_difference(scores: Scores, others: Scores) -> tuple[float | None, float | None]:
    """Mean of score - other's score over the same prompts, and its standard error.

    Both are None if nothing was scored; one prompt has no standard error.
    """
    found = _difference(scores, others)
    return (None, None) if found is None else (found.mean, found.error if found.count > 1 else None)


def paired_interval(scores: Scores, others: Scores) -> tuple[float | None, float | None]:
    """The 95% interval of the mean of score - other's score over the same prompts; None below two of them."""
    found = _difference(scores, others)
    return (None, None) if found is None or found.count < 2 else (found.low, found.high)


def _difference(scores: Scores, others: Scores) -> Difference | None:
    pairs = _paired(scores, others)
    return score_difference([mine for mine, _ in pairs], [other for _, other in pairs])


def _paired(scores: Scores, others: Scores) -> list[tuple[float, float]]:
    if len(scores) != len(others):
        raise InputError(
            f"scores of {len(scores)} and of {len(others)} held-out prompts cannot be compared",
            do="evaluate all models with the same recipe: dvc repro",
        )
    pairs = zip(scores, others, strict=True)
    return [(mine, other) for mine, other in pairs if mine is not None and other is not None]


def choose_champion(models: Sequence[EvaluatedModel], criteria: Sequence[Criterion] = CRITERIA) -> Champion:
    """The best model on validation prompts, base excluded, by the declared criteria.

    Held-out metrics play no part; see best_on_validation.

    Raises:
        InputError: there is no model besides base.
    """
    candidates = [model for model in models if model.method != "base"]
    if not candidates:
        raise InputError("no model besides base was evaluated, so there is no champion")
    if best := best_on_validation(merits_of(candidates), criteria):
        champion = Champion(name=candidates[best.place].name, selected_on="validation", criterion=best.criterion)
        found: dict[str, object] = {f"validation_{best.criterion}": best.value}
        found |= {"ties": list(best.ties)} if best.ties else {}
        found |= {} if best.settled else {"settled": False}
        return champion.model_copy(update=found)
    # Without validation prompts there is nothing to choose by, and SFT is the default.
    return Champion(name=candidates[0].name, selected_on="validation", criterion=None)


def merits_of(models: Sequence[EvaluatedModel]) -> list[Merits]:
    """What models are chosen by: their figures of validation prompts, the pairwise judge's among them."""
    compared = [model.pairwise for model in models if model.pairwise is not None]
    against = {each.against for each in compared if each.validation_win_rate is not None}

    def wins(model: EvaluatedModel) -> float | None:
        if model.name in against:
            return EVEN  # against itself
        return model.pairwise.validation_win_rate if model.pairwise is not None else None

    found = [model.validation.merits if model.validation else Merits() for model in models]
    return [each._replace(judged_win_rate=wins(model)) for each, model in zip(found, models, strict=True)]


def summarise(
    table: Table[EvaluatedModel],
    recipe: str,
    seed: int,
    matters: MattersSettings | None = None,
    criteria: Sequence[Criterion] = CRITERIA,
) -> Summary:
    """The content of metrics/summary.json, without the leaderboard.

    Args:
        table: the evaluations of all models.
        recipe: the recipe's name.
        seed: the recipe's seed.
        matters: which differences are worth knowing of; None for the defaults.
        criteria: what models are chosen by, in this order.

    Raises:
        InputError: the table has no sft, or models were evaluated on different numbers of prompts.
    """
    evaluated = {model.name: model for model in table.models}
    if "sft" not in evaluated:
        raise InputError("the table has no model named sft, with which all others are compared")
    sft = evaluated["sft"]
    control = evaluated.get("sft-matched", sft)
    matter = _matters(control, matters or MattersSettings())
    summary = Summary(
        recipe=recipe,
        seed=seed,
        control=control.name,
        models=[_row(*each, sft, control) for each in zip(table.models, merits_of(table.models), strict=True)],
        champion=choose_champion(table.models, criteria),
        criteria=list(criteria),
        matters=matter,
    )
    instruments = next((each.instruments for each in table.models if each.instruments is not None), None)
    found = {"instruments": instruments, "judging": _judging(table.models), "voting": _voting(table.models)}
    return summary.model_copy(update={key: value for key, value in found.items() if value is not None})


def _judging(models: Sequence[EvaluatedModel]) -> Judging | None:
    found = [model.pairwise for model in models if model.pairwise is not None]
    if not found:
        return None
    consistent = [each.consistent for each in found if each.consistent is not None]
    return Judging(
        judge=found[0].judge,
        questions=sum(each.questions for each in found),
        failed=sum(each.failed for each in found),
        consistent=significant(fmean(consistent)) if consistent else None,
        tokens=sum(each.tokens for each in found),
        price=round(sum(each.price for each in found), 6),
    )


def _voting(models: Sequence[EvaluatedModel]) -> Voting | None:
    found = [model.voted for model in models if model.voted is not None]
    if not found:
        return None
    return Voting(
        votes=sum(each.votes for each in found),
        agreement=_together([each.agreement for each in found]),
        with_judge=_together([each.with_judge for each in found]),
        outdated=sum(each.outdated for each in found),
    )


def _together(agreed: Sequence[Agreed | None]) -> Agreed | None:
    known = [each for each in agreed if each is not None]
    of = sum(each.of for each in known)
    return Agreed(share=round(sum(each.share * each.of for each in known) / of, 6), of=of) if of else None


def _matters(control: EvaluatedModel, settings: MattersSettings) -> Matters:
    def of(scores: Scores) -> float | None:
        known = [score for score in scores if score is not None]
        return significant(settings.score * stdev(known)) if len(known) > 1 else None

    matters = Matters(score=of(control.held_out_scores), share=settings.share)
    judge = of(control.held_out_judged)
    return matters if judge is None else matters.model_copy(update={"judge": judge})


def _row(model: EvaluatedModel, validation: Merits, sft: EvaluatedModel, control: EvaluatedModel) -> SummaryRow:
    held_out, training = model.held_out, model.training
    try:
        wins = win_rate(model.held_out_scores, sft.held_out_scores)
        differences = _differences("reward", model.held_out_scores, control.held_out_scores)
        if any(score is not None for score in model.held_out_judged):
            differences |= _differences("judge", model.held_out_judged, control.held_out_judged)
            differences["judge_win_rate"] = significant(win_rate(model.held_out_judged, control.held_out_judged))
        differences |= _nll_differences(model, control)
        if control is not sft:
            differences |= {key.replace("_difference", "_difference_vs_sft"): value
                            for key, value in _nll_differences(model, sft).items()}  # fmt: skip
    except InputError as error:
        raise InputError(error.what, where=model.name, do=error.do) from error
    row = SummaryRow(
        name=model.name,
        method=model.method,
        round=model.round,
        path=model.path,
        reward_mean=held_out.reward_mean,
        reward_sem=held_out.reward_sem,
        win_rate_vs_sft=significant(wins),
        preference_accuracy=held_out.preference_accuracy,
        preference_accuracy_per_token=held_out.preference_accuracy_per_token,
        preference_gap=held_out.preference_gap,
        demonstration_gap=held_out.demonstration_gap,
        response_tokens=held_out.response_tokens,
        ended=held_out.ended,
        kl_to_sft=held_out.kl_to_sft,
        distinct_2=held_out.distinct_2,
        preference_gap_sem=held_out.preference_gap_sem,
        implicit_preference_accuracy=held_out.implicit_preference_accuracy,
        validation_reward_mean=validation.reward_mean,
        validation_preference_accuracy=validation.preference_accuracy,
        validation_demonstration_gap=validation.demonstration_gap,
        prompts=held_out.prompts,
        pairs=held_out.pairs,
        steps=(training.total_steps or training.steps) if training else None,
        reward_training_accuracy=training.reward.number("training_accuracy") if training and training.reward else None,
        response_tokens_trained=(training.total_response_tokens or training.response_tokens) if training else None,
    )
    measured = {key: value for key in LATER if (value := getattr(held_out, key)) is not None}
    if model.validation is not None:
        there = {key: getattr(model.validation, key) for key in OF_VALIDATION}
        measured |= {f"validation_{key}": value for key, value in there.items() if value is not None}
    if validation.judged_win_rate is not None:
        measured["validation_judged_win_rate"] = validation.judged_win_rate
    return row.model_copy(update={**measured, **differences, **_wins(model)})


def _wins(model: EvaluatedModel) -> dict[str, float | int]:
    """The win rates by the pairwise judge and by people; none where they were not asked or gave no verdict."""
    rates = dict[str, float | int]()
    if (judged := model.pairwise) is not None and judged.win_rate is not None:
        name = win_rate_key("judged", judged.against)
        rates |= {name: judged.win_rate, f"{name}_prompts": judged.prompts}
        rates |= {} if judged.win_rate_sem is None else {f"{name}_sem": judged.win_rate_sem}
    if (voted := model.voted) is not None and voted.win_rate is not None:
        name = win_rate_key("voted", voted.against)
        rates |= {name: voted.win_rate, f"{name}_prompts": voted.prompts}
        rates |= {f"{name}_votes": voted.votes, f"{name}_voters": voted.voters}
        rates |= {} if voted.win_rate_sem is None else {f"{name}_sem": voted.win_rate_sem}
    return rates


def _nll_differences(model: EvaluatedModel, other: EvaluatedModel) -> dict[str, float | None]:
    """The differences in the demonstrations' NLL, per response and per token; none where it was not measured."""
    if not model.held_out_nll:
        return {}
    found = _differences("nll", model.held_out_nll, other.held_out_nll)
    if len(model.held_out_tokens) != len(model.held_out_nll) or model.held_out_tokens != other.held_out_tokens:
        return found
    mine, theirs = (per_token_values(each.held_out_nll, each.held_out_tokens) for each in (model, other))
    return {**found, **_differences("nll_per_token", mine, theirs)}


def _differences(name: str, values: Scores, others: Scores) -> dict[str, float | None]:
    """The mean of the paired differences to the control, its standard error and 95% interval, by key of SummaryRow."""
    mean, error = paired_difference(values, others)
    low, high = paired_interval(values, others)
    found = {"": mean, "_sem": error, "_low": low, "_high": high}
    return {f"{name}_difference{key}": significant(value) for key, value in found.items()}


def flat(summary: Summary) -> DvcMetrics:
    """The numbers of the summary as nested mappings."""
    metrics = DvcMetrics(
        champion=summary.champion.name, models={model.name: model.numbers() for model in summary.models}
    )
    if summary.leaderboard is None:
        return metrics
    return metrics.model_copy(
        update={"leaderboard": {model.name: scores_of(model) for model in summary.leaderboard.models}}
    )


def shown_columns(models: Sequence[SummaryRow]) -> list[Column]:
    """The columns in which at least one model has a value; of rare faults, those that occurred."""

    def shows(column: Column) -> bool:
        values = [model.metric(column.key) for model in models]
        return any(values) if column.fault else any(value is not None for value in values)

    return [column for column in COLUMNS if shows(column)]


def separates_nothing(models: Sequence[SummaryRow], column: Column) -> bool:
    """Whether a column in which one direction is better has the same value, as it is shown, for all models that were
    trained here: then it prefers none of them. The base model, which nobody chooses, does not count."""
    values = [model.metric(column.key) for model in models if model.method != "base"]
    known = [round(value, column.digits) for value in values if value is not None]
    return column.best is not None and len(known) > 1 and len(set(known)) == 1


def best_names(models: Sequence[SummaryRow], column: Column) -> set[str]:
    """Names of the models that are best in a column as it is shown, ties included; empty if it separates nothing."""
    known = {model.name: model.metric(column.key) for model in models}
    values = {name: round(value, column.digits) for name, value in known.items() if value is not None}
    if column.best is None or len(set(values.values())) < 2 or separates_nothing(models, column):
        return set()
    best = max(values.values()) if column.best == "high" else min(values.values())
    return {name for name, value in values.items() if value == best}
