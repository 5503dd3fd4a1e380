"""Random tiny models with the architecture that a config.json names, to run a large recipe without its weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from juicer.data import hh
from juicer.data.template import Template
from juicer.quickstart.configuration import read_config, shrunk
from juicer.quickstart.pretraining import BEAVER_TURNS, train_tokenizer
from juicer.runtime.errors import InputError
from juicer.runtime.seeding import derive
from juicer.settings.data import TemplateSettings
from juicer.settings.tiny import TinySettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SCORER = "LlamaForScore"
POLICIES = ("GPTNeoXForCausalLM", "MistralForCausalLM", "LlamaForCausalLM")
CHAT_TURNS = ("<|system|>\n", "<|user|>\n", "<|assistant|>\n")
CHAT = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
"""A chat template in zephyr's format: each turn starts with the mark of its role and ends in end-of-text."""


def train_random_tokenizer(
    texts: Sequence[str], architecture: str, template: TemplateSettings, settings: TinySettings
) -> "PreTrainedTokenizerFast":
    """A tokenizer with one token per mark of a turn, and with a chat template if the recipe uses the model's own."""
    turns = BEAVER_TURNS if architecture == SCORER else hh.TURNS if template.name == "hh" else CHAT_TURNS
    # Each mark becomes one token because it is frequent in the training texts.
    tokenizer = train_tokenizer([*texts, *turns * len(texts)], settings.vocabulary, turns)
    if turns is CHAT_TURNS:
        tokenizer.chat_template = CHAT
    return tokenizer


def write_random_model(
    path: Path, texts: Sequence[str], template: TemplateSettings, settings: TinySettings, seed: int, out: Path
) -> int:
    """Write a random tiny model with the architecture that `path`, a config.json, names.

    Args:
        path: config.json of the real model.
        texts: training texts of the tokenizer.
        template: the recipe's template, whose limits decide the model's context.
        settings: sizes of the model.
        seed: seed of the weights.
        out: model folder to write.

    Returns:
        The model's number of parameters.

    Raises:
        InputError: the architecture is not supported.
    """
    from transformers import AutoModelForCausalLM, LlamaConfig

    from juicer.models.loading import save_policy
    from juicer.quickstart.pretraining import save_scorer
    from juicer.scorers.beaver import BeaverModel

    architecture, config = read_config(path)
    if architecture not in (*POLICIES, SCORER):
        known = ", ".join((*POLICIES, SCORER))
        what = f"there is no tiny model for the architecture {architecture}"
        raise InputError(what, where=str(path), do=f"supported: {known}")
    tokenizer = train_random_tokenizer(texts, architecture, template, settings)
    # A scorer has a tokenizer of its own, which may need more tokens, so its context is twice as long.
    context = (template.max_prompt_tokens + template.max_response_tokens) * (2 if architecture == SCORER else 1)
    config.update(shrunk(config, settings, len(tokenizer), context))
    config.update({"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id})
    config.pad_token_id = tokenizer.pad_token_id
    torch.manual_seed(derive(seed, "random model", path.stem))
    if isinstance(config, LlamaConfig) and architecture == SCORER:
        scorer = BeaverModel.create(config)
        save_scorer(scorer, tokenizer, out)
        return sum(parameter.numel() for parameter in scorer.parameters())
    policy = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    save_policy(policy, Template(tokenizer, template), out, None)
    return sum(parameter.numel() for parameter in policy.parameters())
