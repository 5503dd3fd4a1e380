"""A model is computed as it computes itself, or it is refused by name before anything is paid for."""

import functools

import pytest
import torch
from transformers import (
    AutoConfig,
    CohereConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from dev.architectures import probe
from juicer.data.dialogues import Dialogue
from juicer.methods import probe as probing
from juicer.methods.probe import probe_policy, probe_reward
from juicer.models.folder import context_of
from juicer.models.forward import Forward, features, forward_of, logits_of, shrunken_model, usable_attention
from juicer.models.log_probability import score_dialogues
from juicer.runtime.errors import InputError
from juicer.sampling.steppers import cache_of
from juicer.settings.training import LoraSettings

TINY = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def own_total(policy, dialogue):
    """log pi(y|x) from the model's own logits."""
    tokens = torch.tensor([dialogue.prompt + dialogue.response])
    with torch.no_grad():
        logits = policy(input_ids=tokens).logits[0, len(dialogue.prompt) - 1 : -1]
    return float(logits.log_softmax(-1).gather(1, tokens[0, len(dialogue.prompt) :, None]).sum())


@pytest.mark.parametrize(
    ("kind", "forward", "cache"),
    [
        ("llama", Forward(own=False), "buffered"),
        ("granite", Forward(own=False, after="logits_scaling"), "buffered"),
        ("cohere2", Forward(own=False, after="logit_scale"), "buffered"),
        ("gemma2", Forward(own=False, after="final_logit_softcapping"), "buffered"),
        ("minicpm3", Forward(own=False, after="logits_scaling"), "buffered"),
        ("bert", Forward(own=True), "buffered"),
        ("lfm2", Forward(own=False), "own"),
        ("falcon_h1", Forward(own=False, after="lm_head_multiplier"), "own"),
        ("bamba", Forward(own=False), "own"),
        ("mixtral", Forward(own=False), "buffered"),
    ],
)
def test_each_architecture_is_computed_in_its_fastest_exact_way(kind: str, forward: Forward, cache: str) -> None:
    from dev.architectures import example_config

    probed = probe_policy(example_config(kind), where=kind)
    assert (probed.forward, probed.cache) == (forward, cache)


def test_attention_that_leaves_out_a_cap_is_not_used() -> None:
    assert usable_attention(AutoConfig.for_model("gemma2"), "sdpa") == "eager"
    assert usable_attention(AutoConfig.for_model("llama"), "sdpa") == "sdpa"
    assert usable_attention(AutoConfig.for_model("bloom"), "sdpa") == "eager"


@pytest.mark.parametrize("attention", ["sdpa", "flash_attention_2"])
def test_attention_that_a_recipe_asks_for_and_that_is_not_exact_is_refused_and_not_replaced(attention: str) -> None:
    config = AutoConfig.for_model("bloom")
    with pytest.raises(InputError, match=f"compute.attention is {attention}, which is not exact for a bloom model"):
        usable_attention(config, attention, only=True)
    with pytest.raises(InputError, match="which takes the exact eager here"):
        probe_policy(config, where="policy.model", attention=attention)
    llama = AutoConfig.for_model("llama")
    assert usable_attention(llama, attention, only=True) == attention
    assert usable_attention(config, "eager", only=True) == "eager"


def test_the_probe_checks_a_model_with_the_attention_of_the_recipe() -> None:
    from dev.architectures import example_config

    found = {each: probe_policy(example_config("llama"), where="x", attention=each).attention for each in ASKED}
    assert found == {"auto": "sdpa", "varlen": "sdpa", "eager": "eager", "flash_attention_2": "sdpa"}


ASKED = ("auto", "varlen", "eager", "flash_attention_2")


def test_log_probabilities_of_a_model_that_scales_its_logits_are_its_own() -> None:
    torch.manual_seed(0)
    policy = GraniteForCausalLM(GraniteConfig(**TINY, logits_scaling=8.0)).eval()
    torch.nn.init.normal_(policy.lm_head.weight, 0, 0.7)
    dialogue = Dialogue([5, 6, 7], [8, 9, 10, 11])
    assert score_dialogues(policy, [dialogue], 0).item() == pytest.approx(own_total(policy, dialogue), abs=1e-4)


class Shifted(GPTNeoXForCausalLM):
    """Does something after its head that no constant of its configuration tells."""

    @functools.wraps(GPTNeoXForCausalLM.forward)
    def forward(self, *inputs, **more):
        output = super().forward(*inputs, **more)
        output.logits = output.logits * 0.5
        return output


def test_a_model_that_does_something_unknown_after_its_head_goes_its_own_way() -> None:
    torch.manual_seed(0)
    policy = Shifted(GPTNeoXConfig(**TINY)).eval()
    assert forward_of(policy) == Forward(own=True)
    assert cache_of(policy) == "buffered"
    dialogue = Dialogue([5, 6, 7], [8, 9, 10, 11])
    assert score_dialogues(policy, [dialogue], 0).item() == pytest.approx(own_total(policy, dialogue), abs=1e-4)


class Forgetful(LlamaForCausalLM):
    """Its positions do not go on where the cache ends."""

    def forward(self, input_ids=None, past_key_values=None, **more):
        more.pop("position_ids", None)
        positions = torch.arange(input_ids.shape[1])[None] if past_key_values is not None else None
        return super().forward(input_ids, past_key_values=past_key_values, position_ids=positions, **more)


def test_a_model_whose_cache_is_wrong_is_sampled_without_one() -> None:
    torch.manual_seed(0)
    model = shrunken_model(LlamaConfig(**TINY), Forgetful)
    object.__setattr__(model, "_juicer_forward", Forward(own=True))
    assert probing.measured_cache(model) == "none"


def test_a_model_that_sees_later_tokens_is_refused() -> None:
    with pytest.raises(InputError, match="BertLMHeadModel: a token changes the logits before it"):
        probe_policy(AutoConfig.for_model("bert"), where="policy.model")


def test_a_model_whose_batches_are_not_its_rows_is_refused() -> None:
    with pytest.raises(InputError, match="log-probabilities in a padded batch are not those of the model's own logits"):
        probe_policy(AutoConfig.for_model("doge"), where="policy.model")


def test_lora_is_refused_where_its_adapters_do_not_fit() -> None:
    config = AutoConfig.for_model("llama4_text")
    with pytest.raises(InputError, match="Llama4ForCausalLM: a step with LoRA fails"):
        probe_policy(config, where="policy.model", lora=LoraSettings(r=4))


@pytest.mark.parametrize("kind", ["llama", "falcon_h1"])
def test_lora_trains_its_adapters_alone_and_merges_exactly(kind: str) -> None:
    probe_policy(AutoConfig.for_model(kind), where=kind, lora=LoraSettings(r=4))


def test_a_reward_is_made_of_a_model_only_if_it_is_read_where_the_model_reads_it() -> None:
    probe_reward(AutoConfig.for_model("llama"), where="rft.reward.model", frozen_blocks=1)
    with pytest.raises(InputError, match="transformers has no sequence classifier of the type granite"):
        probe_reward(AutoConfig.for_model("granite"), where="rft.reward.model")
    with pytest.raises(InputError, match="has no scalar head named `score`"):
        probe_reward(AutoConfig.for_model("bert"), where="rft.reward.model")


def test_a_way_is_measured_in_full_precision_even_within_mixed_precision() -> None:
    torch.manual_seed(0)
    policy = LlamaForCausalLM(LlamaConfig(**TINY)).eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert (forward_of(policy), cache_of(policy)) == (Forward(own=False), "buffered")


def test_probing_leaves_the_random_numbers_of_the_process_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    shrunken_model(CohereConfig())
    assert torch.equal(torch.rand(2), expected)


def test_features_of_prompts_reach_the_head_only_once(policy) -> None:
    tokens = torch.tensor([[5, 6, 7, 8]])
    given = features(policy, tokens, None)
    assert given.shape == (1, 4, policy.config.hidden_size)
    assert torch.equal(logits_of(policy, given), policy(input_ids=tokens).logits)


@pytest.mark.parametrize("heads", [{}, {"partial_rotary_factor": 0.75}])
def test_a_model_with_long_rope_is_exact_up_to_the_context_that_it_was_scaled_from(heads) -> None:
    pairs = int(96 * heads.get("partial_rotary_factor", 1)) // 2
    scaling = {"type": "longrope", "short_factor": [1.0] * pairs, "long_factor": [4.0] * pairs}
    sizes = {"hidden_size": 3072, "num_attention_heads": 32, "max_position_embeddings": 131072}
    config = AutoConfig.for_model(
        "phi3", **sizes, **heads, rope_scaling=scaling, original_max_position_embeddings=4096, pad_token_id=0
    )
    probe_policy(config, where="phi3")
    assert context_of(config.to_dict()) == 4096
    assert context_of({"max_position_embeddings": 8192, "rope_scaling": None}) == 8192


def test_an_unknown_architecture_is_refused_with_its_reason() -> None:
    entry = probe("cohere_compass_text")
    assert not entry.works
    assert "KeyError" in str(entry.policy)
