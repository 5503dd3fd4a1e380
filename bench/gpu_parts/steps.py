"""Steps of the other training stages: SFT, the reward, RLOO, and IRFT with LoRA on a model of 7B."""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from bench.gpu_parts.common import (
    Context,
    StepClock,
    lengths_forced,
    lengths_within,
    model_of,
    pairs_of,
    peak,
    utilisation,
)
from bench.gpu_parts.irft import PADDED, planned, recipe_of
from juicer.data.demonstrations import Message
from juicer.data.dialogues import Dialogue
from juicer.data.template import Template
from juicer.methods.irft import irft_round
from juicer.methods.policy_alignment import align_policy
from juicer.methods.reward import freeze_blocks, train_reward
from juicer.methods.sft import train_sft
from juicer.methods.sft_variants import train_variant
from juicer.models.loading import mixed_precision, save_policy
from juicer.quickstart.random_models import train_random_tokenizer
from juicer.recipe.schema import Recipe
from juicer.runtime.context import WorkContext
from juicer.settings.tiny import TinySettings
from juicer.training.adapters import add_adapters
from juicer.training.passes import passes_of
from juicer.training.utilisation import operations_per_response_token


def measurements(context: Context) -> dict[str, Callable[[], dict[str, Any]]]:
    """One of each."""
    kept = ("sft.gradient_checkpointing=false",)
    return {
        "sft, pythia-1.4b, packed": lambda: sft(context, kept),
        "sft, pythia-1.4b, packed, 64 rows a step": lambda: sft(context, (*kept, "sft.batch_size=64")),
        "sft, pythia-1.4b, padded by TRL": lambda: sft(context, (*PADDED, *kept, "sft.micro_batch_size=8")),
        "rloo, pythia-1.4b, as the recipe says": lambda: rloo(context),
        "irft with lora, zephyr-7b, packed": lambda: lora(context),
        "reward, pythia-1b, packed": lambda: reward(context),
    }


def _figures(
    context: Context,
    milliseconds: float,
    rate: float,
    dialogues: Sequence[Dialogue],
    steps: int,
    settings: dict[str, bool],
) -> dict[str, Any]:
    """What all of them say of a step.

    Args:
        rate: operations per response token.
        dialogues: those of all steps.
        settings: the way that `juicer plan` knows the figure by.
    """
    tokens = sum(len(each.response) for each in dialogues) / steps
    return {
        "ms_per_step": milliseconds,
        "tokens_per_step": round(sum(map(len, dialogues)) / steps),
        "settings": settings,
        "response_tokens_per_second": round(tokens / milliseconds * 1000),
        "mfu": utilisation(context, rate * tokens, milliseconds / 1000),
    }


def _template(recipe: Recipe) -> Template:
    """The recipe's template with a small tokenizer: the trainers of TRL want one."""
    settings = TinySettings()
    return Template(
        train_random_tokenizer(["Hello, how are you?"] * 50, "GPTNeoXForCausalLM", recipe.template, settings),
        recipe.template,
    )


def sft(context: Context, overrides: tuple[str, ...]) -> dict[str, Any]:
    """As the stage does: packed in the loop of IRFT, padded by TRL's SFTTrainer."""
    recipe, graph = recipe_of(context, "hh-sft", overrides)
    warmup, timed = context.steps
    values: dict[str, Any] = {}
    with peak(context, values), TemporaryDirectory() as scratch:
        model = model_of(context, "pythia-1.4b", "policy", torch.float32)
        steps = warmup + timed + 1
        limits, settings = recipe.template, recipe.sft
        pairs = pairs_of(
            steps * settings.batch_size, limits.max_prompt_tokens, limits.max_response_tokens, model.config.vocab_size
        )
        rows = [pair.demonstration for pair in pairs]
        clock, rate = StepClock(), operations_per_response_token(model, rows)
        template, watching = _template(recipe), WorkContext(observers=(clock,))
        passes = passes_of(recipe.compute, model)
        if passes.packed:
            record = train_variant(
                model, rows, [], settings, 1, recipe.compute, 0, watching, steps=steps, passes=passes
            )
        else:
            scratch_folder = Path(scratch)
            record = train_sft(
                model, template, rows, settings, recipe.compute, 0, scratch_folder, watching, steps=steps
            )
    way = {"packed": passes.packed, "recomputed": settings.gradient_checkpointing}
    figures = _figures(context, clock.milliseconds(warmup), rate, rows, record.steps, way)
    return figures | values | planned(recipe, graph, "sft", rows)


def reward(context: Context) -> dict[str, Any]:
    """Reward alignment."""
    recipe, graph = recipe_of(context, "hh-rft", ())
    settings, limits, (warmup, timed) = recipe.rft.reward, recipe.template, context.steps
    values: dict[str, Any] = {}
    with peak(context, values):
        model = model_of(context, "pythia-1b", "reward", torch.float32)
        count = settings.batch_size * (warmup + timed + 1)
        pairs = pairs_of(count, limits.max_prompt_tokens, limits.max_response_tokens, model.config.vocab_size)
        freeze_blocks(model, settings.frozen_blocks)
        rate, clock = operations_per_response_token(model, _dialogues(pairs)), StepClock()
        once, passes = settings.model_copy(update={"epochs": 1.0}), passes_of(recipe.compute, model)
        with mixed_precision(recipe.compute):
            record = train_reward(model, pairs, once, 1, 0, WorkContext(observers=(clock,)), passes)
    way = {"packed": passes.packed, "recomputed": settings.gradient_checkpointing}
    figures = _figures(context, clock.milliseconds(warmup), rate, _dialogues(pairs), record.steps, way)
    return figures | values | planned(recipe, graph, "rft_reward@r1", _dialogues(pairs))


def rloo(context: Context) -> dict[str, Any]:
    """A step of RLOO: it samples, scores by the reward, reads the reference, and trains."""
    warmup, timed = (1, 2) if context.tiny else (2, 6)
    recipe, graph = recipe_of(context, "hh-rft", (f"rft.policy.steps={warmup + timed + 1}",))
    settings, limits = recipe.rft.policy, recipe.template
    lengths = [each[1] for each in lengths_within(limits.max_prompt_tokens, limits.max_response_tokens)]
    prompts: list[list[Message]] = [
        [{"role": "user", "content": f"Hello number {row}, how are you?"}] for row in range(64)
    ]
    values: dict[str, Any] = {}
    template = _template(recipe)
    with peak(context, values), TemporaryDirectory() as scratch:
        policy = model_of(context, "pythia-1.4b", "policy", torch.float32)
        initial = Path(scratch) / "initial"
        save_policy(policy, template, initial, None)
        judge = model_of(context, "pythia-1b", "reward", torch.float32 if context.tiny else torch.bfloat16)
        clock = StepClock()
        with lengths_forced(lengths, template.end_of_text):
            record = align_policy(
                policy,
                initial,
                judge,
                (0.0, 1.0),
                template,
                prompts,
                settings,
                recipe.compute,
                0,
                Path(scratch) / "run",
                WorkContext(observers=(clock,)),
            )
    milliseconds, tokens = clock.milliseconds(warmup), record.response_tokens / record.steps
    return {
        "ms_per_step": milliseconds,
        "response_tokens_per_second": round(tokens / milliseconds * 1000),
        "responses_per_step": settings.prompts_per_step * settings.samples_per_prompt,
        "prompts": "short",
        **values,
        **planned(recipe, graph, "rft_policy@r1", [Dialogue([0] * 16, [0] * length) for length in lengths]),
    }


def lora(context: Context) -> dict[str, Any]:
    """The 7B recipe: adapters train over a base in bf16, which is only read."""
    recipe, graph = recipe_of(context, "ultrachat-irft-1gpu", ())
    settings, (warmup, timed) = recipe.irft.training, (1, 2) if context.tiny else (2, 6)
    limits = recipe.template
    values: dict[str, Any] = {}
    with peak(context, values):
        model = model_of(context, "zephyr-7b-sft-full", "policy", torch.bfloat16)
        add_adapters(model, settings.lora, 0)
        count = settings.batch_size * (warmup + timed + 1)
        pairs = pairs_of(count, limits.max_prompt_tokens, limits.max_response_tokens, model.config.vocab_size)
        rate, clock = operations_per_response_token(model, _dialogues(pairs)), StepClock()
        once, passes = settings.model_copy(update={"epochs": 1.0}), passes_of(recipe.compute, model)
        with mixed_precision(recipe.compute):
            record = irft_round(model, model, pairs, once, 1, 0, WorkContext(observers=(clock,)), passes)
    way = {"packed": passes.packed, "recomputed": settings.gradient_checkpointing}
    figures = _figures(context, clock.milliseconds(warmup), rate, _dialogues(pairs), record.steps, way)
    return figures | values | planned(recipe, graph, "irft_train@r1", _dialogues(pairs))


def _dialogues(pairs: Any) -> list[Dialogue]:
    return [each for pair in pairs for each in (pair.demonstration, pair.sample)]
