"""A model that a stage would refuse hours later is refused when the recipe is read, in one line."""

import importlib.util
import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from juicer.models.architectures import CAUSAL, CLASSIFIERS, CONFIGURATIONS, MASKED, is_known, model_types
from juicer.recipe import checks
from juicer.recipe.activation import dump, load
from juicer.runtime.errors import InputError
from juicer.runtime.files import read_yaml
from tests.stub_models import BEAVER, CLASSIFIER, CONFIGURATION, write_stub

QUICKSTART = Path(__file__).resolve().parents[2] / "recipes/quickstart.yaml"
BERT = {"model_type": "bert", "architectures": ["BertForMaskedLM"]}
KEYS = {"policy": "policy.model", "scorer": "scorer.model", "reward": "rft.reward.model"}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def read(*overrides, pinned=True):
    return load(QUICKSTART, ["rft.rounds=1", *overrides], pinned=pinned)[0]


def classifier(**overrides):
    return [f"{key}={value}" for key, value in {"scorer.kind": "sequence-classification", **overrides}.items()]


@pytest.mark.parametrize(
    ("role", "values", "message"),
    [
        ("policy", {"quantization_config": {"quant_method": "gptq"}}, "the weights are quantised (gptq)"),
        ("scorer", {"quantization_config": {"quant_method": "awq"}}, "the weights are quantised (awq)"),
        ("reward", {"text_config": {"quantization_config": {"a": 1}}}, "quantised (unkn"),
        ("policy", {"auto_map": {"AutoModel": "own.M"}}, "Python code of its own (auto_map: AutoModel)"),
        ("scorer", {"auto_map": {"AutoModel": "own.M"}}, "Python code of its own (auto_map: AutoModel)"),
        ("reward", {"auto_map": {"AutoModel": "own.M"}}, "Python code of its own (auto_map: AutoModel)"),
        ("policy", {"model_type": "nonsense"}, "the installed transformers has no architecture 'nonsense'"),
        ("policy", {"model_type": None}, "there is no model_type"),
        ("policy", BERT, "BertForMaskedLM is no causal language model"),
        ("policy", {"model_type": "t5", "architectures": [], "is_encoder_decoder": True}, "t5 is no causal language"),
        ("policy", {"model_type": "vit", "architectures": ["ViTModel"]}, "ViTModel is no causal language model"),
        ("policy", CLASSIFIER, "GPTNeoXForSequenceClassification writes no text"),
        ("policy", {"max_position_embeddings": 64}, "exceeds its context of 64 tokens"),
        ("reward", {"max_position_embeddings": 64}, "exceeds its context of 64 tokens"),
        ("reward", BERT, "BertForMaskedLM is no causal model, and the reward is read at the last token"),
        ("reward", {"model_type": "mamba"}, "no sequence classifier of the architecture mamba"),
        ("reward", {**CLASSIFIER, "id2label": {"0": "a", "1": "b"}}, "a reward must have one label"),
        ("scorer", CLASSIFIER, "scorer.kind is 'beaver', but this is a GPTNeoXForSequenceClassification (set"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_work_is_refused_with_its_key(role, values, message):
    start = {**BEAVER, "max_position_embeddings": 4096} if role == "scorer" else CONFIGURATION
    write_stub(Path("model"), {**start, **values})
    with pytest.raises(InputError) as error:
        read(f"{KEYS[role]}=model")
    line = str(error.value)
    assert message in line and line.startswith("model") and ("auto_map" in line or f"{KEYS[role]}: " in line)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (BEAVER, "scorer.kind is 'sequence-classification', but this is a LlamaForScore (set scorer.kind to beaver)"),
        (CONFIGURATION, "but this is a GPTNeoXForCausalLM (set scorer.model to a reward model)"),
        ({**CLASSIFIER, "id2label": {"0": "a", "1": "b"}}, "a scorer must have one label, but this model has 2"),
        ({**CLASSIFIER, "id2label": None}, "a scorer must have one label, but this model has 2"),
    ],
)
def test_a_scorer_of_another_kind_is_refused(values, message):
    write_stub(Path("model"), values)
    with pytest.raises(InputError) as error:
        read(*classifier(**{"scorer.model": "model"}))
    assert message in str(error.value)


@pytest.mark.parametrize("configured", [False, True])
@pytest.mark.parametrize("role", KEYS)
def test_an_adapter_is_refused_with_what_to_do(role, configured):
    Path("model").mkdir()
    if configured:
        write_stub(Path("model"))
        Path("model/adapter_model.safetensors").touch()
    Path("model/adapter_config.json").write_text("{}")
    with pytest.raises(
        InputError,
        match=r"holds an adapter \(adapter_config.json\), not only a whole model \(merge it .* merge_and_unload",
    ):
        read(f"{KEYS[role]}=model")


def test_a_folder_without_tokenizer_or_weights_is_refused_but_not_in_a_plan():
    write_stub(Path("model"))
    Path("model/tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"policy.model: the model folder holds no tokenizer"):
        read("policy.model=model")
    Path("model/model.safetensors").unlink()
    with pytest.raises(InputError, match="no safetensors weights"):
        read("policy.model=model")
    assert read("policy.model=model", pinned=False).policy.model == "model"


def test_a_tokenizer_that_needs_a_package_names_it(monkeypatch):
    write_stub(Path("model"))
    Path("model/tokenizer.json").rename("model/tokenizer.model")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs the package sentencepiece \(pip install sentencepiece"):
        read("policy.model=model")


@pytest.mark.parametrize("role", ["policy", "reward"])
def test_the_model_s_own_template_has_to_be_there(role):
    for each in ("policy", "reward"):
        write_stub(Path(each))
        if each != role:
            Path(each, "chat_template.jinja").touch()
    given = ["template.name=model", "policy.model=policy", "rft.reward.model=reward"]
    with pytest.raises(InputError, match=f"{KEYS[role]}: template.name is 'model', but the tokenizer has no chat"):
        read(*given)
    Path(role, "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    assert read(*given).template.name == "model"


def test_ppo_with_another_tokenizer_for_the_reward_is_refused():
    for name in ("policy", "reward"):
        write_stub(Path(name))
    given = ["rft.optimiser=ppo", "policy.model=policy", "rft.reward.model=reward"]
    assert read(*given).rft.optimiser == "ppo"
    Path("reward/tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 1}}}))
    with pytest.raises(InputError, match="PPO passes it the policy's token ids"):
        read(*given)
    assert read(*given[1:]).rft.optimiser == "rloo"


def test_whole_models_are_accepted_and_take_no_time():
    write_stub(Path("policy"))
    write_stub(Path("scorer"), CLASSIFIER)
    given = classifier(**{"scorer.model": "scorer", "policy.model": "policy", "rft.reward.model": "policy"})
    read(*given)
    start = time.process_time()  # a busy machine is not at fault
    read(*given)
    assert time.process_time() - start < 1


def test_a_model_that_is_not_used_is_not_checked():
    Path("model").mkdir()
    read("rft.rounds=0", "scorer.kind=none", "scorer.model=model", "rft.reward.model=model")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("compute.zero_stage=2", r"compute.zero_stage needs the package deepspeed, which is not installed"),
    ],
)
def test_a_missing_package_is_told_before_any_work_but_not_in_a_plan(override, message, monkeypatch):
    Path("params.yaml").write_text(dump(*load(QUICKSTART, [override])))
    monkeypatch.setattr(checks, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: None)))
    with pytest.raises(InputError, match=message):
        checks.validate(read_yaml(Path("params.yaml")), "params.yaml")


@pytest.mark.parametrize("key", ["irft.sampling.engine", "rft.sampling.engine", "rft.policy.engine"])
def test_an_engine_that_is_asked_for_and_absent_is_told_before_any_work_but_not_in_a_plan(key, monkeypatch):
    monkeypatch.delenv("JUICER_VLLM_PYTHON", raising=False)
    monkeypatch.setattr("juicer.sampling.vllm_environment.PYTHON", Path("no/environment/bin/python"))
    overrides = [f"{key}=vllm", "rft.rounds=1"]
    Path("params.yaml").write_text(dump(*load(QUICKSTART, overrides, pinned=False)))
    do = r"\(run make vllm, or set JUICER_VLLM_PYTHON to .*, or set .* to auto or torch\)"
    with pytest.raises(InputError, match=rf"params.yaml: {key} is vllm, but there is no environment with vLLM {do}"):
        checks.validate(read_yaml(Path("params.yaml")), "params.yaml")
    with pytest.raises(InputError, match=f"{key} is vllm"):
        load(QUICKSTART, overrides)
    Path("params.yaml").write_text(dump(*load(QUICKSTART, [f"{key}=auto", "rft.rounds=1"])))
    checks.validate(read_yaml(Path("params.yaml")), "params.yaml")


def test_a_variable_that_names_no_python_is_told(monkeypatch):
    monkeypatch.setenv("JUICER_VLLM_PYTHON", "/nothing/python")
    with pytest.raises(InputError, match="JUICER_VLLM_PYTHON is /nothing/python, which is no Python with vLLM"):
        load(QUICKSTART, ["irft.sampling.engine=vllm"])


def test_the_architectures_are_those_of_transformers():
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    for table in (CAUSAL, CLASSIFIERS, MASKED):
        assert model_types(table) == set(getattr(modeling_auto, table))
    assert model_types(CONFIGURATIONS) <= set(CONFIG_MAPPING_NAMES)
    assert set(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) <= model_types(CONFIGURATIONS)


def test_where_the_tables_cannot_be_read_nothing_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "x.py")))
    model_types.cache_clear()
    assert is_known("nonsense", CAUSAL)
    model_types.cache_clear()
