"""The numbers of the report: from the table of evaluations to metrics/summary.json.

Pure functions, no files. What is reported is measured on held-out prompts; what is chosen is chosen on validation.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from juicer.evaluation.choice import CRITERIA, best_on_validation
from juicer.runtime.errors import InputError

Row = dict[str, Any]
Scores = Sequence[float | None]
Z_95 = 1.96
"""Half-width of a 95% interval, in standard errors."""

CONTRACT = (
    "reward_mean",
    "reward_sem",
    "win_rate_vs_sft",
    "preference_accuracy",
    "preference_accuracy_per_token",
    "preference_gap",
    "demonstration_gap",
    "response_tokens",
    "ended",
    "kl_to_sft",
    "distinct_2",
)
"""Keys that every model of metrics/summary.json has; null where one cannot be had."""


@dataclass(frozen=True)
class Column:
    """One column of the table of models, on the page and in the terminal."""

    key: str
    heading: str
    explanation: str
    digits: int
    best: Literal["high", None] = None
    """Which value is the better one; None where neither direction is good by itself."""
    error: str | None = None
    """Key of the standard error shown beside it."""
    signed: bool = False


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
        "The same for the implicit reward, log π − log π_sft: what was learnt since sft, freed of the lengths.",
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
        "demonstration_gap",
        "Demo. gap",
        "Mean of log π(demonstration|x) − log π(own sample|x), in nats. Near 0 when demonstrations look like the "
        "model's own samples; no direction is good by itself.",
        2,
        signed=True,
    ),
    Column("response_tokens", "Tokens", "Mean length of a sampled response. Self-play can make it creep.", 1),
    Column("ended", "Ended", "Share of sampled responses that stopped by themselves before the limit.", 3, "high"),
    Column("kl_to_sft", "KL", "KL divergence to sft per response, in nats, on the model's own samples.", 2),
    Column(
        "distinct_2",
        "Distinct-2",
        "Distinct token pairs over all token pairs of the samples. A sharp fall means that the policy collapsed.",
        3,
    ),
    Column("steps", "Steps", "Optimiser steps since sft, earlier rounds included (of sft: since base).", 0),
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
    """Mean of score - other's score over the same prompts, and its standard error; None if nothing was scored."""
    differences = [mine - other for mine, other in _paired(scores, others)]
    if not differences:
        return None, None
    mean = sum(differences) / len(differences)
    if len(differences) == 1:
        return mean, 0.0
    variance = sum((each - mean) ** 2 for each in differences) / (len(differences) - 1)
    return mean, math.sqrt(variance / len(differences))


def _paired(scores: Scores, others: Scores) -> list[tuple[float, float]]:
    if len(scores) != len(others):
        raise InputError(
            f"scores of {len(scores)} and of {len(others)} held-out prompts cannot be compared",
            do="evaluate all models with the same recipe: dvc repro",
        )
    pairs = zip(scores, others, strict=True)
    return [(mine, other) for mine, other in pairs if mine is not None and other is not None]


def choose_champion(models: Sequence[Row]) -> Row:
    """The model with the best validation figure, base excluded; the earlier (simpler) one on a tie.

    Held-out figures are never looked at; see best_on_validation.

    Args:
        models: evaluations, as in the table.

    Returns:
        {"name", "selected_on": "validation", "criterion", "validation_<criterion>"}.

    Raises:
        InputError: there is no model besides base.
    """
    candidates = [model for model in models if model["method"] != "base"]
    if not candidates:
        raise InputError("no model besides base was evaluated, so there is no champion")
    if best := best_on_validation([model["validation"] or {} for model in candidates]):
        return {
            "name": candidates[best.place]["name"],
            "selected_on": "validation",
            "criterion": best.criterion,
            f"validation_{best.criterion}": best.value,
        }
    # A recipe with no validation prompts leaves nothing to choose on; SFT is what one has without a choice.
    return {"name": candidates[0]["name"], "selected_on": "validation", "criterion": None}


def summarise(table: dict[str, Any], recipe: str, seed: int) -> dict[str, Any]:
    """The content of metrics/summary.json.

    Args:
        table: {"models": [evaluation, ...]}, as tasks.evaluate writes them.
        recipe: the recipe's name.
        seed: the recipe's seed.

    Returns:
        {"recipe", "seed", "control", "models", "champion"}; `control` is what differences are taken to: sft-matched,
        or sft where the recipe makes no control.

    Raises:
        InputError: the table has no sft, or models were evaluated on different numbers of prompts.
    """
    evaluated = {model["name"]: model for model in table["models"]}
    if "sft" not in evaluated:
        raise InputError("the table has no model named sft, which all others are compared with")
    sft = evaluated["sft"]
    control = evaluated.get("sft-matched", sft)
    return {
        "recipe": recipe,
        "seed": seed,
        "control": control["name"],
        "models": [_row(model, sft, control) for model in table["models"]],
        "champion": choose_champion(table["models"]),
    }


def _row(model: Row, sft: Row, control: Row) -> Row:
    held_out, validation, training = model["held_out"], model["validation"] or {}, model.get("training") or {}
    try:
        wins = win_rate(model["held_out_scores"], sft["held_out_scores"])
        difference, difference_sem = paired_difference(model["held_out_scores"], control["held_out_scores"])
    except InputError as error:
        raise InputError(error.what, where=model["name"], do=error.do) from error
    row: Row = {key: model[key] for key in ("name", "method", "round", "path")}
    row |= {key: significant(wins) if key == "win_rate_vs_sft" else held_out.get(key) for key in CONTRACT}
    for key in ("oracle_mean", "oracle_sem"):
        if held_out.get(key) is not None:
            row[key] = held_out[key]
    row |= {
        "preference_gap_sem": held_out.get("preference_gap_sem"),
        "implicit_preference_accuracy": held_out.get("implicit_preference_accuracy"),
        "reward_difference": significant(difference),
        "reward_difference_sem": significant(difference_sem),
        **{f"validation_{criterion}": validation.get(criterion) for criterion in CRITERIA},
        "prompts": held_out.get("prompts"),
        "pairs": held_out.get("pairs"),
        "steps": training.get("total_steps") or training.get("steps"),
        "reward_training_accuracy": ((training.get("reward") or {}).get("facts") or {}).get("training_accuracy"),
        "response_tokens_trained": training.get("total_response_tokens") or training.get("response_tokens"),
    }
    return row


def significant(value: float | None) -> float | None:
    """Rounded to 6 significant digits, as the evaluations are."""
    return None if value is None else float(f"{value:.6g}")


def flat(summary: dict[str, Any]) -> dict[str, Any]:
    """The summary as nested mappings of numbers, which is what `dvc metrics` can show and compare."""
    models = {
        model["name"]: {key: value for key, value in model.items() if isinstance(value, int | float)}
        for model in summary["models"]
    }
    leaderboard = {
        model["name"]: {key: value for key, value in model.items() if isinstance(value, float)}
        for model in summary.get("leaderboard", {}).get("models", [])
    }
    return {
        "champion": summary["champion"]["name"],
        "models": models,
        **({"leaderboard": leaderboard} if leaderboard else {}),
    }


def shown_columns(models: Sequence[Row]) -> list[Column]:
    """The columns in which at least one model has a value."""
    return [column for column in COLUMNS if any(model.get(column.key) is not None for model in models)]


def shown(value: float | None, digits: int, *, signed: bool = False) -> str:
    """A number as text, with a true minus sign and thousands set apart; a dash for none."""
    if value is None:
        return "–"
    text = f"{value:{'+' if signed else ''},.{digits}f}".replace(",", "\u202f").replace("-", "−")
    return text.lstrip("+−") if not any(digit in text for digit in "123456789") else text


def best_names(models: Sequence[Row], column: Column) -> set[str]:
    """Names of the models that are best in a column as it is shown, ties included; nobody if all are equal."""
    values = {model["name"]: round(model[column.key], column.digits) for model in models if _has(model, column.key)}
    if column.best is None or len(set(values.values())) < 2:
        return set()
    best = max(values.values())
    return {name for name, value in values.items() if value == best}


def _has(model: Row, key: str) -> bool:
    return model.get(key) is not None
