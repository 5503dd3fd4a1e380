"""Model folders are ordinary: plain transformers loads them, and folders that are not are refused in one line."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from juicer.methods.reward import load_reward
from juicer.models.loading import (
    attention_for,
    attention_of,
    device_of,
    load_policy,
    load_template,
    load_tokenizer,
    read_training,
    save_policy,
)
from juicer.runtime.devices import Card
from juicer.runtime.errors import InputError
from juicer.settings.compute import ComputeSettings
from juicer.settings.data import TemplateSettings
from tests.chat_tokenizers import CHATML, gemma

COMPUTE = ComputeSettings(threads=1)


@pytest.fixture
def folder(policy, template, tmp_path):
    save_policy(policy, template, tmp_path / "policy", {"steps": 3})
    return tmp_path / "policy"


def test_plain_transformers_loads_a_saved_policy(folder, policy):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    tokens = torch.tensor([[5, 6, 7]])
    assert torch.equal(model(input_ids=tokens).logits, policy(input_ids=tokens).logits)
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert rendered == "\n\nHuman: hi\n\nAssistant:"
    assert GenerationConfig.from_pretrained(folder).eos_token_id == tokenizer.eos_token_id


def test_saving_twice_gives_the_same_bytes(folder, policy, template, tmp_path):
    save_policy(policy, template, tmp_path / "elsewhere", {"steps": 3})
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "elsewhere").iterdir())
    for name in names:
        assert (folder / name).read_bytes() == (tmp_path / "elsewhere" / name).read_bytes(), name


def test_the_training_record_is_kept_beside_the_weights_with_the_attention_that_was_chosen(folder, tmp_path):
    assert read_training(folder) == {"steps": 3, "facts": {"attention": "sdpa"}}
    assert read_training(tmp_path) is None


def test_a_folder_without_tokenizer_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="holds no tokenizer"):
        load_tokenizer(folder)


def test_a_folder_without_safetensors_is_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="no safetensors"):
        load_policy(folder, COMPUTE)


def test_a_checkpoint_without_some_tensors_is_refused_and_not_filled_at_random(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["embed_out.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"1 of the model's tensors are missing, first lm_head\.weight"):
        load_policy(folder, COMPUTE)


def test_only_the_head_of_a_fresh_reward_may_be_missing(folder):
    assert load_reward(folder, COMPUTE, seed=0).score.weight.shape == (1, 32)
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("gpt_neox.layers.1.attention.dense.weight")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"tensors are missing, first .*layers\.1\.attention\.dense\.weight"):
        load_reward(folder, COMPUTE, seed=0)


def test_plain_transformers_samples_from_the_whole_vocabulary_at_temperature_1(policy, template, tmp_path):
    given = {"temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.1, "num_beams": 4, "min_new_tokens": 5}
    policy.generation_config = GenerationConfig(**given, no_repeat_ngram_size=3, max_new_tokens=40, do_sample=True)
    save_policy(policy, template, tmp_path / "policy", None)
    saved = json.loads((tmp_path / "policy" / "generation_config.json").read_text())
    del saved["transformers_version"]
    assert saved == {
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 1,
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
    }


def test_the_ends_of_a_model_are_kept_with_that_of_its_template(policy, tmp_path):
    tokenizer, settings = gemma(), TemplateSettings(name="model")
    policy.resize_token_embeddings(len(tokenizer))
    for ends, kept in (([1, 4], [1, 4]), (None, [1, 4]), ([1, 3], [1, 3, 4])):
        policy.generation_config.eos_token_id = ends
        folder = tmp_path / str(ends)
        policy.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        template = load_template(folder, settings)
        assert (template.end_of_text, sorted(template.ends)) == (4, kept)
        save_policy(policy, template, tmp_path / f"saved {ends}", None)
        saved = GenerationConfig.from_pretrained(tmp_path / f"saved {ends}")
        assert (saved.eos_token_id, saved.pad_token_id) == (kept, 0)
        assert load_template(tmp_path / f"saved {ends}", settings).ends[0] == 4


@pytest.mark.parametrize("added", [{"pad_token": "<pad>"}, {"eos_token": "<end>"}])
def test_a_tokenizer_with_more_tokens_than_the_model_is_refused_before_anything_is_paid_for(folder, added):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    size = len(tokenizer)
    tokenizer.add_special_tokens(added)
    tokenizer.save_pretrained(folder)
    with pytest.raises(InputError, match=f"the tokenizer has a token {size}, but the model only {size} "):
        load_template(folder, TemplateSettings())


def test_a_chat_template_with_tokens_beyond_the_embedding_is_refused_before_anything_is_paid_for(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    size = len(tokenizer)
    tokenizer.chat_template = CHATML
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    what = rf"the template uses the token {size + 1} \(<\|im_end\|>\), but the model has only {size} \(vocab_size\)"
    with pytest.raises(InputError, match=what):
        load_template(folder, TemplateSettings(name="model"))
    load_template(folder, TemplateSettings(name="hh"))


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="no model here"):
        load_policy(tmp_path / "nowhere", COMPUTE)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_asking_for_cuda_without_a_gpu_is_refused():
    with pytest.raises(InputError, match="no CUDA device"):
        device_of(ComputeSettings(device="cuda"))


@pytest.mark.parametrize(
    ("asked", "on_gpu", "installed", "expected"),
    [
        ("auto", True, True, "flash_attention_2"),
        ("auto", True, False, "sdpa"),
        ("auto", False, True, "sdpa"),
        ("varlen", True, True, "sdpa"),
        ("varlen", False, True, "is varlen, which needs a GPU"),
        ("sdpa", True, True, "sdpa"),
        ("eager", False, False, "eager"),
        ("flash_attention_2", True, True, "flash_attention_2"),
        ("flash_attention_2", True, False, "flash-attn is not installed"),
        ("flash_attention_2", False, True, "which needs a GPU"),
    ],
)
def test_the_attention_of_a_recipe_is_taken_or_refused(monkeypatch, asked, on_gpu, installed, expected):
    monkeypatch.setattr("torch.cuda.is_available", lambda: on_gpu)
    monkeypatch.setattr("transformers.utils.import_utils.is_flash_attn_2_available", lambda: installed)
    compute = ComputeSettings(attention=asked)
    if " " in expected:
        with pytest.raises(InputError, match=expected):
            attention_of(compute)
    else:
        assert attention_of(compute) == expected


def test_a_policy_is_loaded_with_the_attention_of_the_recipe_and_says_so(folder, template, tmp_path):
    policy = load_policy(folder, COMPUTE.model_copy(update={"attention": "eager"}))
    assert policy.config._attn_implementation == "eager"
    save_policy(policy, template, tmp_path / "again", {"steps": 0})
    assert read_training(tmp_path / "again")["facts"] == {"attention": "eager"}
    assert attention_for(folder, COMPUTE) == "sdpa"
    with pytest.raises(InputError, match="flash_attention_2, which needs a GPU"):
        load_policy(folder, COMPUTE.model_copy(update={"attention": "flash_attention_2"}))


def test_a_model_that_was_trained_on_a_gpu_says_on_which_and_how(folder, template, policy, tmp_path, monkeypatch):
    monkeypatch.setattr("juicer.models.loading.card_in_use", lambda: Card("H100", 80 * 2**30, "CUDA 13.0, cuDNN 91900"))
    save_policy(policy, template, tmp_path / "again", {"steps": 0})
    assert read_training(tmp_path / "again")["facts"] == {
        "attention": "sdpa", "device": "H100 with 80 GiB, CUDA 13.0, cuDNN 91900", "deterministic": False,
    }  # fmt: skip
