"""The control: SFT continued for as many optimiser steps and response tokens as the more expensive method used.

All learning rates of the recipe are tried; the model that is best on validation prompts is kept.
"""

import argparse
import gc
import math
from dataclasses import asdict
from pathlib import Path

from juicer.settings.compute import ComputeSettings
from juicer.settings.data import ScorerSettings, TemplateSettings
from juicer.settings.sft import SftMatchedSettings, SftSettings
from juicer.settings.training import SamplingSettings
from juicer.stages.launch import main
from juicer.stages.stage import Stage, optional_path


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
    from juicer.methods.sft import mean_tokens_per_step, train_sft
    from juicer.models.loading import (
        TRAINING_DTYPE,
        load_policy,
        load_template,
        mixed_precision,
        read_training,
        save_policy,
    )
    from juicer.runtime.seeding import derive
    from juicer.training.utilisation import peak_share

    given, control = stage.arguments, stage.read("sft_matched", SftMatchedSettings)
    settings, sampling = stage.read("sft", SftSettings), stage.read("evaluation.sampling", SamplingSettings)
    compute, seed = stage.read("compute", ComputeSettings), stage.value("seed")
    scoring = stage.read("scorer", ScorerSettings)
    template = load_template(given.policy, stage.read("template", TemplateSettings))
    dialogues = [
        Dialogue(template.prompt(row.prompt), template.response(row.prompt, row.response))
        for row in demonstrations.read(given.data / "train.jsonl")
    ]
    used = [read_training(folder) or {} for folder in (given.irft, given.rft) if folder]
    steps = max([control.steps or 0, *(record.get("total_steps", 0) for record in used)])
    tokens = max([control.response_tokens or 0, *(record.get("total_response_tokens", 0) for record in used)])
    # At least as many steps and at least as many tokens as the method.
    steps = max(steps, math.ceil(tokens / mean_tokens_per_step(dialogues, settings.batch_size)))

    best = None
    tried = {}
    for rate in control.learning_rates:
        policy = load_policy(given.policy, compute, TRAINING_DTYPE)
        optimiser = settings.optimiser.model_copy(update={"learning_rate": rate})
        with stage.scratch() as scratch, stage.training(peak_share(policy, dialogues), f"{rate:g}") as context:
            record = train_sft(
                policy,
                template,
                dialogues,
                settings.model_copy(update={"optimiser": optimiser}),
                compute,
                derive(seed, "sft-matched"),
                scratch,
                context,
                stage="sft_matched",
                steps=steps,
            )
        stage.record(steps=record.steps, response_tokens=record.response_tokens)
        # The trainer leaves the model in training mode, in which gradient checkpointing disables the key-value cache.
        policy.eval()
        merits = Merits()
        if len(control.learning_rates) > 1:
            scorer = scorers.load(scoring, given.scorer, compute)
            rows = list(demonstrations.read(given.data / "validation.jsonl"))[: control.prompts]
            with mixed_precision(compute):
                judged = evaluate_policy(
                    policy,
                    None,
                    scorer,
                    None,
                    template,
                    rows,
                    sampling,
                    derive(seed, "evaluation"),
                    stage.context,
                ).metrics
            merits = judged.merits
        better = best_on_validation([merits] if best is None else [best[0], merits])
        if better:
            tried[f"{rate:g}"] = round(getattr(merits, better.criterion), 6)
        if best is None or (better and better.place):
            best = (merits, rate, policy, record)
        if len(control.learning_rates) > 1:
            gc.collect()  # the trainer refers to itself, and holds the optimiser's state
    assert best is not None  # the settings demand at least one learning rate
    _, rate, policy, record = best
    record.facts |= {"learning_rate": rate, "validation_of_learning_rates": tried}
    record.continue_from(None)
    with stage.publish(given.out) as folder:
        save_policy(policy, template, folder, asdict(record))
    return f"{record.steps} steps at {rate:g}, loss {record.curves['loss']['value'][-1]:.3f}"


if __name__ == "__main__":
    main(run, arguments, __doc__)
