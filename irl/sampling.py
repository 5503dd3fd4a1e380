"""Sampling responses y' ~ pi(.|x): seeded per sample, batched by length, finished rows leave the batch.

A sample's random numbers follow from its own name, so it does not depend on what else is in the batch.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy
import torch
from torch import Tensor

from irl.checkpoint import Once, once
from irl.log_probability import by_length
from irl.processes import ALONE, Processes
from irl.samples import Sample
from irl.settings.training import SamplingSettings
from irl.template import Template

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def sample_responses(
    policy: "PreTrainedModel",
    template: Template,
    prompts: Sequence[tuple[str, list[int]]],
    settings: SamplingSettings,
    seed: int,
    progress: Callable[[int], None] = lambda rows: None,
    resumed: Once = once,
    processes: Processes = ALONE,
) -> list[Sample]:
    """Sample responses to every prompt.

    Args:
        policy: in evaluation mode.
        template: gives end-of-text and the most tokens to sample.
        prompts: (id, tokens) of each prompt.
        settings: temperature, nucleus, samples per prompt, rows decoded at once.
        seed: with a prompt's id and the sample's index it decides the sample.
        progress: called with the number of responses that this process has just finished.
        resumed: gives the batches that an interrupted run has decoded.
        processes: over which the batches are dealt out; the samples do not depend on their number.

    Returns:
        `samples_per_prompt` samples per prompt, in the order of the prompts.
    """
    wanted = [(name, index, prompt) for name, prompt in prompts for index in range(settings.samples_per_prompt)]
    batches = list(by_length([prompt for _, _, prompt in wanted], settings.batch_size))

    def one(rows: list[int]) -> list[tuple[list[int], bool, float]]:
        uniforms = torch.stack(
            [_uniforms(seed, *wanted[row][:2], template.settings.max_response_tokens) for row in rows]
        )
        work = partial(decode, policy, template, [wanted[row][2] for row in rows], uniforms, settings)
        decoded = resumed(work)
        progress(len(rows))
        return decoded

    samples: dict[int, Sample] = {}
    for rows, decoded in zip(batches, processes.deal(batches, one), strict=True):
        for row, (response, ended, log_probability) in zip(rows, decoded, strict=True):
            name, index, prompt = wanted[row]
            samples[row] = Sample(name, index, prompt, response, ended, log_probability)
    return [samples[row] for row in range(len(wanted))]


def _uniforms(seed: int, name: str, index: int, count: int) -> Tensor:
    """(count,) numbers in [0, 1), a stream of its own for each sample."""
    key = hashlib.sha256(f"{seed}/{name}/{index}".encode()).digest()[:16]
    stream = numpy.random.Generator(numpy.random.Philox(key=int.from_bytes(key, "big")))
    return torch.from_numpy(stream.random(count))


@torch.inference_mode()
def decode(
    policy: "PreTrainedModel",
    template: Template,
    prompts: Sequence[list[int]],
    uniforms: Tensor,
    settings: SamplingSettings,
) -> list[tuple[list[int], bool, float]]:
    """Decode one batch of prompts to the end.

    Args:
        prompts: (batch,) token lists of any lengths; padded on the left.
        uniforms: (batch, steps) random numbers in [0, 1), one per row and step; `steps` bounds the response.

    Returns:
        per row: response tokens, whether it ended by itself, log pi(y'|x) in nats.
    """
    from transformers import DynamicCache

    device, length = policy.device, max(map(len, prompts))
    tokens = torch.full((len(prompts), length), template.padding, dtype=torch.int64)
    attention = torch.zeros((len(prompts), length), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        tokens[row, length - len(prompt) :] = torch.tensor(prompt)
        attention[row, length - len(prompt) :] = 1
    tokens, attention, uniforms = tokens.to(device), attention.to(device), uniforms.to(device)
    positions = (attention.cumsum(1) - 1).clamp(min=0)
    live = torch.arange(len(prompts), device=device)
    responses = torch.full(uniforms.shape, -1, dtype=torch.int64, device=device)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    total = torch.zeros(len(prompts), dtype=torch.float64, device=device)
    cache = DynamicCache(config=policy.config)
    for step in range(uniforms.shape[1]):
        hidden = policy.base_model(
            input_ids=tokens, attention_mask=attention, position_ids=positions, past_key_values=cache, use_cache=True
        ).last_hidden_state[:, -1]
        log_probabilities = policy.get_output_embeddings()(hidden).float().log_softmax(-1)
        chosen = draw(log_probabilities, uniforms[live, step], settings)
        responses[live, step] = chosen
        total[live] += log_probabilities.gather(1, chosen[:, None])[:, 0].double()
        done = chosen == template.end_of_text
        ended[live] = done
        if bool(done.all()):
            break
        if bool(done.any()):
            keep = (~done).nonzero()[:, 0]
            cache.batch_select_indices(keep)
            live, chosen, attention, positions = live[keep], chosen[keep], attention[keep], positions[keep]
        tokens, positions = chosen[:, None], positions[:, -1:] + 1
        attention = torch.cat([attention, attention.new_ones(len(live), 1)], 1)
    return [
        ([token for token in response if token >= 0], bool(stopped), log_probability)
        for response, stopped, log_probability in zip(responses.tolist(), ended.tolist(), total.tolist(), strict=True)
    ]


def draw(log_probabilities: Tensor, uniform: Tensor, settings: SamplingSettings) -> Tensor:
    """Inverse-transform sampling: the first token whose cumulative probability exceeds `uniform`.

    Args:
        log_probabilities: (batch, vocabulary) at temperature 1.
        uniform: (batch,) in [0, 1).

    Returns:
        (batch,) token ids.
    """
    probabilities = (log_probabilities.double() / settings.temperature).softmax(-1)
    if settings.top_p < 1:
        ordered, order = torch.sort(probabilities, dim=-1, descending=True, stable=True)
        outside = ordered.cumsum(-1) - ordered >= settings.top_p
        probabilities = probabilities.scatter(1, order, ordered.masked_fill(outside, 0))
    cumulative = probabilities.cumsum(-1)
    target = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True)[:, 0].clamp(max=cumulative.shape[1] - 1)
