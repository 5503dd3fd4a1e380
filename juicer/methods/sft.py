"""Supervised fine-tuning on response tokens, by TRL's SFTTrainer on tokens that our template made."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from juicer.models.adapters import lora_config, merge_adapters
from juicer.models.loading import device_of, lower_precision, mixed_precision, spare_deepspeed
from juicer.models.log_probability import Dialogue, by_length_in_chunks, dialogues_of, response_log_probabilities
from juicer.runtime.errors import InputError
from juicer.runtime.events import tell_point, tell_tokens
from juicer.runtime.processes import ALONE, Processes
from juicer.settings.compute import ComputeSettings
from juicer.settings.sft import SftSettings
from juicer.settings.training import OptimiserSettings
from juicer.training.backends import make_whole, zero_configuration
from juicer.training.loop import TrainingRecord
from juicer.training.state import Checkpoint, OwnRandomState, keep_trainer, kept_values

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
    *,
    stage: str = "sft",
    steps: int | None = None,
    checkpoint: Checkpoint | None = None,
    processes: Processes = ALONE,
) -> TrainingRecord:
    """Minimise the mean negative log-likelihood of the response tokens. Changes `policy` in place.

    Args:
        demonstrations: tokens; the loss is taken on the response only, end-of-text included.
        scratch: folder for the trainer's files.
        steps: optimiser steps; None is `epochs` passes.
        checkpoint: where an interrupted run is continued from, and what it is saved to between two steps.
        processes: over which the demonstrations of each step are divided; their number divides `batch_size`.

    Raises:
        InputError: the loss is not finite; names the step.
    """
    import datasets
    from transformers import PrinterCallback
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    class Trainer(OwnRandomState, SFTTrainer):
        """SFT with the same loss from fewer operations: only response positions reach the output head.

        It counts what it is given, because the last step of an epoch has fewer rows than the others.
        """

        def get_batch_samples(self, *arguments: Any, **more: Any) -> Any:
            batches, items = super().get_batch_samples(*arguments, **more)
            for batch in batches:
                passed["rows"] += len(batch["labels"])
                passed["response_tokens"] += int((batch["labels"] != -100).sum())
            return batches, items

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            if not plain_on_cpu(policy, processes):
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            dialogues = dialogues_of(inputs["input_ids"], inputs["attention_mask"], inputs["labels"] != -100)
            with mixed_precision(compute):
                sums = by_length_in_chunks(
                    partial(response_log_probabilities, policy), dialogues, template.padding, policy.device
                )
            return -sums.sum() / num_items_in_batch

    spare_deepspeed()
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
    micro = settings.micro_batch_size or settings.batch_size // processes.size
    steps = steps or math.ceil(settings.epochs * len(rows) / settings.batch_size)
    passed = {"rows": 0, "response_tokens": 0}
    trainer = Trainer(
        model=policy,
        processing_class=template.tokenizer,
        train_dataset=rows,
        args=SFTConfig(
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=settings.batch_size // (micro * processes.size),
            max_length=None,
            completion_only_loss=True,
            max_steps=steps,
            **trainer_arguments(settings.optimiser, compute, seed, scratch, settings.gradient_checkpointing),
            **sharding(processes, policy, compute),
        ),
        callbacks=[
            follow(stage, CURVES, mean_tokens_per_step(demonstrations, settings.batch_size)),
            *([keep_trainer(checkpoint, processes, lambda: passed)] if checkpoint else []),
        ],
        peft_config=None if settings.lora is None else lora_config(settings.lora),
    )
    trainer.remove_callback(PrinterCallback)
    latest = checkpoint.latest() if checkpoint else None
    if latest:
        passed |= {name: kept_values(latest, processes)[name] for name in passed}
    trainer.train(resume_from_checkpoint=str(latest) if latest else None)
    if processes.zero_stage:
        make_whole(trainer.model_wrapped)
    merge_adapters(None if settings.lora is None else trainer.model)
    record = TrainingRecord(stage, steps=steps)
    for entry in trainer.state.log_history:
        if "loss" in entry:
            record.log(int(entry["step"]), **{name: entry[key] for name, key in CURVES.items()})
    shares = processes.gather(passed)
    record.response_tokens = sum(share["response_tokens"] for share in shares)
    record.facts = {"epochs": round(sum(share["rows"] for share in shares) / len(demonstrations), 3)}
    return record


def mean_tokens_per_step(demonstrations: Sequence[Dialogue], batch_size: int) -> float:
    """Response tokens of a step, on average over an epoch, whose last step has the rows that are left."""
    return sum(len(each.response) for each in demonstrations) / math.ceil(len(demonstrations) / batch_size)


def plain_on_cpu(policy: "PreTrainedModel", processes: Processes) -> bool:
    """Whether a trainer may call the policy's parts itself, and gains by it.

    On a GPU TRL's kernel skips the prompts too; on a CPU it puts them through the head, and makes statistics of them.
    """
    return policy.device.type == "cpu" and processes.size == 1 and not processes.zero_stage


def trainer_arguments(
    optimiser: OptimiserSettings, compute: ComputeSettings, seed: int, scratch: Path, gradient_checkpointing: bool
) -> dict[str, Any]:
    """What every TRL trainer gets: precision and device of the recipe, linear schedule, no files, no reporting."""
    cpu = device_of(compute).type == "cpu"
    return {
        "output_dir": str(scratch),
        "optim": "rmsprop" if optimiser.name == "rmsprop" else "adamw_torch",
        "learning_rate": optimiser.learning_rate,
        "lr_scheduler_type": "linear",
        # transformers reads a number of warm-up steps below 1 as a share of all steps.
        "warmup_steps": optimiser.warmup_ratio,
        "max_grad_norm": optimiser.max_gradient_norm or 0.0,
        "weight_decay": 0.0,
        "use_cpu": cpu,
        "ddp_find_unused_parameters": False,
        # Under ZeRO it is DeepSpeed that casts.
        "bf16": lower_precision(compute) and not compute.zero_stage,
        "gradient_checkpointing": gradient_checkpointing,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "save_on_each_node": True,  # a checkpoint is each machine's own
        "report_to": "none",
        "disable_tqdm": True,
        "seed": seed,
        "data_seed": seed,
        "dataloader_pin_memory": not cpu,
    }


def sharding(processes: Processes, policy: "PreTrainedModel", compute: ComputeSettings) -> dict[str, Any]:
    """What a TRL trainer gets besides if DeepSpeed shards its model; it knows the batch sizes itself."""
    if not processes.zero_stage:
        return {}
    known = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    configuration = zero_configuration(processes.zero_stage, policy, lower_precision(compute))
    return {"deepspeed": configuration | dict.fromkeys(known, "auto")}


def follow(stage: str, curves: Mapping[str, str], tokens_per_step: float = 0.0) -> Any:
    """A callback that shows progress, and ends training at the first loss that is not finite.

    Args:
        curves: what is shown to those who watch, and what the trainer calls it.
        tokens_per_step: response tokens, where the sampler does not count them.
    """
    from tqdm import tqdm
    from transformers import TrainerCallback
    from transformers.trainer_utils import IntervalStrategy

    class Follow(TrainerCallback):
        def __init__(self) -> None:
            self.bar: Any = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            assert args.logging_strategy == IntervalStrategy.STEPS
            self.bar = tqdm(
                total=state.max_steps, initial=state.global_step, desc=stage, unit="step", disable=None, leave=False
            )

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar.update()
            if tokens_per_step:
                tell_tokens(tokens_per_step)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar.close()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            for name in ("loss", "grad_norm"):
                value = float((logs or {}).get(name, 0.0))
                if not math.isfinite(value):
                    raise InputError(
                        f"{name} is {value} at step {state.global_step} of {state.max_steps}",
                        where=stage,
                        do="lower the learning rate, or check the data; nothing was saved",
                    )
            point = {name: float(logs[key]) for name, key in curves.items() if key in (logs or {})}
            if point:
                tell_point(state.global_step, **point)

    return Follow()
