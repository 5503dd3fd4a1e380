"""Supervised fine-tuning on response tokens by TRL's SFTTrainer, on dialogues that are already tokenised."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from juicer.data.dialogues import Dialogue
from juicer.models.casts import WeightCasts
from juicer.models.loading import lower_precision, mixed_precision, skip_deepspeed_import
from juicer.models.log_probability import compute_in_chunks, dialogues_of, response_log_probabilities
from juicer.models.precision import training_compute
from juicer.models.shape import count_parameters
from juicer.runtime.context import LOCAL, WorkContext
from juicer.runtime.libraries import PPO_TRL, require
from juicer.runtime.processes import Processes
from juicer.settings.compute import ComputeSettings
from juicer.settings.sft import SftSettings
from juicer.training.adapters import keep_masters, lora_config, merge_adapters
from juicer.training.backends import unshard
from juicer.training.loop import steps_for
from juicer.training.memory import micro_batch, step_of
from juicer.training.record import TrainingRecord
from juicer.training.trainer import (
    LocalGpuRandomState,
    checkpoint_callbacks,
    deepspeed_arguments,
    on_single_cpu,
    progress_callback,
    saved_values,
    trainer_arguments,
    watch_callback,
)
from juicer.training.watching import CURVE, Watch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from juicer.data.template import Template

CURVES = {"loss": "loss", "gradient_norm": "grad_norm"}


def train_sft(
    policy: "PreTrainedModel",
    template: "Template",
    demonstrations: Sequence[Dialogue],
    settings: SftSettings,
    compute: ComputeSettings,
    seed: int,
    scratch: Path,
    context: WorkContext = LOCAL,
    *,
    stage: str = "sft",
    steps: int | None = None,
    watched: Sequence[Dialogue] = (),
) -> TrainingRecord:
    """Minimise the mean negative log-likelihood of the response tokens. Changes `policy` in place.

    Args:
        demonstrations: tokens; the loss is taken on the response only, end-of-text included.
        scratch: folder for the trainer's files.
        context: the demonstrations of each step are divided over its processes, whose number divides `batch_size`.
        steps: number of optimiser steps; None for `settings.epochs` epochs.
        watched: validation demonstrations whose likelihood is measured meanwhile, as `settings.watched_times` says.

    Raises:
        InputError: the loss is not finite; names the step.
    """
    require("trl", also=PPO_TRL)
    import datasets
    from transformers import PrinterCallback
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    class Trainer(LocalGpuRandomState, SFTTrainer):
        """SFT that counts its rows and tokens (an epoch's last step has fewer rows) and has a CPU path for the loss."""

        def get_batch_samples(self, *arguments: Any, **more: Any) -> Any:
            batches, items = super().get_batch_samples(*arguments, **more)
            for batch in batches:
                consumed["rows"] += len(batch["labels"])
                consumed["response_tokens"] += int((batch["labels"] != -100).sum())
            return batches, items

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            if not on_single_cpu(policy, processes):
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            dialogues = dialogues_of(inputs["input_ids"], inputs["attention_mask"], inputs["labels"] != -100)
            with mixed_precision(compute, casts):
                sums = compute_in_chunks(
                    partial(response_log_probabilities, policy), dialogues, template.padding, policy.device
                )
            return -sums.sum() / num_items_in_batch

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            if not on_single_cpu(policy, processes) or len(inputs["labels"]) <= micro:
                return super().training_step(model, inputs, num_items_in_batch)
            lengths = inputs["attention_mask"].sum(1)
            parts = lengths.argsort(descending=True, stable=True).split(micro)
            each = [{name: value[rows] for name, value in inputs.items()} for rows in parts]
            return sum(super(Trainer, self).training_step(model, part, num_items_in_batch) for part in each)

    processes, checkpoint = context.processes, context.checkpoint
    compute = training_compute(compute, count_parameters(policy))
    casts = WeightCasts()
    latest = checkpoint.latest() if checkpoint else None
    saved = saved_values(latest, processes) if latest else {}
    micro = saved.get("micro_batch_size") or _micro_batch(policy, demonstrations, settings, compute, processes)
    skip_deepspeed_import()
    datasets.disable_progress_bars()
    rows = datasets.Dataset.from_list(
        [
            {
                "input_ids": dialogue.prompt + dialogue.response,
                "completion_mask": [0] * len(dialogue.prompt) + [1] * len(dialogue.response),
            }
            for dialogue in demonstrations
        ]
    )
    # Of one process on a CPU, the micro-batches of a batch are made in `training_step`.
    passed = settings.batch_size if on_single_cpu(policy, processes) else micro
    steps = steps or steps_for(settings.epochs, len(rows), settings.batch_size)
    consumed = {"rows": 0, "response_tokens": 0}
    precision = partial(mixed_precision, compute)
    watch = Watch(policy, watched, template.padding, steps, settings.watched_times, micro, context, precision)
    trainer = Trainer(
        model=policy,
        processing_class=template.tokenizer,
        train_dataset=rows,
        args=SFTConfig(
            per_device_train_batch_size=passed,
            gradient_accumulation_steps=settings.batch_size // (passed * processes.world_size),
            max_length=None,
            completion_only_loss=True,
            max_steps=steps,
            **trainer_arguments(
                settings.optimiser, compute, seed, scratch, settings.gradient_checkpointing, context.tracking
            ),
            **deepspeed_arguments(processes, policy, compute),
        ),
        callbacks=[
            progress_callback(stage, CURVES, context, mean_tokens_per_step(demonstrations, settings.batch_size)),
            watch_callback(watch),  # before a checkpoint is saved, which keeps the points
            *checkpoint_callbacks(context, lambda: {**consumed, "micro_batch_size": micro}),
        ],
        peft_config=None if settings.lora is None else lora_config(settings.lora, policy),
    )
    trainer.remove_callback(PrinterCallback)
    if settings.lora is not None and not processes.zero_stage:
        keep_masters(trainer.model)
    consumed |= {name: saved[name] for name in consumed if saved}
    with casts.dropped_after_steps():
        trainer.train(resume_from_checkpoint=str(latest) if latest else None)
    if processes.zero_stage:
        unshard(trainer.model_wrapped)
    merge_adapters(None if settings.lora is None else trainer.model)
    record = TrainingRecord(stage, steps=steps)
    for entry in trainer.state.log_history:
        if "loss" in entry:
            record.log(int(entry["step"]), **{name: entry[key] for name, key in CURVES.items()})
        elif CURVE in entry:
            record.log(int(entry["step"]), **{CURVE: entry[CURVE]})
    shares = processes.gather(consumed)
    record.response_tokens = sum(share["response_tokens"] for share in shares)
    record.facts = {
        "epochs": round(sum(share["rows"] for share in shares) / len(demonstrations), 3),
        "precision": "bf16" if lower_precision(compute) else "fp32",
        "micro_batch_size": micro,
    }
    return record


def _micro_batch(
    policy: "PreTrainedModel",
    demonstrations: Sequence[Dialogue],
    settings: SftSettings,
    compute: ComputeSettings,
    processes: Processes,
) -> int:
    """Demonstrations per forward pass of a process."""
    alone, longest = on_single_cpu(policy, processes), max(map(len, demonstrations))
    step = step_of(
        policy,
        settings,
        lower=lower_precision(compute),
        sequences=1,
        length=longest,
        # Elsewhere TRL computes the logits of prompts too.
        heads=max(len(each.response) for each in demonstrations) if alone else longest,
        in_chunks=alone,
        processes=processes,
    )
    return micro_batch(settings.micro_batch_size, settings.batch_size, step, processes)


def mean_tokens_per_step(demonstrations: Sequence[Dialogue], batch_size: int) -> float:
    """Response tokens per optimiser step, on average over an epoch, whose last batch may be short."""
    return sum(len(each.response) for each in demonstrations) / steps_for(1, len(demonstrations), batch_size)
