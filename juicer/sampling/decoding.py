"""Sampling responses y' ~ pi(.|x): seeded per sample, batched by length, finished rows leave the batch.

A sample's random numbers are derived from its id, so they do not depend on the rest of the batch.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy
import torch
from torch import Tensor

from juicer.data.dialogues import Sample
from juicer.data.template import Template
from juicer.models.log_probability import length_sorted_batches
from juicer.runtime.context import LOCAL, WorkContext
from juicer.settings.training import SamplingSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from juicer.sampling.cache import BufferedCache

PREFILL_BATCH_SIZE = 32
"""Prompts per forward pass: of similar length, so with little padding, and in no more memory than training needs."""
COMPACT_BELOW = 0.8
"""When fewer than this share of the rows is unfinished, finished rows are removed from the batch."""


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
    count = template.settings.max_response_tokens

    def decode_batch(batch: Sequence[SampleRequest]) -> list[Decoded]:
        uniforms = torch.stack([_uniforms(seed_of(seed, each), count) for each in batch])
        return decode(policy, template, [each.prompt for each in batch], uniforms, settings)

    return sample_in_batches(decode_batch, prompts, settings.samples_per_prompt, settings.batch_size, context)


@dataclass(frozen=True)
class SampleRequest:
    """A response to sample; see `Sample`."""

    id: str
    index: int
    prompt: list[int]


Decoded = tuple[list[int], bool, float]
"""Response tokens, whether the response ended itself, log pi(y'|x) in nats."""


def sample_in_batches(
    decode_batch: Callable[[Sequence[SampleRequest]], list[Decoded]],
    prompts: Sequence[tuple[str, list[int]]],
    samples_per_prompt: int,
    batch_size: int,
    context: WorkContext,
) -> list[Sample]:
    """Sample by `decode_batch` in batches of similar length. Other arguments and result: see `sample_responses`."""
    requests = [SampleRequest(name, index, prompt) for name, prompt in prompts for index in range(samples_per_prompt)]
    batches = list(length_sorted_batches([each.prompt for each in requests], batch_size))

    def sample_batch(rows: list[int]) -> list[Decoded]:
        decoded = context.memo(partial(decode_batch, [requests[row] for row in rows]))
        context.emit_tokens(context.processes.world_size * sum(len(response) for response, *_ in decoded))
        context.progress(len(rows))
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
) -> list[Decoded]:
    """Decode one batch of prompts until every response has ended or reached its maximal length.

    Args:
        prompts: (batch,) token lists of any lengths; padded on the left.
        uniforms: (batch, steps) random numbers in [0, 1), one per row and step; `steps` is the maximal length.

    Returns:
        per row: response tokens, whether the response ended itself, log pi(y'|x) in nats.
    """
    from juicer.sampling.cache import BufferedCache

    device, length, steps = policy.device, max(map(len, prompts)), uniforms.shape[1]
    uniforms = uniforms.to(device)
    cache = BufferedCache(policy.config, len(prompts), length, length + steps)
    attention = torch.zeros((len(prompts), length + steps), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        attention[row, length - len(prompt) :] = 1
    attention = attention.to(device)
    hidden = torch.cat(
        [
            _prefill(policy, template.padding, prompts[start : start + PREFILL_BATCH_SIZE], cache, start)
            for start in range(0, len(prompts), PREFILL_BATCH_SIZE)
        ]
    )
    cache.fill(None)
    positions = attention[:, :length].sum(1)
    live = torch.arange(len(prompts), device=device)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    stops = torch.tensor(template.ends, device=device)
    responses = torch.full(uniforms.shape, template.end_of_text, dtype=torch.int64, device=device)
    chosen_log_probabilities = torch.zeros(uniforms.shape, dtype=torch.float64, device=device)
    for step in range(steps):
        log_probabilities = policy.get_output_embeddings()(hidden).float().log_softmax(-1)
        chosen = draw(log_probabilities, uniforms[live, step], settings)
        responses[live, step] = chosen
        chosen_log_probabilities[live, step] = log_probabilities.gather(1, chosen[:, None])[:, 0].double()
        ended = ended | torch.isin(chosen, stops)
        unfinished = len(live) - int(ended.sum())
        if not unfinished or step + 1 == steps:
            break
        # Finished rows stay in the batch until removing them saves more than copying the cache costs.
        if unfinished <= COMPACT_BELOW * len(live):
            keep = (~ended).nonzero()[:, 0]
            cache.batch_select_indices(keep)
            live, chosen, attention, positions, ended = (
                each[keep] for each in (live, chosen, attention, positions, ended)
            )
        hidden = policy.base_model(
            input_ids=chosen[:, None],
            attention_mask=attention[:, : length + step + 1],
            position_ids=positions[:, None] + step,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
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


def _prefill(
    policy: "PreTrainedModel", padding: int, prompts: Sequence[list[int]], cache: "BufferedCache", first: int
) -> Tensor:
    """Fill the cache's rows from `first` on with some prompts, padded on the left.

    Returns:
        (prompts, width) the hidden state that predicts the first response token.
    """
    length = max(map(len, prompts))
    tokens = torch.full((len(prompts), length), padding, dtype=torch.int64)
    attention = torch.zeros((len(prompts), length), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        tokens[row, length - len(prompt) :] = torch.tensor(prompt)
        attention[row, length - len(prompt) :] = 1
    cache.fill(slice(first, first + len(prompts)))
    hidden: Tensor = policy.base_model(
        input_ids=tokens.to(policy.device),
        attention_mask=attention.to(policy.device),
        position_ids=(attention.cumsum(1) - 1).clamp(min=0).to(policy.device),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state[:, -1]
    return hidden


def draw(log_probabilities: Tensor, uniform: Tensor, settings: SamplingSettings) -> Tensor:
    """Inverse-transform sampling: the first token whose cumulative probability exceeds `uniform`.

    Args:
        log_probabilities: (batch, vocabulary) at temperature 1.
        uniform: (batch,) in [0, 1).

    Returns:
        (batch,) token ids.
    """
    # The likeliest token has weight 1: otherwise all weights would underflow in float32 at low temperatures.
    weights = ((log_probabilities - log_probabilities.amax(-1, keepdim=True)) / settings.temperature).exp()
    if settings.top_p < 1:
        ordered, order = torch.sort(weights.double(), dim=-1, descending=True, stable=True)
        cumulative = ordered.cumsum(-1)
        outside = cumulative - ordered >= settings.top_p * cumulative[:, -1:]
        weights = torch.zeros_like(ordered).scatter(1, order, ordered.masked_fill(outside, 0))
    cumulative = weights.cumsum(-1, dtype=torch.float64)
    target = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True)[:, 0].clamp(max=cumulative.shape[1] - 1)
