"""SFT in the training loop that IRFT uses: by other objectives than the likelihood, and by any on packed rows.

`juicer.methods.sft` has the likelihood on padded rows, by TRL. Dropout stays off here, as in IRFT.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from juicer.data.dialogues import Dialogue
from juicer.data.template import Template
from juicer.methods.sft_objectives import dft_log_normaliser, dft_log_ratios, dft_loss, gem_and_likelihood
from juicer.models.loading import mixed_precision
from juicer.models.log_probability import (
    compute_in_chunks,
    response_log_probabilities,
    response_sums,
    score_dialogues,
)
from juicer.models.packing import on_device
from juicer.models.precision import training_compute
from juicer.models.shape import count_parameters
from juicer.runtime.context import LOCAL, WorkContext
from juicer.runtime.processes import Processes
from juicer.sampling.decoding import sample_responses
from juicer.settings.compute import ComputeSettings
from juicer.settings.sft import DftSettings, SftSettings
from juicer.settings.training import SamplingSettings
from juicer.training.adapters import add_adapters, merge_adapters
from juicer.training.backends import Losses
from juicer.training.loop import recompute_activations, shuffled_batches, steps_for, train_loop
from juicer.training.memory import step_of
from juicer.training.passes import PADDED, Passes, before_training, pass_size
from juicer.training.record import TrainingRecord
from juicer.training.watching import CURVE, Watch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Samples = Sequence[Sequence[Dialogue]]
"""The starting policy's own responses to the prompt of each demonstration; empty for an objective without them."""
LossOf = Callable[[list[int]], Losses]


def sample_start(
    policy: "PreTrainedModel",
    template: Template,
    prompts: Sequence[tuple[str, list[int]]],
    settings: DftSettings,
    seed: int,
    context: WorkContext = LOCAL,
) -> Samples:
    """Responses y' ~ ref(.|x) of the policy that DFT starts from, as many per prompt as the settings say.

    Args:
        prompts: (id, tokens) of each demonstration's prompt.
    """
    sampling = SamplingSettings(samples_per_prompt=settings.samples, batch_size=settings.sampling_batch_size)
    found = sample_responses(policy, template, prompts, sampling, seed, context)
    dialogues = [Dialogue(sample.prompt, sample.response) for sample in found]
    return [dialogues[start : start + settings.samples] for start in range(0, len(dialogues), settings.samples)]


def train_variant(
    policy: "PreTrainedModel",
    demonstrations: Sequence[Dialogue],
    samples: Samples,
    settings: SftSettings,
    padding: int,
    compute: ComputeSettings,
    seed: int,
    context: WorkContext = LOCAL,
    *,
    stage: str = "sft",
    steps: int | None = None,
    watched: Sequence[Dialogue] = (),
    passes: Passes = PADDED,
) -> TrainingRecord:
    """SFT in the loop of IRFT, by any `objective`. Changes `policy` in place.

    The loss of a row is its sum over tokens, divided by the mean number of response tokens of all demonstrations. So an
    epoch is a mean over tokens, as with the likelihood, and learning rates are comparable.

    Args:
        samples: for DFT; responses of `policy` as it is now.
        padding: any token id.
        seed: determines the order of the demonstrations, and new adapters.
        context: see `train_loop`.
        steps: number of optimiser steps; None for `settings.epochs` epochs.
        watched: validation demonstrations whose likelihood is measured meanwhile, as `settings.watched_times` says.
        passes: how `policy` computes.

    Raises:
        InputError: the loss is not finite; names the step.
    """
    batches = batches_of(len(demonstrations), settings, seed, steps)
    lengths = row_tokens(demonstrations, samples)
    record = TrainingRecord(stage, response_tokens=sum(lengths[row] for rows in batches for row in rows))
    sampled = [sum(map(len, own)) for own in samples] or [0] * len(demonstrations)
    every = [*demonstrations, *(each for own in samples for each in own)]
    training = training_compute(compute, count_parameters(policy))
    adapters = add_adapters(policy, settings.lora, seed)
    policy.eval()
    with mixed_precision(training), ExitStack() as entered:
        step = step_of(
            policy,
            settings,
            lower=passes.copies or torch.is_autocast_enabled(policy.device.type),
            sequences=len(every) // len(demonstrations),
            length=max(map(len, every)),
            heads=max(len(each.response) for each in every),
            in_chunks=True,
            processes=context.processes,
            copies=passes.copies,
        )
        tokens = [len(each) + others for each, others in zip(demonstrations, sampled, strict=True)]
        micro, pass_tokens = pass_size(passes, settings, step, max(tokens), context)
        masters = entered.enter_context(passes.entered(policy))
        normalisers: LogNormalisers | None = None
        batches_in_turn: Iterable[list[int]] = batches
        if settings.objective == "dft":
            normalisers = LogNormalisers(record, len(demonstrations), context.processes)
            log_policy = dft_log_probabilities(policy, demonstrations, samples, padding, packed=passes.packed)
            if pass_tokens is not None:
                of_samples = partial(_listed, log_policy)
                listed = before_training(of_samples, batches, pass_tokens, tokens, context)
                log_reference = torch.tensor(listed, device=policy.device)
            else:
                log_reference = sample_log_probabilities(policy, samples, padding, context)
            lengths_of = _lengths(policy, demonstrations)
            loss_of = dft(log_policy, log_reference, lengths_of, settings.dft, normalisers)
        elif settings.objective == "gem":
            loss_of = gem(policy, demonstrations, settings.gem.temperature, padding, packed=passes.packed)
        else:
            means = MeanLengths(batches, [len(each.response) for each in demonstrations])
            batches_in_turn = means.in_turn()
            loss_of = nll(policy, demonstrations, means, padding, packed=passes.packed)
        if settings.gradient_checkpointing:
            recompute_activations(policy)
        watch = Watch(
            policy,
            watched,
            padding,
            len(batches),
            settings.watched_times,
            micro or settings.batch_size,
            context,
            tokens=pass_tokens,
        )

        def after_step() -> None:
            if normalisers is not None:
                normalisers.commit()
            watch_step(int(record.curves["loss"]["step"][-1]))

        def watch_step(step: int) -> None:
            if (value := watch.after(step)) is not None:
                record.log(step, **{CURVE: value})

        def loss_of_step(rows: list[int]) -> Losses:
            if not record.curves:  # before the first step; a resumed run has them
                watch_step(0)
            return loss_of(rows)

        train_loop(
            policy,
            batches_in_turn,
            len(batches),
            loss_of_step,
            settings.optimiser,
            micro,
            record,
            context,
            lengths=tokens,
            tokens_per_pass=pass_tokens,
            masters=masters,
            after_step=after_step,
        )
    merge_adapters(adapters)
    if normalisers is not None:
        record.facts["mean_log_normaliser"] = normalisers.close()
    rows = sum(map(len, batches))
    record.facts |= {"objective": settings.objective, "epochs": round(rows / len(demonstrations), 3)}
    return record


def batches_of(rows: int, settings: SftSettings, seed: int, steps: int | None) -> list[list[int]]:
    """The rows of every optimiser step: so many steps, or `settings.epochs` epochs."""
    if not steps:
        return list(shuffled_batches(rows, settings.batch_size, settings.epochs, seed))
    # Rounding may make one row too many.
    return list(islice(shuffled_batches(rows, settings.batch_size, steps * settings.batch_size / rows, seed), steps))


def row_tokens(demonstrations: Sequence[Dialogue], samples: Samples) -> list[int]:
    """Response tokens that are trained on with each demonstration: its own and its samples'."""
    found = [len(each.response) for each in demonstrations]
    for row, own in enumerate(samples):
        found[row] += sum(len(each.response) for each in own)
    return found


def mean_tokens_per_step(demonstrations: Sequence[Dialogue], samples: Samples, batch_size: int) -> float:
    """Response tokens per optimiser step, on average over an epoch; batches go on over the ends of epochs."""
    return batch_size * sum(row_tokens(demonstrations, samples)) / len(demonstrations)


def steps_of(rows: int, settings: SftSettings, steps: int | None) -> int:
    """Number of optimiser steps that `train_variant` takes."""
    return steps or steps_for(settings.epochs, rows, settings.batch_size)


class MeanLengths:
    """The mean number of response tokens of the batch that is being trained on."""

    def __init__(self, batches: Sequence[list[int]], lengths: Sequence[int]) -> None:
        self._batches, self._lengths = batches, lengths
        self.now = math.nan

    def in_turn(self) -> Iterator[list[int]]:
        """The batches, each when it is trained on."""
        for rows in self._batches:
            self.now = sum(self._lengths[row] for row in rows) / len(rows)
            yield rows


def nll(
    policy: "PreTrainedModel", demonstrations: Sequence[Dialogue], means: MeanLengths, padding: int, *, packed: bool
) -> LossOf:
    """-log pi(y|x) of the rows with the given indices; in a batch the mean over its tokens, as TRL's trainer has it."""
    compute = partial(response_log_probabilities, policy)

    def loss_of(rows: list[int]) -> Losses:
        dialogues = [demonstrations[row] for row in rows]
        return -compute_in_chunks(compute, dialogues, padding, policy.device, packed=packed) / means.now, {}

    return loss_of


def gem(
    policy: "PreTrainedModel",
    demonstrations: Sequence[Dialogue],
    temperature: float,
    padding: int,
    *,
    packed: bool = False,
) -> LossOf:
    """The loss of GEM, see `juicer.methods.sft_objectives.gem_loss`, of the rows with the given indices."""
    lengths = _lengths(policy, demonstrations)
    function = partial(gem_and_likelihood, temperature=temperature)
    sums = partial(response_sums, policy, function)

    def loss_of(rows: list[int]) -> Losses:
        at = on_device(torch.tensor(rows), policy.device)
        both = compute_in_chunks(sums, [demonstrations[row] for row in rows], padding, policy.device, packed=packed)
        likelihood = both[:, 1].detach() / lengths[at]
        return both[:, 0] / lengths.mean(), {"demonstration_log_probability": likelihood}

    return loss_of


def dft_log_probabilities(
    policy: "PreTrainedModel", demonstrations: Sequence[Dialogue], samples: Samples, padding: int, *, packed: bool
) -> Callable[[list[int]], tuple[Tensor, Tensor]]:
    """log pi(y|x), (rows,), and log pi(y'|x), (rows, samples), of the rows with the given indices, differentiable."""
    compute = partial(response_log_probabilities, policy)

    def log_policy(rows: list[int]) -> tuple[Tensor, Tensor]:
        dialogues = [demonstrations[row] for row in rows] + [each for row in rows for each in samples[row]]
        values = compute_in_chunks(compute, dialogues, padding, policy.device, packed=packed)
        return values[: len(rows)], values[len(rows) :].view(len(rows), -1)

    return log_policy


def _listed(log_policy: Callable[[list[int]], tuple[Tensor, Tensor]], rows: list[int]) -> list[list[float]]:
    found: list[list[float]] = log_policy(rows)[1].tolist()
    return found


def sample_log_probabilities(
    policy: "PreTrainedModel", samples: Samples, padding: int, context: WorkContext = LOCAL
) -> Tensor:
    """log pi(y'|x) of all samples, (demonstrations, samples), without a gradient."""
    flat = score_dialogues(policy, [each for own in samples for each in own], padding, context=context)
    return flat.view(len(samples), -1).to(policy.device)


def dft(
    log_policy: Callable[[list[int]], tuple[Tensor, Tensor]],
    log_reference: Tensor,
    lengths: Tensor,
    settings: DftSettings,
    normalisers: "LogNormalisers",
) -> LossOf:
    """The loss of DFT, see `juicer.methods.sft_objectives.dft_loss`, of the rows with the given indices.

    Args:
        log_reference: log ref(y'|x), (demonstrations, samples), of the policy as it is before the first step.
        lengths: response tokens of the demonstrations.
    """

    def loss_of(rows: list[int]) -> Losses:
        at = on_device(torch.tensor(rows), lengths.device)
        y, y_prime = log_policy(rows)
        with torch.no_grad():
            ratios = dft_log_ratios(y_prime, log_reference[at], settings.temperature)
            log_u = dft_log_normaliser(ratios, normalisers.of(rows, y.device), settings.moving_average)
        normalisers.note(rows, log_u)
        return dft_loss(y, y_prime, ratios, log_u) / lengths.mean(), {
            "log_normaliser": log_u,
            "sample_log_ratio": ratios.mean(1),
            "demonstration_log_probability": y.detach() / lengths[at],
        }

    return loss_of


class LogNormalisers:
    """log u of every demonstration, 0 at first. They stand in the record while it trains, so checkpoints have them.

    All micro-batches of a step read the values before it; `commit` makes the new ones known to every process.
    """

    FACT = "log_normalisers"

    def __init__(self, record: TrainingRecord, count: int, processes: Processes) -> None:
        self._record, self._processes = record, processes
        self._noted: dict[int, float] = {}
        record.facts[self.FACT] = [0.0] * count

    def of(self, rows: Sequence[int], device: torch.device) -> Tensor:
        """The values before this step, (rows,)."""
        # A resumed run has replaced the record's facts.
        known = self._record.facts[self.FACT]
        return torch.tensor([known[row] for row in rows], device=device)

    def note(self, rows: Sequence[int], values: Tensor) -> None:
        """Keep new values until the step is taken."""
        self._noted.update(zip(rows, values.tolist(), strict=True))

    def commit(self) -> None:
        """Take the new values of all processes."""
        known = self._record.facts[self.FACT]
        # A row that only pads the share of a higher rank counts in its own process.
        for noted in reversed(self._processes.gather(self._noted)):
            for row, value in noted.items():
                known[row] = value
        self._noted = {}

    def close(self) -> float:
        """Remove the values from the record; returns their mean."""
        known = self._record.facts.pop(self.FACT)
        return float(f"{math.fsum(known) / len(known):.6g}")


def _lengths(policy: "PreTrainedModel", demonstrations: Sequence[Dialogue]) -> Tensor:
    """Response tokens of the demonstrations."""
    return torch.tensor([float(len(each.response)) for each in demonstrations], device=policy.device)
