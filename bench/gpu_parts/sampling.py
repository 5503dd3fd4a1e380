"""Sampling with the lengths of Anthropic-HH: our decoder by rows at once, against transformers' two ways."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, LogitsProcessor, LogitsProcessorList

from bench.gpu_parts.common import Context, lengths_forced, lengths_within, model_of, peak, synchronise
from irl.sampling import Wanted, sample_responses, seed_of
from irl.settings.data import TemplateSettings
from irl.settings.training import SamplingSettings

SEED = 0


@dataclass(frozen=True)
class Tokens:
    """What decoding asks of a template."""

    settings: TemplateSettings = field(default_factory=TemplateSettings)
    end_of_text: int = 0
    padding: int = 1


def measurements(context: Context) -> dict[str, Callable[[], dict[str, Any]]]:
    """The default first, then what it is compared with, then other numbers of rows."""
    ours, theirs = partial(measured, context, sample), partial(measured, context, generate)
    default, most, middle, least = (4, 8, 6, 2) if context.tiny else (128, 512, 256, 64)
    return {
        f"ours, {default} rows": lambda: ours(default),
        f"generate, {default} rows": lambda: theirs(default),
        f"ours, {most} rows": lambda: ours(most),
        f"generate_batch, {most} rows": lambda: measured(context, generate_batch, most),
        f"ours, {middle} rows": lambda: ours(middle),
        f"ours, {least} rows": lambda: ours(least),
        f"generate, {most} rows": lambda: theirs(most),
    }


def measured(context: Context, way: Callable[..., None], rows: int) -> dict[str, Any]:
    """Response tokens per second of one batch of so many rows; every way gets the same prompts and lengths."""
    template = Tokens()
    limits = template.settings
    if context.tiny:
        limits = TemplateSettings(max_prompt_tokens=64, max_response_tokens=24)
        template = Tokens(limits)
    values: dict[str, Any] = {}
    with peak(context, values), torch.no_grad():
        policy = model_of(context, "pythia-1.4b", "policy", torch.float32 if context.tiny else torch.bfloat16)
        real, drawn = lengths_within(limits.max_prompt_tokens, limits.max_response_tokens), random.Random(2)
        prompts = [
            (str(row), [drawn.randrange(2, policy.config.vocab_size) for _ in range(real[row % len(real)][0])])
            for row in range(rows)
        ]
        lengths = [each[1] for each in real]
        wanted = [lengths[seed_of(SEED, Wanted(name, 0, prompt)) % len(lengths)] for name, prompt in prompts]
        work = partial(way, context, policy, template, prompts, lengths, wanted)
        work(short=True)  # kernels and memory are set up in the first call
        synchronise(context.device)
        begun = time.perf_counter()
        work(short=False)
        synchronise(context.device)
        seconds = time.perf_counter() - begun
    return {
        "rows": rows,
        "tokens_per_second": round(sum(wanted) / seconds),
        "ms_per_step": round(1000 * seconds / max(wanted), 2),
        "live_share": round(sum(wanted) / (rows * max(wanted)), 3),
        "response_tokens": sum(wanted),
        **values,
    }


def sample(
    context: Context, policy: Any, template: Any, prompts: Any, lengths: list[int], wanted: list[int], *, short: bool
) -> None:
    """By our own decoder."""
    given = [3] if short else lengths
    with lengths_forced(given, template.end_of_text):
        samples = sample_responses(policy, template, prompts, SamplingSettings(batch_size=len(prompts)), SEED)
    if not short and [len(each.response) for each in samples] != wanted:
        raise AssertionError("the responses do not have the lengths that they were to have")


class EndAt(LogitsProcessor):
    """Lets each row end at its own length, and not before."""

    def __init__(self, lengths: list[int], prompt: int, end: int, device: torch.device) -> None:
        self._lengths, self._prompt, self._end = torch.tensor(lengths, device=device), prompt, end

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        ends = self._lengths == input_ids.shape[1] - self._prompt + 1
        scores[:, self._end] = -torch.inf
        scores[ends] = -torch.inf
        scores[ends, self._end] = 0
        return scores


def generate(
    context: Context, policy: Any, template: Any, prompts: Any, lengths: list[int], wanted: list[int], *, short: bool
) -> None:
    """By transformers' `generate`: a row that has ended is padded until the longest has."""
    given = [3] * len(wanted) if short else wanted
    length = max(len(prompt) for _, prompt in prompts)
    tokens = torch.full((len(prompts), length), template.padding)
    attention = torch.zeros_like(tokens)
    for row, (_, prompt) in enumerate(prompts):
        tokens[row, length - len(prompt) :] = torch.tensor(prompt)
        attention[row, length - len(prompt) :] = 1
    made = policy.generate(
        input_ids=tokens.to(context.device),
        attention_mask=attention.to(context.device),
        do_sample=True,
        top_k=0,
        top_p=1.0,
        max_new_tokens=max(given),
        eos_token_id=template.end_of_text,
        pad_token_id=template.padding,
        logits_processor=LogitsProcessorList([EndAt(given, length, template.end_of_text, context.device)]),
    )
    ends = (made[:, length:] == template.end_of_text).int()
    if (ends.argmax(1) + 1).tolist() != given:
        raise AssertionError("the responses do not have the lengths that they were to have")


def generate_batch(
    context: Context, policy: Any, template: Any, prompts: Any, lengths: list[int], wanted: list[int], *, short: bool
) -> None:
    """By transformers' continuous batching: a row that has ended makes room for the next."""
    given = [3] * len(wanted) if short else wanted
    config = GenerationConfig(do_sample=True, top_k=0, top_p=1.0, max_new_tokens=max(given), eos_token_id=-1)
    config.pad_token_id = template.padding
    made: dict[str, int] = {}
    # Left to itself it takes most of the memory for keys and values, which on a CPU takes minutes to fill with zeros.
    sizes = {"continuous_batching_config": ContinuousBatchingConfig(num_blocks=8, max_batch_tokens=64)}
    options = {"generation_config": config, "block": True, "timeout": 5, **(sizes if context.tiny else {})}
    with policy.continuous_batching_context_manager(**options) as manager:
        for (name, prompt), count in zip(prompts, given, strict=True):
            manager.add_request(prompt, request_id=name, max_new_tokens=count)
        while len(made) < len(prompts):
            result = manager.get_result(timeout=1)
            if result is not None and result.error:
                raise RuntimeError(f"continuous batching: {result.error}")
            if result is not None and result.is_finished():
                made[result.request_id] = len(result.generated_tokens)
            elif result is None and not manager.is_running():
                raise RuntimeError("continuous batching ended before all responses were there")
    if [made[name] for name, _ in prompts] != given:
        raise AssertionError("the responses do not have the lengths that they were to have")
