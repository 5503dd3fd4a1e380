"""Where `precision: auto` is bf16: on a CPU from a stated size, with the instructions for it; on a GPU that has it."""

import pytest
import torch

from juicer.models.loading import dtype_of
from juicer.models.precision import BF16_FROM, slow_bf16, training_compute
from juicer.runtime.errors import InputError
from juicer.settings.compute import ComputeSettings

AUTO = ComputeSettings(device="cpu")


@pytest.fixture(params=["avx512_bf16", "amx_bf16"])
def with_bf16(request, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {request.param: True, "avx2": True}, raising=False)


@pytest.fixture
def without_bf16(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)


def test_a_large_model_trains_in_bf16_and_a_small_one_does_not(with_bf16):
    assert training_compute(AUTO, BF16_FROM).precision == "bf16"
    assert training_compute(AUTO, BF16_FROM - 1).precision == "fp32"


def test_what_samples_on_a_cpu_stays_in_float32(with_bf16):
    assert dtype_of(AUTO) == torch.float32


def test_a_cpu_without_the_instructions_trains_in_float32(without_bf16):
    assert training_compute(AUTO, 10 * BF16_FROM).precision == "fp32"


def test_a_torch_that_does_not_tell_is_one_without(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert training_compute(AUTO, 10 * BF16_FROM).precision == "fp32"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_recipe_s_own_precision_is_taken_everywhere(with_bf16, precision):
    given = AUTO.model_copy(update={"precision": precision})
    assert training_compute(given, 1) == training_compute(given, BF16_FROM) == given


def test_bf16_that_is_emulated_is_warned_of(without_bf16, capsys):
    given = AUTO.model_copy(update={"precision": "bf16"})
    assert training_compute(given, 1) == given
    assert "neither avx512_bf16 nor amx" in capsys.readouterr().err
    assert not slow_bf16(AUTO)


@pytest.fixture(params=[True, False], ids=["bf16", "no bf16"])
def gpu(request, monkeypatch):
    """A GPU, and whether it has bf16."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: request.param)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    return request.param


def test_auto_on_a_gpu_without_bf16_is_float32_and_training_says_so(gpu, capsys):
    compute = ComputeSettings()
    assert dtype_of(compute) == (torch.bfloat16 if gpu else torch.float32)
    assert training_compute(compute, BF16_FROM) == compute
    said = "" if gpu else "Tesla T4 does not compute in bf16: compute.precision auto is fp32 there\n"
    assert capsys.readouterr().err == said


def test_bf16_that_a_gpu_would_emulate_is_refused(gpu):
    compute = ComputeSettings(precision="bf16")
    if gpu:
        assert dtype_of(compute) == torch.bfloat16
    else:
        with pytest.raises(InputError, match="bf16, which Tesla T4 does not compute in"):
            dtype_of(compute)
    assert dtype_of(ComputeSettings(precision="fp32")) == torch.float32
