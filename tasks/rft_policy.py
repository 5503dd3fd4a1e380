"""Policy alignment: maximise the learnt reward, KL-regularised to the SFT policy (RFT, Algorithm 1)."""

import argparse
from dataclasses import asdict
from functools import partial
from pathlib import Path

from juicer.settings.compute import ComputeSettings
from juicer.settings.data import TemplateSettings
from juicer.settings.rft import PolicyAlignmentSettings, PpoSettings
from juicer.stages.launch import main
from juicer.stages.stage import Stage


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--round", required=True, help="round, for example r1; part of every seed")
    parser.add_argument("--policy", type=Path, required=True, help="policy that the round starts from")
    parser.add_argument("--initial", type=Path, required=True, help="SFT policy, the reference of the KL term")
    parser.add_argument("--reward", type=Path, required=True, help="this round's reward model")
    parser.add_argument("--data", type=Path, required=True, help="curated data")
    parser.add_argument("--samples", type=Path, required=True, help="this round's samples, which determine its prompts")
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")


def run(stage: Stage) -> str:
    from juicer.data import demonstrations
    from juicer.data.dialogues import read_samples
    from juicer.methods.policy_alignment import align_policy
    from juicer.methods.ppo import align_policy_by_ppo
    from juicer.methods.reading import reader_of
    from juicer.methods.reward import load_reward
    from juicer.models.loading import TRAINING_DTYPE, load_policy, load_template, read_training
    from juicer.runtime.errors import InputError
    from juicer.runtime.seeding import derive
    from juicer.training.adapters import frozen_weights, save_trained

    given, settings = stage.arguments, stage.read("rft.policy", PolicyAlignmentSettings)
    compute, seed = stage.read("compute", ComputeSettings), stage.value("seed")
    template = load_template(given.policy, stage.read("template", TemplateSettings))
    reader, use_ppo = reader_of(template, given.policy, given.reward), stage.value("rft.optimiser") == "ppo"
    if use_ppo and reader.text:
        what = "the reward has another tokenizer than the policy, and PPO passes it the policy's token ids"
        raise InputError(what, where="rft.optimiser", do="set rft.optimiser to rloo")
    policy = load_policy(given.policy, compute, TRAINING_DTYPE, frozen_weights(settings.lora, compute))
    reward = load_reward(given.reward, compute, seed)
    learnt = read_training(given.reward) or {}
    facts = learnt["facts"]
    sampled = {sample.id for sample in read_samples(given.samples) if not sample.earlier}
    prompts = [row.prompt for row in demonstrations.read(given.data / "train.jsonl") if row.id in sampled]
    prompts = [prompt for prompt in prompts if reader.takes(prompt)]
    normaliser = (facts["normaliser_mean"], facts["normaliser_deviation"])
    ppo = stage.read("rft.ppo", PpoSettings)
    optimise = partial(align_policy_by_ppo, ppo=ppo) if use_ppo else partial(align_policy, reader=reader)
    # TRL's PPO cannot resume, so it gets no checkpoint and a request to end need not wait for the next save.
    with stage.scratch() as scratch, stage.training(None, resumable=not use_ppo) as context:
        seed = derive(seed, "rft", given.round, "policy")
        record = optimise(
            policy, given.initial, reward, normaliser, template, prompts, settings, compute, seed, scratch, context
        )
    record.continue_from(None if given.policy == given.initial else read_training(given.policy))
    # The reward's steps are part of the method's cost, which the control has to match.
    record.total_steps += learnt["steps"]
    record.total_response_tokens += learnt["response_tokens"]
    stage.record(steps=record.steps, response_tokens=record.response_tokens)
    with stage.publish(given.out) as folder:
        values = {**asdict(record), "reward": learnt}
        save_trained(policy, template, folder, values, settings.lora, given.policy)
    first, last = (record.curves["reward"]["value"][index] for index in (0, -1))
    return f"{record.steps} steps, learnt reward {first:.2f} -> {last:.2f}"


if __name__ == "__main__":
    main(run, arguments, __doc__)
