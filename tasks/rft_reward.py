"""Reward alignment: learn a reward that prefers demonstrations to the policy's samples (RFT, Algorithm 1)."""

import argparse
from dataclasses import asdict
from pathlib import Path

from juicer.settings.compute import ComputeSettings
from juicer.settings.data import TemplateSettings
from juicer.settings.rft import RewardSettings
from juicer.stages.launch import main
from juicer.stages.stage import Stage


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--round", required=True, help="round, for example r1; part of every seed")
    parser.add_argument("--policy", type=Path, required=True, help="policy that the round starts from, and sampled")
    parser.add_argument("--reward", type=Path, required=True, help="reward, or trunk, that the round starts from")
    parser.add_argument("--data", type=Path, required=True, help="curated data")
    parser.add_argument("--samples", type=Path, required=True, help="the policy's samples of this round")
    parser.add_argument("--watched", type=Path, help="the policy's samples on validation prompts")
    parser.add_argument("--out", type=Path, required=True, help="reward model folder to write")


def run(stage: Stage) -> str:
    from juicer.data import demonstrations
    from juicer.data.dialogues import read_samples
    from juicer.methods.pairs import with_replay
    from juicer.methods.reading import reader_of
    from juicer.methods.reward import freeze_blocks, load_reward, score_rewards, train_reward
    from juicer.methods.teacher import Watched, watch
    from juicer.models.loading import TRAINING_DTYPE, load_template, mixed_precision, read_training
    from juicer.models.precision import training_compute
    from juicer.models.shape import count_parameters
    from juicer.runtime.seeding import derive
    from juicer.training.adapters import add_adapters, frozen_weights, merge_adapters, save_trained
    from juicer.training.loop import steps_for
    from juicer.training.passes import passes_of
    from juicer.training.utilisation import peak_share

    given, settings = stage.arguments, stage.read("rft.reward", RewardSettings)
    compute, seed = stage.read("compute", ComputeSettings), stage.value("seed")
    shared = load_template(given.policy, stage.read("template", TemplateSettings))
    reader = reader_of(shared, given.policy, given.reward)
    rows = list(demonstrations.read(given.data / "train.jsonl"))
    samples = with_replay(
        read_samples(given.samples), stage.value("rft.replay"), derive(seed, "rft", given.round, "replay")
    )
    pairs = reader.pairs(rows, samples)
    frozen = frozen_weights(settings.lora, compute)
    model = load_reward(given.reward, compute, derive(seed, "rft", "head"), TRAINING_DTYPE, frozen)
    training = training_compute(compute, count_parameters(model))
    freeze_blocks(model, settings.frozen_blocks)  # before peak_share counts the operations per token
    dialogues = [each for pair in pairs for each in (pair.demonstration, pair.sample)]
    steps = steps_for(settings.epochs, len(pairs), settings.batch_size)
    validation = list(demonstrations.read(given.data / "validation.jsonl"))
    fresh = read_samples(given.watched) if given.watched else []
    watched = reader.pairs(validation, fresh) if fresh else []

    def watching() -> Watched:
        sides = ([pair.demonstration for pair in watched], [pair.sample for pair in watched])
        with mixed_precision(training):
            return Watched(*(score_rewards(model, each, reader.padding, context=stage.context) for each in sides))

    carried = (read_training(given.reward) or {}).get("stage") == "rft_reward"
    before = watching() if watched and carried else None
    adapters = add_adapters(model, settings.lora, derive(seed, "rft", given.round, "reward adapters"))
    with (
        stage.training(peak_share(model, dialogues), steps=steps) as context,
        mixed_precision(training),
    ):
        order = derive(seed, "rft", given.round, "reward order")
        record = train_reward(model, pairs, settings, reader.padding, order, context, passes_of(training, model))
    merge_adapters(adapters)
    if watched:
        record.facts |= watch(watching(), before)
    for split, split_rows in (
        ("validation", validation),
        ("held_out", demonstrations.read(given.data / "held_out.jsonl")),
    ):
        judged = [row for row in split_rows if row.rejected is not None]
        judged = [row for row in judged if reader.takes(row.prompt)]
        if not judged:
            continue
        answers = [
            [reader.demonstration(row.prompt, row.response) for row in judged],
            [reader.demonstration(row.prompt, row.rejected or "") for row in judged],
        ]
        with mixed_precision(training):
            chosen, rejected = (score_rewards(model, each, reader.padding, context=stage.context) for each in answers)
        record.facts[f"{split}_preference_accuracy"] = round(float((chosen > rejected).float().mean()), 6)
    record.facts |= reader.facts
    if len(pairs) < len(samples):
        record.facts["refused_by_template"] = len(samples) - len(pairs)
    stage.record(steps=record.steps, response_tokens=record.response_tokens)
    with stage.publish(given.out) as folder:
        save_trained(model, reader.own, folder, asdict(record), settings.lora, given.reward)
    refused = len(samples) - len(pairs)
    note = f"; warning: the reward's template refuses {refused} of {len(samples)} samples' rows" if refused else ""
    return f"K = {record.steps} steps, training accuracy {record.facts['training_accuracy']:.2f}{note}"


if __name__ == "__main__":
    main(run, arguments, __doc__)
