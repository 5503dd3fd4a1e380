"""The generate step that IRFT and RFT share: sample the policy's own responses to a round's prompts."""

import argparse
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from juicer.settings.compute import ComputeSettings
from juicer.settings.data import TemplateSettings
from juicer.settings.training import GenerationSettings
from juicer.stages.stage import Stage, optional_path


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--round", required=True, help="round, for example r1; part of every seed")
    parser.add_argument("--part", default="all", help='slice of the demonstrations, "2/5" or "all"')
    parser.add_argument("--policy", type=Path, required=True, help="model folder of the policy")
    parser.add_argument("--data", type=Path, required=True, help="curated data")
    parser.add_argument(
        "--earlier", type=optional_path, help="samples of the round before, to be written behind the round's own"
    )
    parser.add_argument("--out", type=Path, required=True, help="samples to write (.jsonl)")


def generate(
    stage: Stage,
    method: str,
    seed: int,
    sampling: GenerationSettings,
    template_settings: TemplateSettings,
    validation: Path | None = None,
    watched: int = 0,
) -> str:
    """Sample with the policy in `--policy`; see `juicer.sampling.decoding`.

    Args:
        validation: file for one response to each of the first `watched` validation prompts; None writes none.
    """
    from juicer.data import demonstrations
    from juicer.data.dialogues import read_samples, write_samples
    from juicer.methods.pairs import part_of
    from juicer.models.loading import load_policy, load_template
    from juicer.runtime.seeding import derive
    from juicer.sampling.decoding import sample_responses
    from juicer.sampling.vllm_engine import engine, sample_by_vllm

    given = stage.arguments
    rows = part_of(list(demonstrations.read(given.data / "train.jsonl")), given.part, derive(seed, "slices"))
    template = load_template(given.policy, template_settings)
    compute = stage.read("compute", ComputeSettings)
    prompts = [(row.id, template.prompt(row.prompt)) for row in rows]
    asked = []
    if validation is not None and watched:
        held_back = list(demonstrations.read(given.data / "validation.jsonl"))[:watched]
        asked = [(row.id, template.prompt(row.prompt)) for row in held_back]
    purpose = derive(seed, method, given.round, "sampling")
    share = len(rows) * sampling.samples_per_prompt // stage.processes.world_size
    with ExitStack() as opened:
        if sampling.engine == "vllm":
            longest = max(len(prompt) for _, prompt in [*prompts, *asked]) + template.settings.max_response_tokens
            llm = opened.enter_context(engine(given.policy, compute, longest, sampling.batch_size, stage.processes))
            sample = partial(sample_by_vllm, llm)
        else:
            sample = partial(sample_responses, load_policy(given.policy, compute))
        with stage.batches(share, "sample") as context:
            samples = sample(template, prompts, sampling, purpose, context)
        if asked:
            single = sampling.model_copy(update={"samples_per_prompt": 1})
            with stage.batches(len(asked) // stage.processes.world_size, "sample", "validation") as context:
                watching = sample(template, asked, single, derive(purpose, "validation"), context)
    tokens = sum(len(sample.response) for sample in samples)
    stage.record(samples=len(samples), response_tokens=tokens)
    earlier = read_samples(given.earlier) if given.earlier else []
    if validation is not None:
        with stage.publish(validation) as path:
            write_samples(path, watching if asked else [])
    with stage.publish(given.out) as path:
        write_samples(path, [*samples, *(replace(each, earlier=each.earlier + 1) for each in earlier)])
    ended = sum(sample.ended for sample in samples) / len(samples)
    return f"{len(samples)} responses, {tokens / len(samples):.1f} tokens each, {ended:.0%} ended by themselves"
