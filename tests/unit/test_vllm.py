"""Sampling by vLLM keeps our records' contract: `make test-vllm`, with vLLM's build for CPUs."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from juicer.data.dialogues import Dialogue
from juicer.models.loading import load_policy, load_template
from juicer.models.log_probability import score_dialogues
from juicer.quickstart.random_models import write_random_model
from juicer.runtime.errors import InputError
from juicer.runtime.processes import SINGLE_PROCESS, Processes
from juicer.sampling.vllm_engine import MARK, _isolated_environment, decoded, engine, sample_by_vllm
from juicer.settings.compute import ComputeSettings
from juicer.settings.data import TemplateSettings
from juicer.settings.tiny import TinySettings
from juicer.settings.training import GenerationSettings

INSTALLED = importlib.util.find_spec("vllm") is not None


def with_vllm(test):
    """Skip where vLLM is not there; what it and its libraries warn of is theirs."""
    quiet = pytest.mark.filterwarnings("default")(test)
    return pytest.mark.skipif(not INSTALLED, reason="vLLM is an extra; make test-vllm installs it beside")(quiet)


COMPUTE = ComputeSettings(threads=1, device="cpu")
TEMPLATE = TemplateSettings(max_prompt_tokens=16, max_response_tokens=6)
PROMPTS = [(f"prompt {number}", [5, 6, 7 + number, 8][: 2 + number % 3]) for number in range(12)]
SETTINGS = GenerationSettings(engine="vllm", samples_per_prompt=40, batch_size=8)
CONFIG = Path(__file__).parents[2] / "recipes/models/pythia-1b.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    # vLLM's attention on CPUs wants heads of at least 32.
    settings = TinySettings(hidden_size=64, heads=2, vocabulary=300)
    folder = tmp_path_factory.mktemp("models") / "policy"
    write_random_model(CONFIG, ["hello there", "good bye"], TEMPLATE, settings, 0, folder)
    return folder


@pytest.fixture(scope="module")
def llm(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        with engine(folder, COMPUTE, 22, SETTINGS.batch_size, SINGLE_PROCESS) as made:
            yield made


@pytest.fixture(scope="module")
def template(folder):
    return load_template(folder, TEMPLATE)


@pytest.fixture(scope="module")
def samples(llm, template):
    return sample_by_vllm(llm, template, PROMPTS, SETTINGS, seed=3)


@with_vllm
def test_every_prompt_gets_its_samples_in_order(samples):
    assert [(each.id, each.index, each.prompt) for each in samples] == [
        (name, index, prompt) for name, prompt in PROMPTS for index in range(40)
    ]


@with_vllm
def test_a_response_ends_with_end_of_text_or_at_the_limit(samples, template):
    for each in samples:
        assert template.end_of_text not in each.response[:-1]
        assert each.ended == (each.response[-1] == template.end_of_text)
        assert each.ended or len(each.response) == TEMPLATE.max_response_tokens
    assert 0 < sum(each.ended for each in samples) < len(samples)


@with_vllm
def test_recorded_log_probabilities_are_those_of_teacher_forcing(samples, folder):
    policy = load_policy(folder, COMPUTE)
    forced = score_dialogues(policy, [Dialogue(each.prompt, each.response) for each in samples], 1)
    assert [each.log_probability for each in samples] == pytest.approx(forced.tolist(), abs=1e-4)


@with_vllm
def test_a_sample_follows_from_the_seed_and_its_own_name(samples, llm, template):
    part = sample_by_vllm(llm, template, PROMPTS[3:5], SETTINGS, seed=3)
    assert [each.response for each in part] == [each.response for each in samples[3 * 40 : 5 * 40]]
    other = sample_by_vllm(llm, template, PROMPTS[3:5], SETTINGS, seed=4)
    assert [each.response for each in other] != [each.response for each in part]


@with_vllm
def test_first_tokens_come_as_often_as_the_policy_says(llm, template, folder):
    import torch

    count = 4000
    drawn = sample_by_vllm(
        llm, template, PROMPTS[:1], SETTINGS.model_copy(update={"samples_per_prompt": count}), seed=1
    )
    with torch.no_grad():
        logits = load_policy(folder, COMPUTE)(input_ids=torch.tensor([PROMPTS[0][1]])).logits[0, -1]
    expected = logits.softmax(-1) * count
    seen = torch.bincount(torch.tensor([each.response[0] for each in drawn]), minlength=len(expected))
    squares = ((seen - expected) ** 2 / expected).sum().item()
    freedom = len(expected) - 1
    assert abs(squares - freedom) < 5 * (2 * freedom) ** 0.5, "chi-squared, five deviations"


def test_a_response_that_vllm_was_ended_in_is_no_sample():
    def output(reason):
        return SimpleNamespace(token_ids=[5, 6], finish_reason=reason, cumulative_logprob=-1.0)

    assert decoded(output("length"), (6,)) == ([5, 6], True, -1.0)
    with pytest.raises(RuntimeError, match="abort"):
        decoded(output("abort"), (6,))


@pytest.mark.skipif(INSTALLED, reason="vLLM is installed")
def test_without_vllm_the_error_says_what_to_install(folder):
    with pytest.raises(InputError, match="pip install vllm"), engine(folder, COMPUTE, 22, 8, SINGLE_PROCESS):
        pass


@pytest.mark.parametrize(("seen", "own"), [("4,5,6", "6"), (None, "2"), ("", "")])
def test_what_vllm_starts_sees_one_gpu_and_no_other_process(monkeypatch, seen, own):
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if seen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    before = dict(os.environ)
    with _isolated_environment(Processes(rank=2, world_size=3, local_rank=2)):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == own
        assert "WORLD_SIZE" not in os.environ
    assert dict(os.environ) == before


LAUNCH = """
import json, os, sys
from accelerate.commands.launch import launch_command, launch_command_parser
from juicer.settings.compute import ComputeSettings
from juicer.stages.launch import configuration

json.dump(configuration(ComputeSettings(), gpus=None), open("accelerate.yaml", "w"))
json.dump(dict(os.environ), open("before.json", "w"))
launch_command(launch_command_parser().parse_args(["--config_file", "accelerate.yaml", "launched.py"]))
"""
LAUNCHED = "import json, os; json.dump(dict(os.environ), open('launched.json', 'w'))"


def test_nothing_that_the_launcher_sets_reaches_what_vllm_starts(tmp_path, monkeypatch):
    (tmp_path / "launched.py").write_text(LAUNCHED)
    environment = {**os.environ, "PYTHONPATH": str(CONFIG.parents[2])}
    subprocess.run([sys.executable, "-c", LAUNCH], cwd=tmp_path, env=environment, check=True)
    before, launched = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("before", "launched"))
    assert launched["TORCHELASTIC_USE_AGENT_STORE"] == "True"
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    with _isolated_environment(SINGLE_PROCESS):
        left = {name for name in os.environ if before.get(name) != os.environ[name]}
    assert left == {MARK}


def test_what_a_stage_of_one_process_starts_sees_the_gpu_that_it_has_taken(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with _isolated_environment(SINGLE_PROCESS):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
