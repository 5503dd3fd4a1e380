"""The deterministic mode: what it sets and when, what it refuses, and that what it replaces computes the same."""

import os
import subprocess
import sys

import pytest
import torch

from juicer.recipe import checks
from juicer.recipe.activation import load
from juicer.runtime import determinism
from juicer.runtime.errors import InputError
from juicer.runtime.processes import SINGLE_PROCESS
from juicer.sampling import decoding, engines
from juicer.sampling.decoding import draw, fixed_point_sums, running_sums
from juicer.settings.compute import ComputeSettings
from juicer.settings.training import SamplingSettings
from juicer.stages.pipeline import Meta
from juicer.stages.stage import set_environment, uses_gpus
from tests.conftest import ROOT


@pytest.fixture
def environment(monkeypatch):
    """The variables that a stage sets are as before after the test."""
    for name in (determinism.WORKSPACE, "FLASH_ATTENTION_DETERMINISTIC", "NCCL_ALGO"):
        monkeypatch.setenv(name, "x")  # so that it is put back
        monkeypatch.delenv(name)
    for name in (
        "OMP_NUM_THREADS",
        "OMP_WAIT_POLICY",
        "TOKENIZERS_PARALLELISM",
        "PYTORCH_ALLOC_CONF",
        "DS_ACCELERATOR",
    ):
        monkeypatch.setenv(name, os.environ.get(name, ""))


def test_the_libraries_are_told_before_they_start_and_only_where_there_may_be_a_gpu(environment, monkeypatch):
    set_environment(ComputeSettings())
    set_environment(ComputeSettings(deterministic=True, device="cpu"))
    assert determinism.WORKSPACE not in os.environ
    set_environment(ComputeSettings(deterministic=True))
    assert os.environ[determinism.WORKSPACE] == ":4096:8"
    assert (os.environ["FLASH_ATTENTION_DETERMINISTIC"], os.environ["NCCL_ALGO"]) == ("1", "Ring")
    monkeypatch.setenv(determinism.WORKSPACE, ":16:8")
    monkeypatch.setenv("NCCL_ALGO", "Tree")
    determinism.set_variables()
    assert (os.environ[determinism.WORKSPACE], os.environ["NCCL_ALGO"]) == (":16:8", "Tree"), "these do as well"
    monkeypatch.setenv(determinism.WORKSPACE, ":0:0")
    determinism.set_variables()
    assert os.environ[determinism.WORKSPACE] == ":4096:8"


def test_a_cpu_computes_as_without_the_mode(monkeypatch):
    determinism.begin()
    assert not determinism.is_on()


def test_on_a_gpu_torch_takes_deterministic_operations_only():
    code = "import torch; from juicer.runtime import determinism; torch.cuda.is_available = lambda: True;"
    code += "determinism.begin();"
    code += "print(determinism.is_on(), torch.is_deterministic_algorithms_warn_only_enabled(),"
    code += "torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False", "True", "False"]


@pytest.mark.parametrize(
    ("compute", "meta", "expected"),
    [
        ({}, Meta(gpus=1), True),
        ({}, Meta(), False),
        ({}, None, True),
        ({"device": "cpu"}, Meta(gpus=1), False),
    ],
)
def test_only_stages_that_may_use_a_gpu_import_torch_for_it(compute, meta, expected):
    assert uses_gpus(ComputeSettings(**compute), meta) == expected


def test_an_operation_without_a_deterministic_form_is_refused_in_one_line():
    told = "cumsum_cuda_kernel does not have a deterministic implementation, but you set 'torch.use_deterministic'..."
    refused = "compute.deterministic is true, but cumsum_cuda_kernel does not have a deterministic implementation"
    with pytest.raises(InputError, match=refused), determinism.refusals_told():
        raise RuntimeError(told)
    with pytest.raises(RuntimeError, match="anything else"), determinism.refusals_told():
        raise RuntimeError("anything else")


def test_sums_of_whole_numbers_are_the_running_sums_and_give_nothing_to_weights_of_zero():
    weights = torch.rand(3, 5000, generator=torch.Generator().manual_seed(0))
    weights[:, ::3] = 0
    sums = fixed_point_sums(weights)
    assert sums.dtype == torch.float64
    torch.testing.assert_close(sums, running_sums(weights), rtol=0, atol=5000 * decoding.FIXED_POINT)
    assert bool((sums[:, 3::3] == sums[:, 2:-1:3]).all()), "they would be drawn"
    largest = fixed_point_sums(torch.ones(1, 2**18))
    assert float(largest[0, -1]) == 2**18


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_draws_from_sums_of_whole_numbers_are_the_same(top_p, monkeypatch):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(400, 300, generator=generator).mul(3).log_softmax(-1)
    uniform = torch.rand(400, generator=generator, dtype=torch.float64)
    settings = SamplingSettings(top_p=top_p)
    before = draw(logits.clone(), uniform, settings)
    monkeypatch.setattr(decoding, "running_sums", fixed_point_sums)
    assert draw(logits.clone(), uniform, settings).tolist() == before.tolist()


def test_a_deterministic_recipe_does_not_sample_by_vllm():
    words = ["compute.deterministic=true", "irft.sampling.engine=vllm"]
    with pytest.raises(InputError, match=r"compute.deterministic is true, which irft.sampling.engine 'vllm'"):
        load(ROOT / "recipes/quickstart.yaml", words)
    with pytest.raises(InputError, match=r"rft.policy.engine 'vllm' does not keep \(set rft.policy.engine to auto"):
        load(ROOT / "recipes/quickstart.yaml", [words[0], "rft.policy.engine=vllm"])
    load(ROOT / "recipes/quickstart.yaml", [words[0], "rft.sampling.engine=vllm", "rft.rounds=0"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["irft.sampling.engine=vllm", "irft.rounds=10", "irft.training.lora={r: 64}", "rft.rounds=0"],
            r"all rounds add up to rank 576, and vLLM, which irft.sampling.engine names, takes 512",
        ),
        (
            ["rft.policy.engine=vllm", "rft.rounds=8", "rft.policy.lora={r: 64}", "sft.lora={r: 8}", "irft.rounds=0"],
            r"all rounds add up to rank 520, and vLLM, which rft.policy.engine names, takes 512",
        ),
        (
            ["rft.policy.engine=vllm", "rft.policy.lora={r: 64, base: nf4}"],
            r"vllm, which does not have the quantised weights of rft.policy.lora.base nf4",
        ),
        (
            ["rft.policy.engine=vllm", "rft.policy.lora={r: 600, save: merged}"],
            r"add up to rank 600, and vLLM, which rft.policy.engine names, takes 512",
        ),
    ],
)  # fmt: skip
def test_adapters_that_vllm_cannot_take_are_refused_at_once(words, message, monkeypatch):
    monkeypatch.setattr(checks, "check_vllm", lambda key, where: None)
    with pytest.raises(InputError, match=message):
        load(ROOT / "recipes/quickstart.yaml", [*words, "compute.precision=bf16"])
    others = [word.replace("=vllm", "=auto") for word in words]
    load(ROOT / "recipes/quickstart.yaml", [*others, "compute.precision=bf16"])
    if "nf4" not in words[1]:
        load(ROOT / "recipes/quickstart.yaml", [*words, "compute.precision=fp32"])
    else:
        with pytest.raises(InputError, match=message):
            load(ROOT / "recipes/quickstart.yaml", [*words, "compute.precision=fp32"])


def test_an_engine_that_is_left_open_is_our_own_in_a_deterministic_run(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(engines, "find_vllm", lambda: asked.append("vllm"))
    for deterministic, expected in ((True, []), (False, ["vllm"])):
        asked = []
        compute = ComputeSettings(deterministic=deterministic, precision="fp32")
        with engines.worker_of("auto", tmp_path, compute, 10, SINGLE_PROCESS, "rft.policy.engine") as worker:
            assert (worker, asked) == (None, expected)
