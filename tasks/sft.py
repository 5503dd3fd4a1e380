"""Supervised fine-tuning of the base model on the curated demonstrations: pi_0, the start of both methods."""

import argparse
from dataclasses import asdict
from pathlib import Path

from juicer.settings.compute import ComputeSettings
from juicer.settings.data import TemplateSettings
from juicer.settings.sft import SftSettings
from juicer.stages.launch import main
from juicer.stages.stage import Stage


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--policy", type=Path, required=True, help="base model folder")
    parser.add_argument("--data", type=Path, required=True, help="curated data")
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")


def run(stage: Stage) -> str:
    from juicer.data import demonstrations
    from juicer.data.dialogues import Dialogue
    from juicer.models.loading import TRAINING_DTYPE, load_policy, load_template
    from juicer.runtime.seeding import derive
    from juicer.stages.fine_tuning import fine_tune, starting_samples, watched_dialogues
    from juicer.training.adapters import frozen_weights, save_trained
    from juicer.training.record import TrainingRecord

    given, settings = stage.arguments, stage.read("sft", SftSettings)
    compute = stage.read("compute", ComputeSettings)
    template = load_template(given.policy, stage.read("template", TemplateSettings))
    policy = load_policy(given.policy, compute, TRAINING_DTYPE, frozen_weights(settings.lora, compute))
    rows = list(demonstrations.read(given.data / "train.jsonl"))
    dialogues = [Dialogue(template.prompt(row.prompt), template.response(row.prompt, row.response)) for row in rows]
    if settings.epochs:
        seed = stage.value("seed")
        prompts = [(row.id, dialogue.prompt) for row, dialogue in zip(rows, dialogues, strict=True)]
        samples = starting_samples(stage, policy, template, prompts, settings, compute, derive(seed, "sft", "sampling"))
        watched = watched_dialogues(given.data, template, settings)
        purpose = derive(seed, "sft")
        record = fine_tune(stage, policy, template, dialogues, samples, settings, compute, purpose, watched=watched)
    else:
        record = TrainingRecord("sft")
    stage.record(steps=record.steps, response_tokens=record.response_tokens)
    with stage.publish(given.out) as folder:
        save_trained(policy, template, folder, asdict(record), settings.lora, given.policy)
    if not record.steps:
        return "the base model unchanged: sft.epochs is 0"
    return f"{record.steps} steps, loss {record.curves['loss']['value'][-1]:.3f}"


if __name__ == "__main__":
    main(run, arguments, __doc__)
