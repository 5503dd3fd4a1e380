"""Sampling with the lengths of Anthropic-HH: our decoder by rows at once, against transformers' two ways and vLLM."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, LogitsProcessor, LogitsProcessorList

from bench.gpu_parts.common import Context, lengths_forced, lengths_within, model_of, peak, synchronise
from juicer.runtime.processes import SINGLE_PROCESS
from juicer.sampling.decoding import SampleRequest, sample_responses, seed_of
from juicer.sampling.renewed import write_weights
from juicer.sampling.vllm_engine import opened
from juicer.sampling.vllm_environment import find_vllm
from juicer.settings.compute import ComputeSettings
from juicer.settings.data import TemplateSettings
from juicer.settings.training import SamplingSettings

SEED = 0


@dataclass(frozen=True)
class Tokens:
    """What decoding asks of a template."""

    settings: TemplateSettings = field(default_factory=TemplateSettings)
    end_of_text: int = 0
    ends: tuple[int, ...] = (0,)
    padding: int = 1


def measurements(context: Context) -> dict[str, Callable[[], dict[str, Any]]]:
    """The default first, then what it is compared with, then other numbers of rows."""
    ours, theirs = partial(measured, context, sample), partial(measured, context, generate)
    default, most, middle, least = (4, 8, 6, 2) if context.tiny else (128, 512, 256, 64)
    many = 24 if context.tiny else 4096
    found = {"ours, rows from free memory": lambda: ours(many, at_once="auto")}
    if (python := find_vllm()) is not None:
        found["vLLM"] = lambda: measured(context, partial(by_vllm, python), many)
    return {
        f"ours, {default} rows": lambda: ours(default),
        **found,
        f"generate, {default} rows": lambda: theirs(default),
        f"ours, {most} rows": lambda: ours(most),
        f"generate_batch, {most} rows": lambda: measured(context, generate_batch, most),
        f"ours, {middle} rows": lambda: ours(middle),
        f"ours, {least} rows": lambda: ours(least),
        f"generate, {most} rows": lambda: theirs(most),
    }


def measured(context: Context, way: "Way", rows: int, at_once: int | Literal["auto"] | None = None) -> dict[str, Any]:
    """Response tokens per second of so many prompts; every way gets the same prompts and lengths.

    Args:
        at_once: rows of a step, where they are fewer than the prompts.
    """
    template = Tokens()
    if context.tiny:
        template = Tokens(TemplateSettings(max_prompt_tokens=64, max_response_tokens=24))
    limits, values = template.settings, dict[str, Any]()
    with peak(context, values), torch.no_grad():
        dtype = torch.float32 if context.tiny else torch.bfloat16
        # vLLM's attention on CPUs wants heads of at least 32.
        policy = model_of(context, "pythia-1.4b", "policy", dtype, heads=1)
        real, drawn = lengths_within(limits.max_prompt_tokens, limits.max_response_tokens), random.Random(2)
        prompts = [
            (str(row), [drawn.randrange(2, policy.config.vocab_size) for _ in range(real[row % len(real)][0])])
            for row in range(rows)
        ]
        lengths = [each[1] for each in real]
        wanted = [lengths[seed_of(SEED, SampleRequest(name, 0, prompt)) % len(lengths)] for name, prompt in prompts]
        more = {} if at_once is None else {"at_once": at_once}
        with way(context, policy, template, prompts, **more) as respond:
            respond([3], [3] * rows)  # kernels and memory are set up in the first call
            synchronise(context.device)
            begun = time.perf_counter()
            decoded = respond(lengths, wanted)
            synchronise(context.device)
            seconds = time.perf_counter() - begun
    figures = {
        "prompts": rows,
        "tokens_per_second": round(sum(wanted) / seconds),
        "seconds": round(seconds, 2),
        "response_tokens": sum(wanted),
    }
    if decoded is None:  # it takes the memory that it finds, so its peak says nothing
        return figures
    shares = {
        "live_share": round(sum(wanted) / sum(decoded), 3),
        "ms_per_step": round(1000 * seconds / len(decoded), 2),
        "most_rows": max(decoded),
    }
    return figures | shares | values


Respond = Callable[[list[int], list[int]], list[int] | None]
"""Sample responses of the lengths wanted; returns the rows of each decoding step, None where unknown.

Takes the lengths that names choose from, and those wanted, a row each.
"""
Way = Callable[..., AbstractContextManager[Respond]]
"""Takes the context, the policy, what decoding asks of a template, and named prompts."""


def check(found: Sequence[int], wanted: Sequence[int]) -> None:
    """A way that samples less is no faster."""
    if list(found) != list(wanted):
        raise AssertionError("the responses do not have the lengths that they were to have")


@contextmanager
def sample(
    context: Context,
    policy: Any,
    template: Tokens,
    prompts: Sequence[tuple[str, list[int]]],
    at_once: int | Literal["auto"] | None = None,
) -> Iterator[Respond]:
    """Our own decoder."""

    def respond(lengths: list[int], wanted: list[int]) -> list[int]:
        settings: Any = SamplingSettings(batch_size=at_once or len(prompts))
        stand_in: Any = template
        with lengths_forced(lengths, template.end_of_text) as rows:
            samples = sample_responses(policy, stand_in, prompts, settings, SEED)
        check([len(each.response) for each in samples], wanted)
        return list(rows)

    yield respond


@contextmanager
def by_vllm(
    python: Path, context: Context, policy: Any, template: Tokens, prompts: Sequence[tuple[str, list[int]]]
) -> Iterator[Respond]:
    """vLLM, beside our policy on the card. Its start is not timed."""
    compute = ComputeSettings(device="cpu" if context.tiny else "cuda")
    limits, folder = template.settings, context.work / "vllm"
    if not folder.is_dir():
        write_weights(policy, folder, policy.dtype)
    length = limits.max_prompt_tokens + limits.max_response_tokens
    with opened(python, folder, compute, length, SINGLE_PROCESS) as worker:

        def respond(lengths: list[int], wanted: list[int]) -> None:
            asked = [
                (prompt, {"seed": row, "max_tokens": length})
                for row, ((_, prompt), length) in enumerate(zip(prompts, wanted, strict=True))
            ]
            made = worker.sample(asked, {"ignore_eos": True, "logprobs": 0, "detokenize": False})
            check([len(tokens) for tokens, *_ in made], wanted)

        yield respond


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


@contextmanager
def generate(
    context: Context, policy: Any, template: Tokens, prompts: Sequence[tuple[str, list[int]]]
) -> Iterator[Respond]:
    """transformers' `generate`: a row that has ended is padded until the longest has."""
    length = max(len(prompt) for _, prompt in prompts)
    tokens = torch.full((len(prompts), length), template.padding)
    attention = torch.zeros_like(tokens)
    for row, (_, prompt) in enumerate(prompts):
        tokens[row, length - len(prompt) :] = torch.tensor(prompt)
        attention[row, length - len(prompt) :] = 1

    def respond(lengths: list[int], wanted: list[int]) -> list[int]:
        made = policy.generate(
            input_ids=tokens.to(context.device),
            attention_mask=attention.to(context.device),
            do_sample=True,
            top_k=0,
            top_p=1.0,
            max_new_tokens=max(wanted),
            eos_token_id=template.end_of_text,
            pad_token_id=template.padding,
            logits_processor=LogitsProcessorList([EndAt(wanted, length, template.end_of_text, context.device)]),
        )
        ends = (made[:, length:] == template.end_of_text).int()
        check((ends.argmax(1) + 1).tolist(), wanted)
        return [len(prompts)] * max(wanted)

    yield respond


@contextmanager
def generate_batch(
    context: Context, policy: Any, template: Tokens, prompts: Sequence[tuple[str, list[int]]]
) -> Iterator[Respond]:
    """transformers' continuous batching: a row that has ended makes room for the next. Its start is not timed."""
    most = template.settings.max_response_tokens
    config = GenerationConfig(do_sample=True, top_k=0, top_p=1.0, max_new_tokens=most, eos_token_id=-1)
    config.pad_token_id = template.padding
    # Left to itself it takes most of the memory for keys and values, which on a CPU takes minutes to fill with zeros.
    sizes = {"continuous_batching_config": ContinuousBatchingConfig(num_blocks=8, max_batch_tokens=64)}
    options = {"generation_config": config, "block": True, "timeout": 5, **(sizes if context.tiny else {})}
    calls = count()
    with policy.continuous_batching_context_manager(**options) as manager:

        def respond(lengths: list[int], wanted: list[int]) -> None:
            call, made = next(calls), dict[str, int]()
            for (name, prompt), length in zip(prompts, wanted, strict=True):
                manager.add_request(prompt, request_id=f"{call}/{name}", max_new_tokens=length)
            while len(made) < len(prompts):
                result = manager.get_result(timeout=1)
                if result is not None and result.error:
                    raise RuntimeError(f"continuous batching: {result.error}")
                if result is not None and result.is_finished():
                    made[result.request_id] = len(result.generated_tokens)
                elif result is None and not manager.is_running():
                    raise RuntimeError("continuous batching ended before all responses were there")
            check([made[f"{call}/{name}"] for name, _ in prompts], wanted)

        yield respond
