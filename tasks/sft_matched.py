"""The control: SFT continued for as many optimiser steps and response tokens as the more expensive method used.

A recipe can give it a budget of its own, which counts where it is the larger, and another objective than that of SFT.
All learning rates of the recipe are tried; the model that is best on validation prompts is kept.
"""

import argparse
import gc
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from juicer.settings.choice import ChoiceSettings, Criterion
from juicer.settings.compute import ComputeSettings
from juicer.settings.data import ScorerSettings, TemplateSettings
from juicer.settings.sft import SftMatchedSettings, SftSettings
from juicer.settings.training import SamplingSettings
from juicer.stages.launch import main
from juicer.stages.stage import Stage, optional_path

if TYPE_CHECKING:
    from juicer.evaluation.results import Merits


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--policy", type=Path, required=True, help="SFT model folder")
    parser.add_argument("--data", type=Path, required=True, help="curated data")
    parser.add_argument(
        "--scorer", type=optional_path, required=True, help="scorer folder, to choose the learning rate"
    )
    parser.add_argument("--irft", type=optional_path, required=True, help="last IRFT model, whose cost is matched")
    parser.add_argument("--rft", type=optional_path, required=True, help="last RFT model, whose cost is matched")
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")


def run(stage: Stage) -> str:
    from juicer import scorers
    from juicer.data import demonstrations
    from juicer.data.dialogues import Dialogue
    from juicer.evaluation.choice import best_on_validation
    from juicer.evaluation.metrics import evaluate_policy
    from juicer.evaluation.results import Merits
    from juicer.models.loading import (
        TRAINING_DTYPE,
        load_policy,
        load_template,
        mixed_precision,
        read_training,
    )
    from juicer.runtime.seeding import derive
    from juicer.stages.fine_tuning import fine_tune, starting_samples, tokens_per_step, watched_dialogues
    from juicer.training.adapters import frozen_weights, save_trained

    given, control = stage.arguments, stage.read("sft_matched", SftMatchedSettings)
    settings, sampling = stage.read("sft", SftSettings), stage.read("evaluation.sampling", SamplingSettings)
    settings = settings.model_copy(update={"objective": control.objective or settings.objective})
    compute, seed = stage.read("compute", ComputeSettings), stage.value("seed")
    criteria = stage.read("choice", ChoiceSettings).criteria
    scoring = stage.read("scorer", ScorerSettings)
    template = load_template(given.policy, stage.read("template", TemplateSettings))
    rows = list(demonstrations.read(given.data / "train.jsonl"))
    dialogues = [Dialogue(template.prompt(row.prompt), template.response(row.prompt, row.response)) for row in rows]
    used = [{"total_steps": control.steps or 0, "total_response_tokens": control.response_tokens or 0}]
    used += [read_training(folder) or {} for folder in (given.irft, given.rft) if folder]
    steps = max(record.get("total_steps", 0) for record in used)
    tokens = max(record.get("total_response_tokens", 0) for record in used)
    samples: Sequence[Sequence[Dialogue]] = []
    frozen = frozen_weights(settings.lora, compute)
    if settings.objective == "dft":
        # All learning rates start from the same policy, so they share its responses.
        policy = load_policy(given.policy, compute, TRAINING_DTYPE, frozen)
        prompts = [(row.id, dialogue.prompt) for row, dialogue in zip(rows, dialogues, strict=True)]
        purpose = derive(seed, "sft-matched", "sampling")
        samples = starting_samples(stage, policy, template, prompts, settings, compute, purpose)
        del policy
    # At least as many steps and at least as many tokens as the method.
    steps = max(steps, math.ceil(tokens / tokens_per_step(dialogues, samples, settings)))

    watched = watched_dialogues(given.data, template, settings)
    best = None
    tried = list[Merits]()
    for rate in control.learning_rates:
        policy = load_policy(given.policy, compute, TRAINING_DTYPE, frozen)
        optimiser = settings.optimiser.model_copy(update={"learning_rate": rate})
        record = fine_tune(
            stage,
            policy,
            template,
            dialogues,
            samples,
            settings.model_copy(update={"optimiser": optimiser}),
            compute,
            derive(seed, "sft-matched"),
            name="sft_matched",
            part=f"{rate:g}",
            steps=steps,
            watched=watched,
        )
        stage.record(steps=record.steps, response_tokens=record.response_tokens)
        # The trainer leaves the model in training mode, in which gradient checkpointing disables the key-value cache.
        policy.eval()
        merits = Merits()
        if len(control.learning_rates) > 1:
            scorer = scorers.load(scoring, given.scorer, compute)
            validation = list(demonstrations.read(given.data / "validation.jsonl"))[: control.prompts]
            with mixed_precision(compute):
                judged = evaluate_policy(
                    policy,
                    None,
                    scorer,
                    None,
                    template,
                    validation,
                    sampling,
                    derive(seed, "evaluation"),
                    stage.context,
                ).metrics
            merits = judged.merits
        tried.append(merits)
        better = best_on_validation([merits] if best is None else [best[0], merits], criteria)
        if best is None or (better and better.place):
            best = (merits, rate, policy, record)
        if len(control.learning_rates) > 1:
            gc.collect()  # the trainer refers to itself, and holds the optimiser's state
    assert best is not None  # the settings demand at least one learning rate
    _, rate, policy, record = best
    record.facts |= {"learning_rate": rate, **_reasons(control.learning_rates, tried, criteria)}
    record.continue_from(None)
    with stage.publish(given.out) as folder:
        save_trained(policy, template, folder, asdict(record), settings.lora, given.policy)
    return f"{record.steps} steps at {rate:g}, loss {record.curves['loss']['value'][-1]:.3f}"


def _reasons(rates: Sequence[float], tried: "Sequence[Merits]", criteria: Sequence[Criterion]) -> dict[str, Any]:
    """Why a learning rate was chosen: the figures of all by the criterion that decided, and what separated none."""
    from juicer.evaluation.choice import best_on_validation

    choice = best_on_validation(tried, criteria) if len(tried) > 1 else None
    if choice is None:
        return {"validation_of_learning_rates": {}}
    values = {f"{rate:g}": getattr(merits, choice.criterion) for rate, merits in zip(rates, tried, strict=True)}
    return {
        "validation_of_learning_rates": {rate: round(each, 6) for rate, each in values.items() if each is not None},
        "learning_rate_chosen_by": choice.criterion if choice.settled else "nothing: the first of equals",
    }


if __name__ == "__main__":
    main(run, arguments, __doc__)
