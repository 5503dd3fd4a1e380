"""Sampling by vLLM in a process of its own keeps our records' contract.

By a stand-in that speaks through the real worker, and, in `make test-vllm`, by vLLM itself (its build for CPUs).
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from juicer.data.dialogues import Dialogue
from juicer.methods.policy_alignment import align_policy
from juicer.methods.reward import load_reward
from juicer.models.folder import base_record
from juicer.models.loading import load_policy, load_template
from juicer.models.log_probability import score_dialogues
from juicer.quickstart.random_models import write_random_model
from juicer.runtime.context import WorkContext
from juicer.runtime.errors import InputError
from juicer.runtime.processes import SINGLE_PROCESS
from juicer.sampling import engines, renewed
from juicer.sampling.engines import sampler
from juicer.sampling.renewed import written
from juicer.sampling.vllm_engine import WorkerError, environment, opened, sample_by_vllm
from juicer.sampling.vllm_environment import VARIABLE, find_vllm, has_vllm
from juicer.settings.compute import ComputeSettings
from juicer.settings.data import TemplateSettings
from juicer.settings.rft import PolicyAlignmentSettings
from juicer.settings.tiny import TinySettings
from juicer.settings.training import LoraSettings, OptimiserSettings, SamplingSettings
from juicer.training.adapters import add_adapters, frozen_weights, merge_adapters, save_trained
from tests.fake_vllm_python import fake_python

REAL = os.environ.get("JUICER_TEST_VLLM") == "true"
ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "recipes/models/pythia-1b.json"
COMPUTE = ComputeSettings(threads=1, device="cpu")
BF16 = ComputeSettings(threads=1, device="cpu", precision="bf16")
LORA = LoraSettings(r=4, alpha=8)
NEAR = 0.02
"""Nats per token that bf16 leaves between two ways to compute, at most; three steps move this model by more."""
TEMPLATE = TemplateSettings(max_prompt_tokens=16, max_response_tokens=6)
PROMPTS = [(f"prompt {number}", [5, 6, 7 + number, 8][: 2 + number % 3]) for number in range(12)]
SETTINGS = SamplingSettings(samples_per_prompt=40)
LENGTH = 22


@pytest.fixture(scope="module", params=["stand-in", "vLLM"])
def python(request, tmp_path_factory) -> Path:
    """The Python of an environment with vLLM, or with the stand-in."""
    if request.param == "stand-in":
        return fake_python(tmp_path_factory.mktemp("environment"))
    if not REAL:
        pytest.skip("vLLM has an environment of its own; make test-vllm makes it")
    found = find_vllm()
    assert found is not None
    return found


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    """Two policies of one architecture."""
    # vLLM's attention on CPUs wants heads of at least 32.
    settings, made = TinySettings(hidden_size=64, heads=2, vocabulary=300), []
    for seed in range(2):
        made.append(tmp_path_factory.mktemp("models") / f"policy-{seed}")
        write_random_model(CONFIG, ["hello there", "good bye"], TEMPLATE, settings, seed, made[-1])
    return made


@pytest.fixture(scope="module")
def worker(python, folders):
    with opened(python, folders[0], COMPUTE, LENGTH, SINGLE_PROCESS) as made:
        yield made


@pytest.fixture(scope="module")
def template(folders):
    return load_template(folders[0], TEMPLATE)


@pytest.fixture(scope="module")
def samples(worker, template):
    return sample_by_vllm(worker, template, PROMPTS, SETTINGS, seed=3)


def apart(samples, folder, compute=COMPUTE) -> float:
    """How far the recorded log-probabilities are from those of a policy, at most."""
    forced = score_dialogues(
        load_policy(folder, compute), [Dialogue(each.prompt, each.response) for each in samples], 1
    )
    return max(abs(each.log_probability - value) for each, value in zip(samples, forced.tolist(), strict=True))


def test_every_prompt_gets_its_samples_in_order(samples):
    assert [(each.id, each.index, each.prompt) for each in samples] == [
        (name, index, prompt) for name, prompt in PROMPTS for index in range(40)
    ]


def test_a_response_ends_with_end_of_text_or_at_the_limit(samples, template):
    for each in samples:
        assert template.end_of_text not in each.response[:-1]
        assert each.ended == (each.response[-1] == template.end_of_text)
        assert each.ended or len(each.response) == TEMPLATE.max_response_tokens
    assert 0 < sum(each.ended for each in samples) < len(samples)


def test_recorded_log_probabilities_are_those_of_teacher_forcing(samples, folders):
    assert apart(samples, folders[0]) < 1e-4 < apart(samples, folders[1])


def test_a_sample_follows_from_the_seed_and_its_own_name(samples, worker, template):
    part = sample_by_vllm(worker, template, PROMPTS[3:5], SETTINGS, seed=3)
    assert [each.response for each in part] == [each.response for each in samples[3 * 40 : 5 * 40]]
    other = sample_by_vllm(worker, template, PROMPTS[3:5], SETTINGS, seed=4)
    assert [each.response for each in other] != [each.response for each in part]


def test_first_tokens_come_as_often_as_the_policy_says(worker, folders):
    count, template = 2000, load_template(folders[0], TEMPLATE.model_copy(update={"max_response_tokens": 1}))
    drawn = sample_by_vllm(worker, template, PROMPTS[:1], SamplingSettings(samples_per_prompt=count), seed=1)
    with torch.no_grad():
        logits = load_policy(folders[0], COMPUTE)(input_ids=torch.tensor([PROMPTS[0][1]])).logits[0, -1]
    expected = logits.softmax(-1) * count
    seen = torch.bincount(torch.tensor([each.response[0] for each in drawn]), minlength=len(expected))
    squares = ((seen - expected) ** 2 / expected).sum().item()
    freedom = len(expected) - 1
    assert abs(squares - freedom) < 5 * (2 * freedom) ** 0.5, "chi-squared, five deviations"


def test_who_watches_is_told_of_every_response_and_every_token(worker, template):
    responses, tokens = [], []
    context = WorkContext(progress=responses.append, observers=(SimpleNamespace(on_tokens=tokens.append),))
    drawn = sample_by_vllm(worker, template, PROMPTS, SamplingSettings(), 0, context)
    assert sum(responses) == len(PROMPTS)
    assert sum(tokens) == sum(len(each.response) for each in drawn)


def test_after_new_weights_it_samples_from_those_and_what_it_had_computed_is_forgotten(
    worker, template, folders, samples, tmp_path
):
    other = load_policy(folders[1], COMPUTE)
    with written(other, torch.float32, tmp_path, SINGLE_PROCESS) as folder:
        worker.reload(folder)
    assert not folder.exists()
    drawn = sample_by_vllm(worker, template, PROMPTS, SETTINGS, seed=3)
    assert apart(drawn, folders[1]) < 1e-4 < apart(drawn, folders[0])
    worker.reload(folders[0])
    again = sample_by_vllm(worker, template, PROMPTS, SETTINGS, seed=3)
    assert [each.response for each in again] == [each.response for each in samples]


def test_what_fails_in_it_is_one_line_and_it_goes_on(worker, template):
    with pytest.raises(WorkerError, match="vLLM failed: ") as failed:
        worker.sample([(PROMPTS[0][1], {"seed": 1})], {"nonsense": 1})
    assert "\n" not in str(failed.value)
    assert len(sample_by_vllm(worker, template, PROMPTS, SamplingSettings(), 0)) == len(PROMPTS)


def test_a_policy_in_training_is_sampled_with_the_weights_of_the_step(python, folders, template, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(python))
    record, policy = trained(folders, template, tmp_path)
    assert record.facts["engine"].startswith("vllm ")
    assert record.facts["engine_difference"] < 1e-4
    moved = score_dialogues(policy, [Dialogue(PROMPTS[0][1], [8, 9])], 1)
    still = score_dialogues(load_policy(folders[0], COMPUTE), [Dialogue(PROMPTS[0][1], [8, 9])], 1)
    assert abs(float(moved[0] - still[0])) > 0.1, "else the weights before would have done as well"


def trained(folders, template, scratch, start=None, lora=None, compute=None):
    """Three large steps of RLOO by vLLM, with adapters in bf16: the record, and the policy."""
    settings = PolicyAlignmentSettings(
        steps=3, prompts_per_step=4, samples_per_prompt=4, kl_coefficient=0.0, engine="vllm", lora=lora,
        optimiser=OptimiserSettings(
            learning_rate=1e-2 if lora is None else 0.1, warmup_ratio=0.0, schedule="constant"
        ),
    )  # fmt: skip
    prompts = [[{"role": "user", "content": text}] for text in ("hello", "good", "there", "bye")]
    compute = compute or (COMPUTE if lora is None else BF16)
    policy = load_policy(start or folders[0], compute, torch.float32, frozen_weights(lora, compute))
    reward = load_reward(folders[1], COMPUTE, seed=3)
    given = (policy, folders[0], reward, (0.0, 1.0), template, prompts, settings, compute, 0, scratch / "scratch")
    return align_policy(*given), policy


@pytest.fixture
def kept(folders, tmp_path):
    """A policy that is kept as adapters, far from its base model."""
    adapted(folders[0], tmp_path / "kept", seed=1)
    return tmp_path / "kept"


def adapted(start: Path, out: Path, seed: int) -> None:
    """Add random adapters to a policy, and keep them."""
    policy = load_policy(start, COMPUTE, torch.float32, "bf16")
    handle = add_adapters(policy, LORA, seed)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(seed))
    merge_adapters(handle)
    save_trained(policy, load_template(start, TEMPLATE), out, {"facts": {}}, LORA, start)


def test_a_policy_that_is_kept_as_adapters_is_sampled_with_them_beside_its_base(
    python, kept, folders, template, tmp_path, monkeypatch
):
    monkeypatch.setenv(VARIABLE, str(python))
    adapted(kept, tmp_path / "second", seed=2)
    assert base_record(tmp_path / "second").ranks == [4, 4]
    for folder, others in ((kept, (folders[0], tmp_path / "second")), (tmp_path / "second", (folders[0], kept))):
        with sampler("vllm", folder, BF16, LENGTH, SINGLE_PROCESS, "irft.sampling.engine") as sample:
            drawn = sample(template, PROMPTS, SamplingSettings(samples_per_prompt=4), 0)
        difference = apart(drawn, folder, BF16)
        assert 5 * difference < min(apart(drawn, other, BF16) for other in others)
    # Rounding between merging and computing would show here: the same adapters in float32 are merged exactly.
    with sampler("vllm", kept, COMPUTE, LENGTH, SINGLE_PROCESS, "irft.sampling.engine") as sample:
        assert apart(sample(template, PROMPTS, SamplingSettings(), 0), kept) < 1e-4


def test_adapters_in_training_are_sampled_beside_those_of_earlier_rounds(
    python, kept, folders, template, tmp_path, monkeypatch
):
    monkeypatch.setenv(VARIABLE, str(python))
    record, policy = trained(folders, template, tmp_path, start=kept, lora=LORA.model_copy(update={"base": "bf16"}))
    assert record.facts["engine"].startswith("vllm ")
    assert record.facts["engine_difference"] < NEAR
    dialogues = [Dialogue(prompt, [8 + place, 9, 10]) for place, (_, prompt) in enumerate(PROMPTS)]
    others = (load_policy(each, BF16, torch.float32, "bf16") for each in (kept, folders[0]))
    moved, still, base = (score_dialogues(each, dialogues, 1) / 3 for each in (policy, *others))
    nearest = min(float((moved - other).abs().mean()) for other in (still, base))
    assert 5 * record.facts["engine_difference"] < nearest, "else other weights would have done as well"


def test_in_fp32_adapters_over_a_base_in_bf16_are_all_merged(folders, kept, template, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(fake_python(tmp_path)))
    lora = LORA.model_copy(update={"base": "bf16"})
    record, _ = trained(folders, template, tmp_path, start=kept, lora=lora, compute=COMPUTE)
    assert record.facts["engine_difference"] < 0.002


def test_auto_leaves_a_model_that_vllm_takes_no_adapters_for_to_torch(kept, template, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(VARIABLE, str(fake_python(tmp_path, "no adapters")))
    monkeypatch.setattr(engines, "device_of", lambda compute: torch.device("cuda"))
    with sampler("auto", kept, BF16, LENGTH, SINGLE_PROCESS, "irft.sampling.engine") as sample:
        assert sample.engine == "torch"
        assert apart(sample(template, PROMPTS, SamplingSettings(), 0), kept, BF16) < 0.1
    assert "irft.sampling.engine is auto, and torch samples: vLLM failed: ValueError: the model takes no adapters" in (
        capsys.readouterr().out
    )


def test_adapters_that_do_not_arrive_end_the_training(kept, folders, template, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(fake_python(tmp_path, "stale")))
    monkeypatch.setattr(renewed, "FURTHEST", NEAR)
    with pytest.raises(InputError, match=r"nats per token from the policy's, so it has other weights"):
        trained(folders, template, tmp_path, start=kept, lora=LORA.model_copy(update={"alpha": 1024.0}))


def test_a_model_for_which_vllm_takes_no_adapters_is_refused_before_the_first_step(
    kept, folders, template, tmp_path, monkeypatch
):
    monkeypatch.setenv(VARIABLE, str(fake_python(tmp_path, "no adapters")))
    with pytest.raises(WorkerError, match="takes no adapters"):
        trained(folders, template, tmp_path, start=kept, lora=LORA)
    assert not list((tmp_path / "scratch").glob("checkpoint*"))
    with (
        pytest.raises(WorkerError, match="takes no adapters"),
        sampler("vllm", kept, BF16, LENGTH, SINGLE_PROCESS, "x"),
    ):
        pass


def test_weights_that_do_not_arrive_end_the_training(folders, template, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(fake_python(tmp_path, "stale")))
    with pytest.raises(InputError, match=r"nats per token from the policy's, so it has other weights"):
        trained(folders, template, tmp_path)


PARENT = """
import sys, time
from pathlib import Path
from juicer.runtime.processes import SINGLE_PROCESS
from juicer.sampling.vllm_engine import opened
from juicer.settings.compute import ComputeSettings

with opened(Path(sys.argv[1]), Path(sys.argv[2]), ComputeSettings(device="cpu"), 22, SINGLE_PROCESS):
    print("loaded", flush=True)
    time.sleep(600)
"""


def test_it_ends_with_its_parent_however_that_ends(python, folders):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PARENT, str(python), str(folders[0])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout.readline() == "loaded\n"
        started = psutil.Process(parent.pid).children(recursive=True)
        assert started
        parent.kill()
    _, alive = psutil.wait_procs(started, timeout=20)
    assert alive == []


def test_its_own_processes_end_with_the_block(python, folders):
    before = psutil.Process().children(recursive=True)
    with opened(python, folders[0], COMPUTE, LENGTH, SINGLE_PROCESS):
        started = [each for each in psutil.Process().children(recursive=True) if each not in before]
        # A cancelled run signals all; what is under way is finished first.
        os.killpg(started[0].pid, signal.SIGINT)
        assert started[0].is_running()
    _, alive = psutil.wait_procs(started, timeout=20)
    assert alive == []


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("no start", "vLLM failed: ValueError: the model"),
        ("dies", "vLLM's process ended: exit code 3"),
    ],
)
def test_the_error_is_that_which_it_refers_to_or_how_it_ended(mode, message, folders, template, tmp_path):
    python = fake_python(tmp_path, mode)
    with pytest.raises(WorkerError) as failed, opened(python, folders[0], COMPUTE, LENGTH, SINGLE_PROCESS) as worker:
        sample_by_vllm(worker, template, PROMPTS, SamplingSettings(), 0)
    assert str(failed.value) == message


def test_auto_takes_torch_on_a_cpu_and_vllm_is_taken_where_it_is_asked_for(folders, template, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(fake_python(tmp_path)))
    found = {}
    for asked in ("auto", "vllm"):
        with sampler(asked, folders[0], COMPUTE, LENGTH, SINGLE_PROCESS, "irft.sampling.engine") as sample:
            drawn = sample(template, PROMPTS, SamplingSettings(), 0)
            found[asked] = sample.engine, drawn
    assert (found["auto"][0], found["vllm"][0]) == ("torch", "vllm 0.0")
    as_asked = [[dataclasses.replace(each, response=[], ended=False, log_probability=0.0) for each in drawn]
                for _, drawn in found.values()]  # fmt: skip
    assert as_asked[0] == as_asked[1]


def test_a_python_without_vllm_is_refused(tmp_path, monkeypatch):
    assert has_vllm(fake_python(tmp_path))
    assert not has_vllm(Path(sys.executable))
    monkeypatch.setenv(VARIABLE, sys.executable)
    with pytest.raises(InputError, match=rf"{VARIABLE} is .*, which is no Python with vLLM"):
        find_vllm()


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


def test_nothing_that_the_launcher_sets_reaches_vllm(tmp_path, monkeypatch):
    (tmp_path / "launched.py").write_text(LAUNCHED)
    given = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", LAUNCH], cwd=tmp_path, env=given, check=True)
    before, launched = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("before", "launched"))
    assert launched["TORCHELASTIC_USE_AGENT_STORE"] == "True"
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    left = {name for name, value in environment(SINGLE_PROCESS).items() if before.get(name) != value}
    assert left == {"VLLM_LOGGING_LEVEL", "VLLM_NO_USAGE_STATS", "VLLM_WORKER_MULTIPROCESSING_METHOD"}
