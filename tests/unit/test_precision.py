"""Where `precision: auto` trains in bf16 on a CPU: from a stated size, and only with the instructions for it."""

import pytest
import torch

from juicer.models.loading import dtype_of
from juicer.models.precision import BF16_FROM, slow_bf16, training_compute
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
