"""The training loop of IRFT, the reward model, GEM and DFT: K optimiser steps over seeded batches, each recorded."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from juicer.models.packing import packed_attention_of
from juicer.runtime.context import LOCAL, WorkContext
from juicer.runtime.errors import InputError
from juicer.runtime.processes import SINGLE_PROCESS, Processes
from juicer.settings.training import OptimiserSettings
from juicer.training.backends import Losses, ReplicatedBackend, TrainingBackend, ZeroBackend
from juicer.training.masters import Masters
from juicer.training.passes import token_passes
from juicer.training.record import TrainingRecord
from juicer.training.state import load_progress, save_progress, trainable

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def steps_for(epochs: float, rows: int, batch_size: int) -> int:
    """K = ceil(epochs * rows / batch size)."""
    return math.ceil(epochs * rows / batch_size)


def shuffled_batches(rows: int, batch_size: int, epochs: float, seed: int) -> Iterator[list[int]]:
    """K batches of row indices from concatenated seeded permutations; only the last batch may be short."""
    generator = torch.Generator().manual_seed(seed)
    wanted = math.ceil(epochs * rows)
    stream: list[int] = []
    while len(stream) < wanted:
        stream += torch.randperm(rows, generator=generator).tolist()
    for start in range(0, wanted, batch_size):
        yield stream[start : min(start + batch_size, wanted)]


def make_optimiser(
    parameters: Sequence[torch.nn.Parameter], settings: OptimiserSettings, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """The optimiser of a recipe and its schedule: linear warm-up, then linear decay to zero after `steps` or none."""
    from transformers import get_constant_schedule_with_warmup, get_linear_schedule_with_warmup

    optimiser: torch.optim.Optimizer
    if settings.name == "rmsprop":
        optimiser = torch.optim.RMSprop(parameters, lr=settings.learning_rate)
    else:
        optimiser = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=0.0, fused=True)
    warmup = math.ceil(settings.warmup_ratio * steps)
    if settings.schedule == "constant":
        return optimiser, get_constant_schedule_with_warmup(optimiser, warmup)
    return optimiser, get_linear_schedule_with_warmup(optimiser, warmup, steps)


def recompute_activations(model: "PreTrainedModel") -> None:
    """Enable gradient checkpointing in a model that stays in evaluation mode, in which transformers ignores it."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    model.gradient_checkpointing_enable()
    for module in model.modules():
        # Only the layer's own flag changes; its children, dropout included, stay in evaluation mode.
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True


def micro_batches(
    rows: Sequence[int],
    micro_batch_size: int | None,
    processes: Processes = SINGLE_PROCESS,
    lengths: Sequence[int] | None = None,
) -> Iterator[tuple[list[int], int]]:
    """This process's micro-batches of a batch: row indices, and how many of them count.

    Several micro-batches take the rows by their lengths, if these are given, the longest first. Sharded weights require
    that every process runs equally many forward passes over equally many rows, so a short share is padded with a row
    that does not count.
    """
    whole = micro_batch_size is None or micro_batch_size * processes.world_size >= len(rows)
    if lengths is not None and not whole:
        rows = sorted(rows, key=lambda row: -lengths[row])
    share = list(rows[processes.rank :: processes.world_size])
    padded = share + [rows[-1]] * (math.ceil(len(rows) / processes.world_size) - len(share))
    size = micro_batch_size or len(padded)
    for start in range(0, len(padded), size):
        yield padded[start : start + size], max(0, min(size, len(share) - start))


def train_loop(
    model: torch.nn.Module,
    batches: Iterable[list[int]],
    steps: int,
    loss_of: Callable[[list[int]], Losses],
    settings: OptimiserSettings,
    micro_batch_size: int | None,
    record: TrainingRecord,
    context: WorkContext = LOCAL,
    *,
    lengths: Sequence[int] | None = None,
    tokens_per_pass: int | None = None,
    masters: Masters | None = None,
    after_step: Callable[[], None] | None = None,
) -> None:
    """Take `steps` optimiser steps, one per batch of row indices.

    Args:
        loss_of: returns the loss, and other quantities to plot, of the rows with the given indices: (rows,) each.
        micro_batch_size: rows per forward pass of a process; the gradient is always that of the mean over the batch. A
            checkpoint goes on with its own.
        after_step: is called after every step, before a checkpoint is saved, by all processes.
        lengths: of all rows; the rows of several micro-batches are taken in their order, which saves padding.
        tokens_per_pass: tokens of a pass of packed rows, which then replaces the micro-batch.
        masters: of the model's weights, where passes compute with copies of them.
        context: the rows of each batch are divided over its processes, each of which holds the whole model before and
            after; training resumes from its checkpoint, which is saved between two steps; its progress counts steps.

    Raises:
        InputError: the loss or the gradient is not finite; names the step.
    """
    processes, checkpoint = context.processes, context.checkpoint
    trained = trainable(model) if masters is None else masters.named
    device = next(iter(trained.values())).device
    optimiser, schedule = make_optimiser(list(trained.values()), settings, steps)
    backend: TrainingBackend
    if processes.zero_stage:
        backend = ZeroBackend(model, loss_of, optimiser, settings.max_gradient_norm, processes)
    else:
        backend = ReplicatedBackend(trained, loss_of, optimiser, settings.max_gradient_norm, processes, masters)

    def write(folder: Path) -> None:
        backend.save(folder)
        if processes.is_local_main:
            save_progress(folder, schedule, record)

    lower = masters is not None or torch.is_autocast_enabled(device.type)
    record.facts |= {"precision": "bf16" if lower else "fp32", "micro_batch_size": micro_batch_size}
    if tokens_per_pass is not None:
        record.facts |= {
            "tokens_per_pass": tokens_per_pass,
            "weights": "fp32" if masters is None else "bf16",
            "packed_attention": packed_attention_of(device, lower=lower),
        }
    done = 0
    if latest := checkpoint.latest() if checkpoint else None:
        backend.load(latest)
        done = load_progress(latest, schedule, record)
        micro_batch_size = record.facts["micro_batch_size"]
        tokens_per_pass = record.facts.get("tokens_per_pass")
    context.progress(done)
    for step, rows in enumerate(batches, 1):
        if step <= done:
            continue
        if tokens_per_pass is not None and lengths is not None:
            passes = token_passes(rows, tokens_per_pass, lengths, processes)
        else:
            passes = list(micro_batches(rows, micro_batch_size, processes, lengths))
        sums: dict[str, Tensor] = {}
        for number, (micro, counted) in enumerate(passes, 1):
            losses, values = backend.losses(micro)
            share = counted / len(rows)
            mean = losses[:counted].mean() if counted else losses.sum()
            backend.backward(mean * share, last=number == len(passes))
            for name, value in ({"loss": losses.detach()} | values).items():
                # On the device and in float64: nothing waits for the device before the step's end.
                part = value[:counted].mean().double() * share if counted else torch.zeros_like(value[0].double())
                sums[name] = sums[name] + part if name in sums else part
        rate = float(schedule.get_last_lr()[0])
        norm, *totals = backend.gradient_norm(torch.stack(list(sums.values()))).tolist()
        plotted = dict(zip(sums, totals, strict=True))
        if not math.isfinite(plotted["loss"]) or not math.isfinite(norm):
            raise InputError(
                f"the loss is {plotted['loss']} and the gradient norm {norm} at step {step} of {steps}",
                where=record.stage,
                do="lower the learning rate, or check the data; nothing was saved",
            )
        point = {"loss": plotted.pop("loss"), "gradient_norm": norm, "learning_rate": rate, **plotted}
        record.log(step, **point)
        context.emit_metrics(step, **point)
        context.emit_tokens(record.response_tokens / steps)
        backend.step()
        schedule.step()
        if after_step is not None:
            after_step()
        context.progress(1)
        if checkpoint and checkpoint.due():
            checkpoint.save(write)
    backend.close()
    record.steps += steps
