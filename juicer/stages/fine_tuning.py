"""What the stages `sft` and `sft_matched` share: SFT by the objective of a recipe."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from juicer.settings.compute import ComputeSettings
from juicer.settings.sft import SftSettings
from juicer.stages.stage import WORK, Stage

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from juicer.data.dialogues import Dialogue
    from juicer.data.template import Template
    from juicer.methods.sft_variants import Samples
    from juicer.training.record import TrainingRecord


def starting_samples(
    stage: Stage,
    policy: "PreTrainedModel",
    template: "Template",
    prompts: Sequence[tuple[str, list[int]]],
    settings: SftSettings,
    compute: ComputeSettings,
    seed: int,
) -> "Samples":
    """The policy's own responses to the prompts of the demonstrations; none unless the objective needs them."""
    if settings.objective != "dft":
        return []
    from juicer.methods.sft_variants import sample_start
    from juicer.models.loading import mixed_precision

    share = len(prompts) * settings.dft.samples // stage.processes.world_size
    with stage.batches(share, "sample", "samples") as context, mixed_precision(compute):
        samples = sample_start(policy, template, prompts, settings.dft, seed, context)
    stage.record(samples=sum(map(len, samples)))
    return samples


def watched_dialogues(data: Path, template: "Template", settings: SftSettings) -> "list[Dialogue]":
    """The first validation demonstrations, whose likelihood is measured during the training; none if there are none.

    Args:
        data: the folder of curated data.
    """
    from juicer.data import demonstrations
    from juicer.data.dialogues import Dialogue

    path = data / "validation.jsonl"
    rows = islice(demonstrations.read(path), settings.watched) if path.is_file() else ()
    return [Dialogue(template.prompt(row.prompt), template.response(row.prompt, row.response)) for row in rows]


def tokens_per_step(dialogues: "Sequence[Dialogue]", samples: "Samples", settings: SftSettings) -> float:
    """Response tokens that an optimiser step trains on, on average; those of samples included."""
    if settings.objective == "nll":
        from juicer.methods import sft

        return sft.mean_tokens_per_step(dialogues, settings.batch_size)
    from juicer.methods import sft_variants

    return sft_variants.mean_tokens_per_step(dialogues, samples, settings.batch_size)


def fine_tune(
    stage: Stage,
    policy: "PreTrainedModel",
    template: "Template",
    dialogues: "Sequence[Dialogue]",
    samples: "Samples",
    settings: SftSettings,
    compute: ComputeSettings,
    seed: int,
    *,
    name: str = "sft",
    part: str = WORK,
    steps: int | None = None,
    watched: "Sequence[Dialogue]" = (),
) -> "TrainingRecord":
    """Train `policy`, in place, by the objective of the settings.

    Args:
        samples: as `starting_samples` gives them.
        name: of the record.
        part: name of this training, of several in one stage.
        steps: number of optimiser steps; None for `settings.epochs` epochs.
        watched: validation demonstrations, as `watched_dialogues` gives them.
    """
    from juicer.models.precision import training_compute
    from juicer.models.shape import count_parameters
    from juicer.training.passes import PADDED, passes_of
    from juicer.training.utilisation import peak_share

    passes = passes_of(training_compute(compute, count_parameters(policy)), policy)
    if settings.objective == "nll" and has_dropout(policy, settings):
        passes = PADDED  # the loop of packed rows has none
    share = peak_share(policy, [*dialogues, *(each for own in samples for each in own)])
    if settings.objective == "nll" and not passes.packed:
        from juicer.methods.sft import train_sft

        with stage.scratch() as scratch, stage.training(share, part) as context:
            return train_sft(
                policy,
                template,
                dialogues,
                settings,
                compute,
                seed,
                scratch,
                context,
                stage=name,
                steps=steps,
                watched=watched,
            )
    from juicer.methods.sft_variants import steps_of, train_variant

    planned = steps_of(len(dialogues), settings, steps)
    with stage.training(share, part, steps=planned) as context:
        return train_variant(
            policy,
            dialogues,
            samples,
            settings,
            template.padding,
            compute,
            seed,
            context,
            stage=name,
            steps=steps,
            watched=watched,
            passes=passes,
        )


def has_dropout(policy: "PreTrainedModel", settings: SftSettings) -> bool:
    """Whether SFT trains with dropout: of the adapters, or of the model itself."""
    import torch

    if settings.lora is not None and settings.lora.dropout > 0:
        return True
    configured = getattr(policy.config.get_text_config(decoder=True), "attention_dropout", 0.0) or 0.0
    return configured > 0 or any(isinstance(each, torch.nn.Dropout) and each.p > 0 for each in policy.modules())
