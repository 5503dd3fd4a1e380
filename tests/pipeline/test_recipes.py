"""The paper's recipes, scaled down by --tiny, through every stage of their graphs; the stages run in this process."""

import json
import runpy
import shlex
import shutil
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from dvc.repo import Repo
from safetensors.torch import load_file

from juicer.models.folder import base_record
from juicer.models.loading import whole_folder
from juicer.planning.comparison import compare, measured_lengths
from juicer.planning.planner import Planner
from juicer.recipe.activation import activate, load
from juicer.runtime.devices import DEVICES

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = ("register",)
"""Reads dvc.lock, which only DVC writes; test_dvc_pipeline and test_register run it."""


def run_tiny(recipe: str, overrides: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run the command of every stage, after those that make its dependencies; returns their names."""
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    shutil.copy(ROOT / "dvc.yaml", folder)
    for name in ("juicer", "tasks", "votes"):
        (folder / name).symlink_to(ROOT / name)
    monkeypatch.chdir(folder)
    activate(Path("recipes") / recipe, overrides, Path("params.yaml"), tiny=True)
    Repo.init(no_scm=True).close()
    with Repo() as repo:
        stages = {stage.name: stage for stage in repo.index.stages}
    makers = {out.def_path: name for name, stage in stages.items() for out in stage.outs}
    needed = {
        name: {maker for dep in stage.deps for out, maker in makers.items() if Path(dep.def_path).is_relative_to(out)}
        for name, stage in stages.items()
    }
    names = [name for name in TopologicalSorter(needed).static_order() if name not in ELSEWHERE]
    # Each stage would leave a thread here that asks five times a second whether its starters are still alive.
    monkeypatch.setattr("juicer.stages.stage.end_with", lambda starters: None)
    for name in names:
        _, _, module, *arguments = shlex.split(stages[name].cmd)
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        monkeypatch.setenv("DVC_STAGE", name)
        monkeypatch.delitem(sys.modules, module, raising=False)
        with pytest.raises(SystemExit) as left:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        assert left.value.code == 0, name
        assert all(Path(out.def_path).exists() for out in stages[name].outs), name
    return names


def assert_as_planned(recipe: str, overrides: list[str], stages: int) -> None:
    """What the stages left is within 15% of what the plan says about them."""
    # fp32, because that is what a stage computes in on a CPU.
    planned = [*overrides, "compute.precision=fp32"]
    loaded, graph = load(Path("recipes") / recipe, planned, tiny=True)
    plan = Planner(loaded, graph, DEVICES["H100"], 0.4, measured_lengths(loaded, graph)).plan()
    compared = compare(plan, graph)
    assert len({name for name, *_ in compared}) == stages
    for name, quantity, expected, found in compared:
        exact = quantity in ("parameters", "steps")
        assert expected == pytest.approx(found, rel=0 if exact else 0.15), (name, quantity)


def architecture(folder: str) -> str:
    return json.loads(Path(folder, "config.json").read_text())["architectures"][0]


def trained(folder: str) -> dict:
    return json.loads(Path(folder, "training.json").read_text())


def changed(before: str, after: str) -> set[str]:
    """Names of the tensors in which two models differ, whole or as adapters."""
    found = []
    for each in (before, after):
        with whole_folder(Path(each)) as folder:
            found.append(load_file(folder / "model.safetensors"))
    one, other = found
    assert one.keys() == other.keys()
    return {name for name in one if not one[name].equal(other[name])}


def models_of_the_report() -> list[str]:
    return [model["name"] for model in json.loads(Path("metrics/summary.json").read_text())["models"]]


def test_irft_on_hh_trains_a_gpt_neox_in_five_rounds_on_a_fifth_each(tmp_path, monkeypatch):
    # One rate, because the choice among several is taken in the next test.
    overrides = ["sft_matched.learning_rates=[1e-5]"]
    run_tiny("hh-irft.yaml", overrides, tmp_path, monkeypatch)
    assert_as_planned("hh-irft.yaml", overrides, stages=12)
    assert models_of_the_report() == ["base", "sft", "sft-matched", *(f"irft-r{t}" for t in range(1, 6))]
    assert architecture("models/irft/r5") == "GPTNeoXForCausalLM"
    assert architecture("models/tiny/scorer") == "LlamaForScore"
    assert sum(trained(f"models/irft/r{t}")["facts"]["pairs"] for t in range(1, 6)) == 64
    assert "embed_out.weight" in changed("models/irft/r4", "models/irft/r5")


def test_rft_on_hh_learns_a_reward_from_a_trunk_of_its_own(tmp_path, monkeypatch):
    names = run_tiny("hh-rft.yaml", [], tmp_path, monkeypatch)
    assert_as_planned("hh-rft.yaml", [], stages=5)
    assert {"tiny@policy", "tiny@reward", "tiny@scorer", "rft_reward@r1", "rft_policy@r1"} <= set(names)
    assert architecture("models/rft/r1/reward") == "GPTNeoXForSequenceClassification"
    trunk, reward = (
        load_file(Path(f"{folder}/model.safetensors")) for folder in ("models/tiny/reward", "models/rft/r1/reward")
    )
    moved = {name for name in trunk.keys() & reward.keys() if not trunk[name].equal(reward[name])}
    assert moved and not any(".layers.0." in name or "embed_in" in name for name in moved), "block 0 is frozen"
    assert trained("models/rft/r1/policy")["steps"] == 2
    assert models_of_the_report() == ["base", "sft", "sft-matched", "rft-r1"]


@pytest.mark.parametrize("recipe", ["hh-sft.yaml", "ultrachat-sft.yaml"])
def test_a_recipe_without_rounds_runs_to_the_report(recipe, tmp_path, monkeypatch):
    names = run_tiny(recipe, [], tmp_path, monkeypatch)
    assert not [name for name in names if name.startswith(("irft", "rft", "sft_matched"))]
    assert models_of_the_report() == ["base", "sft"]
    assert bool(changed("models/tiny/policy", "models/sft")) == (recipe == "hh-sft.yaml")


@pytest.mark.parametrize("recipe", ["ultrachat-irft-t2.yaml", "ultrachat-spin.yaml"])
def test_irft_on_ultrachat_trains_a_mistral_in_zephyrs_template_with_adapters_or_whole(recipe, tmp_path, monkeypatch):
    run_tiny(recipe, [], tmp_path, monkeypatch)
    assert_as_planned(recipe, [], stages=6)
    assert architecture("models/irft/r2") == "MistralForCausalLM"
    assert not changed("models/tiny/policy", "models/sft"), "zephyr-7b-sft-full is an SFT policy already"
    assert trained("models/irft/r2")["total_steps"] == 32
    # Adapters of both rounds lie beside the base model, which the SFT policy is; what a recipe trains whole is whole.
    ranks = {folder: record and record.ranks for folder in ("models/sft", "models/irft/r1", "models/irft/r2")
             for record in [base_record(Path(folder))]}  # fmt: skip
    adapted = {"models/sft": [], "models/irft/r1": [64], "models/irft/r2": [64, 64]}
    assert ranks == (dict.fromkeys(adapted) if recipe == "ultrachat-spin.yaml" else adapted)
    # Adapters change the linear layers alone; the output head, embedding and norms have none.
    whole = {"lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"}
    assert bool(whole & changed("models/sft", "models/irft/r2")) == (recipe == "ultrachat-spin.yaml")
    prompt = json.loads(Path("evaluation/models/base.json").read_text())["samples"][0]["prompt"]
    assert prompt.startswith("<|system|>\n<|endoftext|>\n<|user|>\n") and prompt.endswith("<|assistant|>")
