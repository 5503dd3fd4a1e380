"""The generate step that IRFT and RFT share: sample the policy's own responses to a round's prompts."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class Watching:
    """One response to each of some validation prompts, beside the round's own."""

    policy: Path
    """Model folder of the policy that answers them."""
    out: Path
    """Samples to write (.jsonl)."""
    prompts: int
    """The first so many, at most."""


def generate(
    stage: Stage,
    method: str,
    seed: int,
    sampling: GenerationSettings,
    template_settings: TemplateSettings,
    watching: Watching | None = None,
) -> str:
    """Sample with the policy in `--policy`; see `juicer.sampling.decoding`."""
    from juicer.data import demonstrations
    from juicer.data.dialogues import Sample, read_samples, write_samples
    from juicer.methods.pairs import part_of
    from juicer.models.loading import load_template
    from juicer.runtime.seeding import derive
    from juicer.sampling.engines import sampler

    given = stage.arguments
    rows = part_of(list(demonstrations.read(given.data / "train.jsonl")), given.part, derive(seed, "slices"))
    template = load_template(given.policy, template_settings)
    compute = stage.read("compute", ComputeSettings)
    purpose = derive(seed, method, given.round, "sampling")
    asked = sampling.engine

    def draw(policy: Path, jobs: Sequence[Job]) -> list[list[Sample]]:
        nonlocal asked
        longest = max(len(prompt) for job in jobs for _, prompt in job.prompts) + template.settings.max_response_tokens
        with sampler(asked, policy, compute, longest, stage.processes, f"{method}.sampling.engine") as sample:
            # Kept batches of one engine are never completed by the other.
            stage.depend("engine", sample.engine)
            stage.note(engine=sample.engine)
            asked = sample.taken
            found = []
            for job in jobs:
                share = len(job.prompts) * job.sampling.samples_per_prompt // stage.processes.world_size
                with stage.batches(share, "sample", *job.name) as context:
                    found.append(sample(template, job.prompts, job.sampling, job.seed, context))
            return found

    own = Job([(row.id, template.prompt(row.prompt)) for row in rows], sampling, purpose)
    others = []
    if watching is not None and watching.prompts:
        held_back = list(demonstrations.read(given.data / "validation.jsonl"))[: watching.prompts]
        others = [(row.id, template.prompt(row.prompt)) for row in held_back]
    samples, watched = [], []
    if watching is not None and others:
        single = sampling.model_copy(update={"samples_per_prompt": 1})
        beside = Job(others, single, derive(purpose, "validation"), ("validation",))
        if watching.policy == given.policy:
            samples, watched = draw(given.policy, [own, beside])
        else:
            (samples,), (watched,) = draw(given.policy, [own]), draw(watching.policy, [beside])
    else:
        (samples,) = draw(given.policy, [own])
    tokens = sum(len(sample.response) for sample in samples)
    stage.record(samples=len(samples), response_tokens=tokens)
    earlier = read_samples(given.earlier) if given.earlier else []
    if watching is not None:
        with stage.publish(watching.out) as path:
            write_samples(path, watched)
    with stage.publish(given.out) as path:
        write_samples(path, [*samples, *(replace(each, earlier=each.earlier + 1) for each in earlier)])
    ended = sum(sample.ended for sample in samples) / len(samples)
    return f"{len(samples)} responses, {tokens / len(samples):.1f} tokens each, {ended:.0%} ended by themselves"


@dataclass(frozen=True)
class Job:
    """Prompts that one policy answers."""

    prompts: list[tuple[str, list[int]]]
    """Id and tokens of each."""
    sampling: GenerationSettings
    seed: int
    name: tuple[str, ...] = ()
    """Tells its progress and its kept samples from those of another job of the stage."""
