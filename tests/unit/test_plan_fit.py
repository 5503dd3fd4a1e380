"""`juicer plan --fit` proposes the fastest settings that fit, keeps the batch, and says what they cost."""

from pathlib import Path

import pytest

from juicer.planning.plan import Assumptions, instead, show, show_fitting
from juicer.recipe.activation import load
from juicer.runtime.errors import InputError

ROOT = Path(__file__).parents[2]
ONE = ["compute.processes=1", "scorer={kind: none}"]


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def proposed(capsys: pytest.CaptureFixture[str], name: str, overrides: list[str], gpu: str) -> str:
    show_fitting(Path(f"recipes/{name}.yaml"), overrides, Assumptions(gpu=gpu))
    return capsys.readouterr().out


def changes(printed: str, name: str) -> list[str]:
    import shlex

    (line,) = (line for line in printed.splitlines() if line.startswith("juicer use"))
    words = shlex.split(line)
    assert words[:3] == ["juicer", "use", name]
    return words[3:]


def test_a_large_card_needs_no_sharding_recomputation_or_adapters(capsys: pytest.CaptureFixture[str]) -> None:
    printed = proposed(capsys, "hh-irft", ONE, "H100")
    given = changes(printed, "hh-irft")
    recipe, _ = load(Path("recipes/hh-irft.yaml"), given, pinned=False)
    asked, _ = load(Path("recipes/hh-irft.yaml"), [*ONE, "sft.micro_batch_size=auto"], pinned=False)
    assert recipe.compute.zero_stage == 0 and recipe.irft.training.lora is None
    assert not recipe.sft.gradient_checkpointing and not recipe.irft.training.gradient_checkpointing
    assert recipe.irft.training.batch_size == asked.irft.training.batch_size
    assert recipe.sft.batch_size == asked.sft.batch_size
    assert "LoRA" not in printed and "It fits: " in printed


def test_a_small_card_trains_adapters_which_the_proposal_calls_another_model(
    capsys: pytest.CaptureFixture[str],
) -> None:
    printed = proposed(capsys, "hh-irft", ONE, "4090")
    recipe, _ = load(Path("recipes/hh-irft.yaml"), changes(printed, "hh-irft"), pinned=False)
    assert recipe.irft.training.lora is not None and recipe.sft.lora is not None
    assert "LoRA trains another model" in printed
    show(Path("recipes/hh-irft.yaml"), changes(printed, "hh-irft"), Assumptions(gpu="4090"), measured=False)


def test_gpus_that_the_batch_does_not_divide_among_stay_unused(capsys: pytest.CaptureFixture[str]) -> None:
    for gpus, used in ((8, 8), (16, 8)):
        printed = proposed(capsys, "hh-irft", ["scorer={kind: none}", f"compute.processes={gpus}"], "H100")
        assert f"compute.processes={used} " in printed
        assert (f"{used} of {gpus} GPUs are used" in printed) == (used < gpus)


def test_what_does_not_fit_names_the_proposal_or_that_there_is_none() -> None:
    told = instead(Path("recipes/hh-irft.yaml"), ONE, Assumptions(gpu="4090"))
    assert told.startswith("what juicer plan --fit proposes (") and "irft.training.lora=" in told
    with pytest.raises(InputError, match=r"but RTX4090 has 24 GiB \(use what juicer plan --fit proposes"):
        show(Path("recipes/hh-irft.yaml"), [*ONE, "compute.zero_stage=0"], Assumptions(gpu="4090"), measured=False)


def test_where_nothing_fits_the_stage_and_both_numbers_are_named() -> None:
    with pytest.raises(InputError) as error:
        show_fitting(Path("recipes/hh-irft.yaml"), ["compute.processes=1"], Assumptions(gpu="T4"))
    told = str(error.value)
    assert "GiB per device whatever is changed, but T4 has 15.0" in told
    assert "smaller model or scorer" in told
    assert "finds nothing" in instead(Path("recipes/hh-irft.yaml"), ["compute.processes=1"], Assumptions(gpu="T4"))


def test_a_cpu_is_not_fitted() -> None:
    with pytest.raises(InputError, match="--fit proposes changes for GPUs"):
        show_fitting(Path("recipes/quickstart.yaml"), [], Assumptions(gpu="cpu"))


def test_the_proposal_for_a_tiny_recipe_is_tiny_too(capsys: pytest.CaptureFixture[str]) -> None:
    show_fitting(Path("recipes/hh-irft.yaml"), ONE, Assumptions(gpu="L4"), tiny=True)
    assert "\njuicer use hh-irft --tiny " in capsys.readouterr().out


def test_cards_without_bf16_need_fp32_in_writing_only_beside_others(capsys: pytest.CaptureFixture[str]) -> None:
    for gpu, asked, needed in (("T4", "auto", False), ("A100,T4", "auto", True), ("T4", "bf16", True)):
        show_fitting(Path("recipes/hh-irft.yaml"), [f"compute.precision={asked}"], Assumptions(gpu=gpu), tiny=True)
        assert ("compute.precision=fp32" in capsys.readouterr().out) is needed


def test_what_the_recipe_has_already_is_not_proposed_again(capsys: pytest.CaptureFixture[str]) -> None:
    first = changes(proposed(capsys, "hh-irft", ONE, "H100"), "hh-irft")
    recipe, _ = load(Path("recipes/hh-irft.yaml"), [], pinned=False)
    assert recipe.compute.processes != 1 and "compute.processes=1" in first
    printed = proposed(capsys, "hh-irft", first, "H100")
    assert "It fits: " in printed and set(changes(printed, "hh-irft")) == set(first)  # the number of GPUs is a change
    printed = proposed(capsys, "hh-irft-1gpu", [], "H200")
    assert "It fits as it is: " in printed and changes(printed, "hh-irft-1gpu") == []


def test_what_a_recipe_says_of_its_adapters_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    given = [*ONE, "sft.lora={r: 8, alpha: 4, dropout: 0.1, save: merged}"]
    recipe, _ = load(
        Path("recipes/hh-irft.yaml"), changes(proposed(capsys, "hh-irft", given, "4090"), "hh-irft"), pinned=False
    )
    lora = recipe.sft.lora
    assert lora is not None
    assert (lora.r, lora.alpha, lora.dropout, lora.save) == (8, 4, 0.1, "merged")


def test_a_way_that_the_recipe_excludes_leaves_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["compute.packing=false", "compute.weights=bf16", "compute.precision=bf16", "compute.processes=2"]
    printed = proposed(capsys, "hh-irft-1gpu", given, "4090")
    recipe, _ = load(Path("recipes/hh-irft-1gpu.yaml"), changes(printed, "hh-irft-1gpu"), pinned=False)
    assert recipe.irft.training.lora is not None and recipe.compute.zero_stage == 0


def test_what_was_given_and_is_replaced_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    printed = proposed(capsys, "hh-irft", [*ONE, "sft.gradient_checkpointing=true"], "H100")
    assert "\nsft.gradient_checkpointing=true, as given, is replaced by sft.gradient_checkpointing=false." in printed
    assert "sft.gradient_checkpointing=true" not in changes(printed, "hh-irft")
