"""The difference of two models as an adapter: peft gives the model back, and what is not low-rank is refused."""

import copy
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, GPTNeoXForCausalLM, PreTrainedModel

from juicer.models.adapters import write_adapter
from juicer.models.folder import read_config_values
from juicer.runtime.errors import InputError
from juicer.runtime.files import read_json
from juicer.serving.adapter import TOLERANCE, difference

TOKENS = torch.arange(24).reshape(2, 12)
LOGITS = 1e-4
"""Largest difference of a logit: float32 rounds the merged weights."""


@pytest.fixture
def base(tmp_path: Path, policy: GPTNeoXForCausalLM) -> Path:
    policy.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def trained(base: Path, out: Path, rank: int, **settings: object) -> Path:
    """A model whose adapters have taken some steps and were merged, as the stages do."""
    model = AutoModelForCausalLM.from_pretrained(base, local_files_only=True)
    torch.manual_seed(1)
    config = LoraConfig(r=rank, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM", **settings)  # type: ignore[arg-type]
    with_adapters = get_peft_model(model, config)
    optimiser = torch.optim.AdamW([p for p in with_adapters.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        with_adapters(input_ids=TOKENS, labels=TOKENS).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    with_adapters.merge_and_unload().save_pretrained(out)
    return out


def logits(model: PreTrainedModel | PeftModel) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=TOKENS).logits


def given_back(base: Path, model: Path, out: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The logits of the base with the adapter that was found, of the model, and of the base."""
    write_adapter(difference(model, base), "models/sft", out)
    plain = AutoModelForCausalLM.from_pretrained(base, local_files_only=True)
    expected = logits(AutoModelForCausalLM.from_pretrained(model, local_files_only=True))
    before = logits(copy.deepcopy(plain))
    return logits(PeftModel.from_pretrained(plain, str(out))), expected, before


def test_base_and_adapter_give_the_model_s_logits(base: Path, tmp_path: Path) -> None:
    found, expected, before = given_back(base, trained(base, tmp_path / "model", 4), tmp_path / "adapter")
    assert (found - expected).abs().max() < LOGITS
    assert (before - expected).abs().max() > 100 * LOGITS
    values = read_json(tmp_path / "adapter/adapter_config.json")
    assert values["base_model_name_or_path"] == "models/sft"
    assert not list((tmp_path / "adapter").glob("*.bin"))


def test_the_rank_is_that_of_the_training_and_the_rest_is_rounding(base: Path, tmp_path: Path) -> None:
    found = difference(trained(base, tmp_path / "model", 3), base)
    assert found.rank == 3
    assert found.error < TOLERANCE / 10


def test_layers_of_different_ranks_keep_their_own(base: Path, tmp_path: Path) -> None:
    model = trained(base, tmp_path / "model", 4, rank_pattern={"dense_h_to_4h": 2}, alpha_pattern={"dense_h_to_4h": 8})
    found = difference(model, base)
    assert {len(a) for layer, (a, _) in found.factors.items() if layer.endswith("dense_h_to_4h")} == {2}
    assert {len(a) for layer, (a, _) in found.factors.items() if not layer.endswith("dense_h_to_4h")} == {4}
    with_adapter, expected, _ = given_back(base, model, tmp_path / "adapter")
    assert (with_adapter - expected).abs().max() < LOGITS


def test_weights_that_are_stored_transposed_are_adapted_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=64)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    model = trained(tmp_path / "base", tmp_path / "model", 3, fan_in_fan_out=True)
    found, expected, _ = given_back(tmp_path / "base", model, tmp_path / "adapter")
    assert (found - expected).abs().max() < LOGITS


def test_full_training_is_refused_and_how_much_would_be_lost_is_said(
    base: Path, policy: GPTNeoXForCausalLM, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    policy.save_pretrained(tmp_path / "model")
    with pytest.raises(InputError) as refused:
        difference(tmp_path / "model", base)
    assert "the difference is not low-rank in" in str(refused.value)
    assert "% of the change of gpt_neox.layers.0." in str(refused.value)
    assert "take it whole: --to folder" in str(refused.value)


def test_a_changed_tensor_that_no_adapter_reaches_is_named(
    base: Path, policy: GPTNeoXForCausalLM, tmp_path: Path
) -> None:
    with torch.no_grad():
        policy.gpt_neox.final_layer_norm.bias.add_(1)
    policy.save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match=r"final_layer_norm.bias, for example, is no matrix of a linear layer"):
        difference(tmp_path / "model", base)


def test_the_same_model_twice_has_no_difference(base: Path) -> None:
    with pytest.raises(InputError, match="the two models are the same"):
        difference(base, base)


def test_a_model_of_another_shape_is_no_base(base: Path, tmp_path: Path) -> None:
    GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2)).save_pretrained(tmp_path / "other")
    assert read_config_values(tmp_path / "other")["model_type"] == "gpt2"
    with pytest.raises(InputError, match=r"is not in both, or has another shape .*--base MODEL"):
        difference(tmp_path / "other", base)
