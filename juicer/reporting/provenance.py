"""Where a model comes from: the base model, the recipe's values that decide what is learnt, and who judges it.

All of it follows from the parameters and the records that the stage `report` declares as its inputs, so it is the same
on every machine. The commit and the versions of libraries are not: see `juicer.reporting.environment`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from juicer.evaluation.results import EvaluatedModel, Table, Training
from juicer.reporting.formatting import scalar
from juicer.settings.data import JudgeSettings, ScorerSettings, TemplateSettings
from juicer.settings.evaluation import EvaluationSettings
from juicer.settings.irft import IrftSettings
from juicer.settings.models import PolicySettings
from juicer.settings.rft import RftSettings
from juicer.settings.sft import SftMatchedSettings, SftSettings
from juicer.settings.training import LoraSettings, OptimiserSettings

HEADINGS = ("Stage", "Objective", "T", "K", "Passes", "Batch", "Learning rate", "β", "Samples", "Trained", "Seed")
"""Of the table of training: a row has a cell for each."""
MEANINGS = {
    "T": "Rounds that the table of models has.",
    "K": "Optimiser steps of a round; of SFT and its control, of the whole training.",
    "Passes": "Passes over the demonstrations of a round, or of the whole training.",
    "Batch": "Demonstrations per optimiser step; in policy alignment, prompts × responses to each.",
    "β": "Temperature of the log-ratios to the reference; in policy alignment, the coefficient of KL to it.",
    "Samples": "Responses that are sampled per demonstration, which the demonstration is compared with.",
    "Seed": "All random numbers of the run are derived from it.",
}
"""What the headings mean that are no plain words."""


@dataclass(frozen=True)
class Recipe:
    """The sections of a recipe that the report shows."""

    name: str
    seed: int
    policy: PolicySettings
    template: TemplateSettings
    scorer: ScorerSettings
    judge: JudgeSettings
    sft: SftSettings
    sft_matched: SftMatchedSettings
    irft: IrftSettings
    rft: RftSettings
    evaluation: EvaluationSettings


@dataclass(frozen=True)
class TrainingLine:
    """One row of the table of training."""

    method: str
    """irft, rft, sft or sft-matched."""
    cells: list[str]
    """One for each of HEADINGS."""


def base_model(recipe: Recipe) -> dict[str, JsonValue]:
    """The base model, by name, and what identifies its weights."""
    found: dict[str, JsonValue] = {"model": recipe.policy.model, "revision": recipe.policy.revision}
    if recipe.policy.digest:
        found["digest"] = recipe.policy.digest
    return found


def measured_by(recipe: Recipe) -> dict[str, JsonValue]:
    """The format of dialogues, who gives scores, and how responses are sampled for the evaluation."""
    template, sampling = recipe.template, recipe.evaluation.sampling
    return {
        "template": template.name,
        "longest prompt, tokens": template.max_prompt_tokens,
        "longest response, tokens": template.max_response_tokens,
        "scorer": _judging(recipe.scorer),
        "judge": _judging(recipe.judge),
        "evaluated on, prompts at most": recipe.evaluation.prompts,
        "sampling temperature": sampling.temperature,
        "top p": sampling.top_p,
    }


def training_lines(recipe: Recipe, table: Table[EvaluatedModel]) -> list[TrainingLine]:
    """The values of each kind of training that made a model of the table, in the order of the pipeline."""
    models = {model.method: model for model in table.models}  # the last round of each method
    lines = []
    if (model := models.get("sft")) is not None:
        sft = recipe.sft
        lines.append(
            _line(
                recipe,
                "sft",
                "SFT",
                sft.objective,
                steps=_steps(model.training),
                passes=scalar(sft.epochs),
                batch=scalar(sft.batch_size),
                rate=_rate(sft.optimiser),
                trained=_trained(sft.lora),
            )
        )
    if (model := models.get("sft-matched")) is not None:
        sft, matched = recipe.sft, recipe.sft_matched
        facts: Mapping[str, JsonValue] = model.training.facts if model.training else {}
        chosen = facts.get("learning_rate")
        of = f", best of {', '.join(map(scalar, matched.learning_rates))}" if len(matched.learning_rates) > 1 else ""
        rate = scalar(chosen if isinstance(chosen, float) else matched.learning_rates[0])
        lines.append(
            _line(
                recipe,
                "sft-matched",
                "Control",
                matched.objective or sft.objective,
                steps=_steps(model.training),
                passes=scalar(facts.get("epochs")),
                batch=scalar(sft.batch_size),
                rate=f"{rate}{of}, {_schedule(sft.optimiser)}",
                trained=_trained(sft.lora),
            )
        )
    if (model := models.get("irft")) is not None:
        irft = recipe.irft.training
        weight = f", SFT × {scalar(irft.sft_weight)}" if irft.sft_weight else ""
        lines.append(
            _line(
                recipe,
                "irft",
                "IRFT",
                f"{irft.objective}, reference {irft.reference}{weight}",
                rounds=model.round,
                steps=_steps(model.training),
                passes=scalar(irft.epochs),
                batch=scalar(irft.batch_size),
                rate=_rate(irft.optimiser),
                beta=scalar(irft.beta),
                samples=scalar(recipe.irft.sampling.samples_per_prompt),
                trained=_trained(irft.lora),
            )
        )
    if (model := models.get("rft")) is not None:
        reward, policy = recipe.rft.reward, recipe.rft.policy
        lines.append(
            _line(
                recipe,
                "rft",
                "RFT, reward",
                reward.h,
                rounds=model.round,
                steps=_steps(model.training.reward if model.training else None),
                passes=scalar(reward.epochs),
                batch=scalar(reward.batch_size),
                rate=_rate(reward.optimiser),
                samples=scalar(recipe.rft.sampling.samples_per_prompt),
                trained=f"all but {reward.frozen_blocks} blocks" if reward.frozen_blocks else _trained(reward.lora),
            )
        )
        lines.append(
            _line(
                recipe,
                "rft",
                "RFT, policy",
                recipe.rft.optimiser,
                rounds=model.round,
                steps=_steps(model.training),
                batch=f"{policy.prompts_per_step} × {policy.samples_per_prompt}",
                rate=_rate(policy.optimiser),
                beta=scalar(policy.kl_coefficient),
                trained=_trained(policy.lora),
            )
        )
    return lines


def _line(
    recipe: Recipe,
    method: str,
    stage: str,
    objective: str,
    *,
    steps: str,
    batch: str,
    rate: str,
    trained: str,
    rounds: int | None = None,
    passes: str = "–",
    beta: str = "–",
    samples: str = "–",
) -> TrainingLine:
    cells = [stage, objective, scalar(rounds), steps, passes, batch, rate, beta, samples, trained, scalar(recipe.seed)]
    return TrainingLine(method, cells)


def _steps(record: Training | None) -> str:
    return scalar(record.steps if record else None)


def _rate(optimiser: OptimiserSettings) -> str:
    return f"{scalar(optimiser.learning_rate)}, {_schedule(optimiser)}"


def _schedule(optimiser: OptimiserSettings) -> str:
    return f"{optimiser.name}, {optimiser.schedule}"


def _trained(lora: LoraSettings | None) -> str:
    return "all weights" if lora is None else f"LoRA, r {lora.r}, α {scalar(lora.alpha)}"


def _judging(settings: ScorerSettings | JudgeSettings) -> str:
    if settings.kind == "none":
        return "none"
    revision = f" at {settings.revision}" if settings.revision else ""
    return f"{settings.model or 'trained from preference pairs'} ({settings.kind}){revision}"


def flat(values: Mapping[str, JsonValue], prefix: str = "") -> dict[str, JsonValue]:
    """A mapping of mappings as one, under dotted keys."""
    found: dict[str, JsonValue] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found
