"""A tokenizer and a language model small enough for unit tests, made from scratch."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from juicer.data.template import Template
from juicer.settings.data import TemplateSettings

TEXT = ["Human: hello, how are you? Assistant: very well, thank you", "Human: the world is nice Assistant: it is"]


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE with separate end-of-text and padding."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>", "<|padding|>"]
    made.train_from_iterator(
        TEXT * 10, trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token=special[0], bos_token=special[0], pad_token=special[1]
    )


@pytest.fixture
def template(tokenizer: PreTrainedTokenizerFast) -> Template:
    """Anthropic's template, short limits."""
    return Template(tokenizer, TemplateSettings(max_prompt_tokens=48, max_response_tokens=16))


@pytest.fixture
def policy(tokenizer: PreTrainedTokenizerFast) -> GPTNeoXForCausalLM:
    """A random GPT-NeoX whose end-of-text is likely enough to be sampled now and then."""
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    model = GPTNeoXForCausalLM(config).eval()
    with torch.no_grad():
        head = model.get_output_embeddings().weight
        head.mul_(20)
        head[tokenizer.eos_token_id] *= 2
    return model
