"""Weights are cast to bf16 once per optimiser step, and training has the numbers of casts without a cache."""

import copy
from contextlib import nullcontext

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from juicer.models.casts import WeightCasts
from juicer.models.loading import mixed_precision
from juicer.settings.compute import ComputeSettings
from juicer.training.loop import recompute_activations

TOKENS = torch.randint(64, (4, 9), generator=torch.Generator().manual_seed(0))
STEPS = 3


@pytest.fixture(scope="module")
def llama():
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, tie_word_embeddings=True, **size)).eval()


def trained(model, casts, *, recomputed=False):
    """Weights after steps of two micro-batches, the first after a forward pass without a gradient."""
    model = copy.deepcopy(model)
    if recomputed:
        recompute_activations(model)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    autocast = torch.autocast("cpu", torch.bfloat16, cache_enabled=False)
    with autocast, casts.dropped_after_steps() if casts else nullcontext(), casts or nullcontext():
        with torch.no_grad():
            model(TOKENS)
        for _ in range(STEPS):
            for rows in TOKENS.split(2):
                # Two uses of each weight in one backward pass: their gradients are summed in float32.
                sum(model(input_ids=row[None], labels=row[None]).loss for row in rows).backward()
            optimiser.step()
            optimiser.zero_grad()
    return list(model.parameters())


@pytest.mark.parametrize("recomputed", [False, True])
def test_a_step_casts_each_weight_once_and_computes_the_same_numbers(llama, recomputed):
    casts = WeightCasts()
    expected, found = (trained(llama, each, recomputed=recomputed) for each in (None, casts))
    assert all(torch.equal(*both) for both in zip(expected, found, strict=True))
    linear = sum(isinstance(module, torch.nn.Linear) for module in llama.modules())
    assert casts.made == STEPS * linear


def test_weights_that_are_loaded_are_cast_again(llama):
    model, casts = copy.deepcopy(llama), WeightCasts()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, cache_enabled=False), casts:
        before = model(TOKENS).logits
        for parameter in model.parameters():
            parameter.copy_(2 * parameter)
        assert not torch.equal(model(TOKENS).logits, before)


def test_nothing_is_cast_in_float32(llama):
    casts = WeightCasts()
    with mixed_precision(ComputeSettings(device="cpu", precision="fp32"), casts):
        llama(TOKENS)
    assert casts.made == 0
    with mixed_precision(ComputeSettings(device="cpu", precision="bf16"), casts):
        llama(TOKENS)
    assert casts.made > 0
