"""Sampling responses y' ~ pi(.|x): seeded per sample, batched by length, finished rows leave the batch.

A sample's random numbers are derived from its id, so they do not depend on the rest of the batch.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

import numpy
import torch
from torch import Tensor

from juicer.data.dialogues import Sample
from juicer.data.template import Template
from juicer.models.forward import logits_of
from juicer.models.log_probability import length_sorted_batches
from juicer.runtime.context import LOCAL, WorkContext
from juicer.sampling.rows import rows_for
from juicer.sampling.steppers import RefilledStepper, Stepper, can_refill, stepper_for
from juicer.settings.training import SamplingSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

COMPACT_BELOW = 0.8
"""When fewer than this share of the rows is unfinished, finished rows are removed from the batch, or filled again."""
BATCHES_AT_ONCE, BATCHES_AT_ONCE_ON_GPU = 4, 16
"""Batches whose prompts wait for a row where rows are filled again; an interrupted run repeats as many at most. While
the last of them are answered most rows are empty, which costs a GPU as much as full ones."""
LOOK_EVERY = 4
"""Steps on a GPU between two looks at which responses have ended, because each look waits for the GPU. A response that
ends in between goes on until the look; what it gets there is not part of it."""

FIXED_POINT = 2.0**-44
"""The unit of weights that are summed as whole numbers: 2**18 tokens of weight 1 fit into 63 bits."""


def sample_responses(
    policy: "PreTrainedModel",
    template: Template,
    prompts: Sequence[tuple[str, list[int]]],
    settings: SamplingSettings,
    seed: int,
    context: WorkContext = LOCAL,
) -> list[Sample]:
    """Sample responses to every prompt.

    Args:
        policy: in evaluation mode.
        template: defines the ends and the maximal length of a response.
        prompts: (id, tokens) of each prompt.
        settings: temperature, nucleus, samples per prompt, rows per batch.
        seed: together with the prompt's id and the sample's index it determines the sample.
        context: its progress counts responses, its memo keeps decoded batches; the samples do not depend on the
            number of processes.

    Returns:
        `samples_per_prompt` samples per prompt, in the order of the prompts.
    """
    limit = template.settings.max_response_tokens
    longest = limit + max((len(prompt) for _, prompt in prompts), default=0)
    rows = rows_for(policy, settings, longest, context.processes)
    context.note(sampling_rows=rows)

    def decode_batch(batch: Sequence[SampleRequest], report: Report) -> list[Decoded]:
        uniforms = torch.stack([_uniforms(seed_of(seed, each), limit) for each in batch])
        return decode(policy, template, [each.prompt for each in batch], uniforms, settings, rows, report)

    size = rows
    if can_refill(policy):
        share = math.ceil(len(prompts) * settings.samples_per_prompt / context.processes.world_size)
        batches = BATCHES_AT_ONCE if policy.device.type == "cpu" else BATCHES_AT_ONCE_ON_GPU
        size = max(rows, min(batches * rows, share))
    return sample_in_batches(decode_batch, prompts, settings.samples_per_prompt, size, context)


@dataclass(frozen=True)
class SampleRequest:
    """A response to sample; see `Sample`."""

    id: str
    index: int
    prompt: list[int]


Report = Callable[[int, int], None]
"""Receives the numbers of responses that have ended, and of tokens sampled, since the last call."""
Decoded = tuple[list[int], bool, float]
"""Response tokens, whether the response ended itself, log pi(y'|x) in nats."""


def sample_in_batches(
    decode_batch: Callable[[Sequence[SampleRequest], Report], list[Decoded]],
    prompts: Sequence[tuple[str, list[int]]],
    samples_per_prompt: int,
    batch_size: int,
    context: WorkContext,
) -> list[Sample]:
    """Sample by `decode_batch` in batches of similar length. Other arguments and result: see `sample_responses`."""
    requests = [SampleRequest(name, index, prompt) for name, prompt in prompts for index in range(samples_per_prompt)]
    batches = list(length_sorted_batches([each.prompt for each in requests], batch_size))

    def sample_batch(rows: list[int]) -> list[Decoded]:
        told = [0, 0]

        def report(responses: int, tokens: int) -> None:
            told[0] += responses
            told[1] += tokens
            context.emit_tokens(context.processes.world_size * tokens)
            context.progress(responses)

        work = partial(decode_batch, [requests[row] for row in rows], report)
        kept, decoded = context.memo(lambda: (rows, work()))
        if kept != rows:  # by a run that decoded other numbers of rows
            decoded = work()
        report(len(rows) - told[0], sum(len(response) for response, *_ in decoded) - told[1])
        return decoded

    samples: dict[int, Sample] = {}
    for rows, decoded in zip(batches, context.processes.distribute(batches, sample_batch), strict=True):
        for row, (response, ended, log_probability) in zip(rows, decoded, strict=True):
            request = vars(requests[row])
            samples[row] = Sample(**request, response=response, ended=ended, log_probability=log_probability)
    return [samples[row] for row in range(len(requests))]


def seed_of(seed: int, request: SampleRequest) -> int:
    """A 128-bit seed for one sample, from the seed and the sample's id and index."""
    key = hashlib.sha256(f"{seed}/{request.id}/{request.index}".encode()).digest()[:16]
    return int.from_bytes(key, "big")


def _uniforms(seed: int, count: int) -> Tensor:
    """(count,) numbers in [0, 1)."""
    stream = numpy.random.Generator(numpy.random.Philox(key=seed))
    return torch.from_numpy(stream.random(count))


@torch.inference_mode()
def decode(
    policy: "PreTrainedModel",
    template: Template,
    prompts: Sequence[list[int]],
    uniforms: Tensor,
    settings: SamplingSettings,
    rows: int | None = None,
    report: Report = lambda responses, tokens: None,
) -> list[Decoded]:
    """Decode prompts until every response has ended or reached its maximal length.

    Args:
        prompts: (batch,) token lists of any lengths; padded on the left.
        uniforms: (batch, steps) random numbers in [0, 1), one per row and step; `steps` is the maximal length.
        rows: responses decoded at once; where `can_refill`, further prompts wait until responses have ended. None for
            all.
        report: is called whenever prompts take the places of responses.

    Returns:
        per row: response tokens, whether the response ended itself, log pi(y'|x) in nats.
    """
    device, steps = policy.device, uniforms.shape[1]
    uniforms = uniforms.to(device)
    waiting = len(prompts) if rows is None else min(rows, len(prompts))  # the first prompt that waits
    stepper: Stepper
    if waiting < len(prompts):
        stepper = RefilledStepper(policy, template.padding, prompts[:waiting], steps, max(map(len, prompts)))
    else:
        stepper = stepper_for(policy, template.padding, prompts, steps)
    given = stepper.first()
    live = torch.arange(waiting, device=device)
    taken = torch.zeros_like(live)
    ended = torch.zeros(waiting, dtype=torch.bool, device=device)
    stops = torch.tensor(template.ends, device=device)
    # A row that has reached the limit writes behind it until it leaves.
    responses = torch.full((len(prompts), steps + 1), template.end_of_text, dtype=torch.int64, device=device)
    chosen_log_probabilities = torch.zeros(responses.shape, dtype=torch.float64, device=device)
    # Tokens of unfinished rows, in all and up to the last report.
    sampled, reported = torch.zeros((), dtype=torch.int64, device=device), 0
    every = look_every(device)
    refilled = isinstance(stepper, RefilledStepper)
    for step in count(1):
        log_probabilities = logits_of(policy, given).log_softmax(-1)
        chosen = draw(log_probabilities, uniforms[live, taken.clamp(max=steps - 1)], settings)
        responses[live, taken] = chosen
        chosen_log_probabilities[live, taken] = log_probabilities.gather(1, chosen[:, None])[:, 0].double()
        taken = (taken + 1).clamp(max=steps)
        sampled += len(live) - ended.sum()
        ended = ended | torch.isin(chosen, stops) | (taken == steps)
        if step % every and (refilled or step < steps):
            given = stepper.next(chosen)
            continue
        *over, told = torch.cat([ended.long(), sampled[None]]).tolist()  # waits for the device
        unfinished, added = over.count(0), 0
        if not unfinished and waiting == len(prompts):
            break
        # Finished rows stay in the batch until removing them saves more than copying the cache costs.
        if unfinished <= COMPACT_BELOW * len(over):
            added = min(len(prompts) - waiting, len(over) - unfinished)
            leaving = {place for place, done in enumerate(over) if done}
            leaving -= set(sorted(leaving)[:added])
            if leaving:
                stay = [place for place in range(len(over)) if place not in leaving]
                over = [over[place] for place in stay]
                keep = torch.tensor(stay)
                stepper.keep(keep)
                keep = keep.to(device)
                live, taken, chosen, ended = live[keep], taken[keep], chosen[keep], ended[keep]
        given = stepper.next(chosen) if unfinished else given[: len(over)]
        if added and isinstance(stepper, RefilledStepper):
            free = torch.tensor([place for place, done in enumerate(over) if done])
            first = stepper.admit(free, prompts[waiting : waiting + added])
            places = free.to(device)
            given[places] = first
            live[places] = torch.arange(waiting, waiting + added, device=device)
            taken[places], ended[places] = 0, False
            waiting += added
            report(added, told - reported)
            reported = told
    responses, chosen_log_probabilities = responses[:, :steps], chosen_log_probabilities[:, :steps]
    ends = torch.isin(responses, stops)
    stopped = ends.any(1)
    lengths = torch.where(stopped, ends.int().argmax(1) + 1, steps)
    within = torch.arange(steps, device=device) < lengths[:, None]
    totals = (chosen_log_probabilities * within).sum(1)
    return [
        (response[:end], ended_itself, log_probability)
        for response, end, ended_itself, log_probability in zip(
            responses.tolist(), lengths.tolist(), stopped.tolist(), totals.tolist(), strict=True
        )
    ]


def look_every(device: torch.device) -> int:
    """Steps between two looks at which responses have ended; on a CPU a look costs nothing."""
    return 1 if device.type == "cpu" else LOOK_EVERY


def draw(log_probabilities: Tensor, uniform: Tensor, settings: SamplingSettings) -> Tensor:
    """Inverse-transform sampling: the first token whose cumulative probability exceeds `uniform`.

    Args:
        log_probabilities: (batch, vocabulary) at temperature 1.
        uniform: (batch,) in [0, 1).

    Returns:
        (batch,) token ids.
    """
    # The likeliest token has weight 1: otherwise all weights would underflow in float32 at low temperatures.
    weights = (log_probabilities - log_probabilities.amax(-1, keepdim=True)).div_(settings.temperature).exp_()
    if settings.top_p < 1:
        ordered, order = torch.sort(weights.double(), dim=-1, descending=True, stable=True)
        cumulative = running_sums(ordered)
        outside = cumulative - ordered >= settings.top_p * cumulative[:, -1:]
        weights = torch.zeros_like(ordered).scatter(1, order, ordered.masked_fill(outside, 0))
    cumulative = running_sums(weights)
    target = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True)[:, 0].clamp(max=cumulative.shape[1] - 1)


def running_sums(weights: Tensor) -> Tensor:
    """(batch, vocabulary) float64 sums of weights between 0 and 1 from the first one on.

    A GPU sums floating-point numbers in an order that varies, which torch refuses in the deterministic mode; then the
    weights are summed as whole numbers, for which the order does not matter.
    """
    if weights.is_cuda and torch.are_deterministic_algorithms_enabled():
        return fixed_point_sums(weights)
    return weights.cumsum(-1, dtype=torch.float64)


def fixed_point_sums(weights: Tensor) -> Tensor:
    """`running_sums`, the same in every order of summation; off by at most half of FIXED_POINT a weight."""
    return (weights.double() / FIXED_POINT).round_().long().cumsum(-1).double() * FIXED_POINT
