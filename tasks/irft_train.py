"""K steps that prefer demonstrations to the policy's samples (second half of a round of IRFT, Algorithm 2)."""

import argparse
from dataclasses import asdict
from pathlib import Path

from juicer.settings.compute import ComputeSettings
from juicer.settings.data import TemplateSettings
from juicer.settings.irft import IrftTrainingSettings
from juicer.stages.launch import main
from juicer.stages.stage import Stage


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--round", required=True, help="round, for example r1; part of every seed")
    parser.add_argument("--policy", type=Path, required=True, help="policy that the round starts from")
    parser.add_argument(
        "--initial", type=Path, required=True, help="SFT policy, the reference in every round if so set"
    )
    parser.add_argument("--data", type=Path, required=True, help="curated data")
    parser.add_argument("--samples", type=Path, required=True, help="the policy's samples of this round")
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")


def run(stage: Stage) -> str:
    from juicer.data import demonstrations
    from juicer.data.dialogues import read_samples
    from juicer.methods.irft import irft_round
    from juicer.methods.pairs import contrasts_of, make_pairs, with_replay
    from juicer.models.loading import (
        TRAINING_DTYPE,
        load_policy,
        load_template,
        mixed_precision,
        read_training,
    )
    from juicer.models.precision import training_compute
    from juicer.models.shape import count_parameters
    from juicer.runtime.seeding import derive
    from juicer.training.adapters import add_adapters, frozen_weights, merge_adapters, save_trained
    from juicer.training.loop import steps_for
    from juicer.training.passes import passes_of
    from juicer.training.utilisation import peak_share

    given, settings = stage.arguments, stage.read("irft.training", IrftTrainingSettings)
    compute, seed = stage.read("compute", ComputeSettings), stage.value("seed")
    template = load_template(given.policy, stage.read("template", TemplateSettings))
    rows = list(demonstrations.read(given.data / "train.jsonl"))
    samples = with_replay(
        read_samples(given.samples), stage.value("irft.replay"), derive(seed, "irft", given.round, "replay")
    )
    pairs = make_pairs(rows, samples, template)
    frozen = frozen_weights(settings.lora, compute)
    policy = load_policy(given.policy, compute, TRAINING_DTYPE, frozen)
    training = training_compute(compute, count_parameters(policy))
    own = settings.reference == "round" or given.policy == given.initial
    reference = policy if own else load_policy(given.initial, compute, TRAINING_DTYPE, frozen)
    adapters = add_adapters(policy, settings.lora, derive(seed, "irft", given.round, "adapters"))
    dialogues = [each for pair in pairs for each in (pair.demonstration, pair.sample)]
    steps = steps_for(settings.epochs, len(contrasts_of(pairs)), settings.batch_size)
    with (
        stage.training(peak_share(policy, dialogues), steps=steps) as context,
        mixed_precision(training),
    ):
        order = derive(seed, "irft", given.round, "order")
        passes = passes_of(training, policy)
        record = irft_round(policy, reference, pairs, settings, template.padding, order, context, passes)
    merge_adapters(adapters)
    # Totals start at the SFT policy, because all models share the steps of SFT.
    record.continue_from(None if given.policy == given.initial else read_training(given.policy))
    stage.record(steps=record.steps, response_tokens=record.response_tokens)
    with stage.publish(given.out) as folder:
        save_trained(policy, template, folder, asdict(record), settings.lora, given.policy)
    margin, accuracy = (record.curves[name]["value"][-1] for name in ("margin", "accuracy"))
    return f"K = {record.steps} steps on {len(pairs)} pairs, margin {margin:.3f}, accuracy {accuracy:.2f}"


if __name__ == "__main__":
    main(run, arguments, __doc__)
