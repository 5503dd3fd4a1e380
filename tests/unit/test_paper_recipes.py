"""The recipes of the paper: complete, pinned, and the rows of one table differ in nothing but what the table varies."""

import re
from pathlib import Path
from typing import Any

import pytest

from juicer.recipe.activation import load
from juicer.recipe.graph import CONFIGS
from juicer.recipe.schema import Recipe
from juicer.runtime.errors import InputError
from tests.stub_models import write_stub

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path.name for path in (ROOT / "recipes").glob("*.yaml"))
ONE_GPU = [name for name in RECIPES if name.endswith(("-1gpu.yaml", "-24gb.yaml"))]
PAPER = [
    name
    for name in RECIPES
    if name.startswith(("hh-", "ultrachat-")) and name != "hh-tiny.yaml" and name not in ONE_GPU
]
ROUNDS = {1: ("all", 1), 2: ("all", 1), 5: ("split", 1), 8: ("split", 1), 10: ("split", 2), 16: ("split", 2)}


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def recipe_of(name: str, *overrides: str) -> Recipe:
    return load(Path("recipes") / name, list(overrides), pinned=False)[0]


def test_every_row_of_the_paper_has_a_recipe_of_its_own_name():
    rows = {"hh-sft", "hh-spin", "hh-irft", "hh-rft", "ultrachat-sft", "ultrachat-spin"}
    assert set(PAPER) == {f"{name}.yaml" for name in rows | {f"ultrachat-irft-t{t}" for t in ROUNDS}}
    assert [recipe_of(name).name for name in PAPER] == [name.removesuffix(".yaml") for name in PAPER]


def test_on_one_gpu_the_paper_s_experiments_are_the_same_but_for_how_they_are_computed():
    for name, of in (("hh-irft", "hh-irft"), ("hh-rft", "hh-rft"), ("ultrachat-irft", "ultrachat-irft-t5")):
        paper, one = recipe_of(f"{of}.yaml"), recipe_of(f"{name}-1gpu.yaml")
        assert (one.compute.processes, one.compute.zero_stage) == (1, 0)
        left_out = {"micro_batch_size", "gradient_checkpointing"}
        for section in ("sft", "irft.training", "rft.reward", "rft.policy"):
            each = [section_of(recipe, section).model_dump(exclude=left_out) for recipe in (paper, one)]
            assert each[0] == each[1], section
        same = {"fetch", "template", "policy", "scorer", "curate", "sft_matched", "evaluation", "seed"}
        assert one.model_dump(include=same) == paper.model_dump(include=same)


def section_of(recipe: Recipe, section: str) -> Any:
    found: Any = recipe
    for part in section.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("t", ROUNDS)
def test_the_rows_of_the_table_differ_in_their_rounds_only(t):
    row, five = recipe_of(f"ultrachat-irft-t{t}.yaml"), recipe_of("ultrachat-irft-t5.yaml")
    assert (row.irft.rounds, row.irft.slice, row.irft.passes) == (t, *ROUNDS[t])
    same = {"rounds": 5, "slice": "split", "passes": 1}
    irft = row.irft.model_copy(update=same)
    assert row.model_copy(update={"name": five.name, "description": five.description, "irft": irft}) == five


def test_ten_rounds_in_two_passes_see_each_fifth_twice():
    _, graph = load(Path("recipes/ultrachat-irft-t10.yaml"), [])
    assert [item.part for item in graph.irft.values()] == [f"{part}/5" for part in (1, 2, 3, 4, 5)] * 2


def test_rounds_that_the_passes_do_not_divide_are_refused():
    with pytest.raises(InputError, match=r"irft\.rounds = 5 is not a multiple of irft.passes = 2"):
        load(Path("recipes/ultrachat-irft-t5.yaml"), ["irft.passes=2"])


@pytest.mark.parametrize("name", PAPER)
def test_every_revision_is_a_commit_or_is_asked_for(name):
    recipe = recipe_of(name)
    revisions = {
        "fetch": recipe.fetch.revision,
        "policy": recipe.policy.revision,
        "rft.reward": recipe.rft.reward.revision if recipe.rft.reward.model else "0" * 40,
        "scorer": recipe.scorer.revision if recipe.scorer.kind != "none" else "0" * 40,
    }
    missing = {key for key, value in revisions.items() if value is None}
    assert all(re.fullmatch("[0-9a-f]{40}", value) for value in revisions.values() if value is not None)
    assert missing == ({"scorer"} if name.startswith("hh-") else set()), "only beaver's commit could not be looked up"
    if missing:
        with pytest.raises(InputError, match=r"set scorer\.revision to a commit of PKU-Alignment/beaver"):
            load(Path("recipes") / name, [])


@pytest.mark.parametrize("name", PAPER)
def test_every_recipe_becomes_tiny_with_models_of_its_own_architectures(name):
    recipe, graph = load(Path("recipes") / name, [], tiny=True)
    assert graph.downloads == {}
    assert graph.base == "models/tiny/policy"
    assert graph.tiny["policy"].config == str(CONFIGS / f"{Path(recipe.policy.model).name}.json")
    before = recipe_of(name)
    assert (recipe.curate.keep, recipe.fetch.source) == (64, "world")
    assert (recipe.irft.rounds, recipe.rft.rounds, recipe.irft.training.lora, recipe.irft.training.optimiser) == (
        before.irft.rounds, before.rft.rounds, before.irft.training.lora, before.irft.training.optimiser,
    )  # fmt: skip


def test_an_override_comes_after_the_scaling_down():
    recipe, _ = load(Path("recipes/hh-irft.yaml"), ["curate.keep=32", "irft.rounds=2"], tiny=True)
    assert (recipe.curate.keep, recipe.irft.rounds) == (32, 2)


def test_a_model_whose_configuration_nobody_kept_cannot_be_made_tiny():
    with pytest.raises(InputError) as error:
        load(Path("recipes/hh-irft.yaml"), ["policy.model=someone/other"], tiny=True)
    assert "policy.model: there is no config.json of 'someone/other' here" in str(error.value)
    assert "recipes/models/other.json" in str(error.value)


class TestExtending:
    """`extends` names a recipe in the same folder."""

    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        Path("recipes").mkdir()
        Path("rows.jsonl").write_text('{"prompt": "Is it raining?", "response": "No."}\n')
        write_stub(Path("model"))
        Path("recipes/whole.yaml").write_text(
            "name: whole\nfetch: {source: ./rows.jsonl}\npolicy: {model: ./model}\n"
            "sft: {epochs: 1, optimiser: {learning_rate: 1e-4}}\nsft_matched: {learning_rates: [1e-4]}\n"
        )
        return Path("recipes")

    def extend(self, folder, text, name="changed.yaml"):
        (folder / name).write_text(text)
        return load(folder / name, [])[0]

    def test_sections_are_merged_key_by_key_and_lists_replaced(self, folder):
        text = "extends: whole.yaml\nname: changed\nsft: {epochs: 3}\nsft_matched: {learning_rates: [1e-5]}\n"
        recipe = self.extend(folder, text)
        assert (recipe.name, recipe.sft.epochs, recipe.sft.optimiser.learning_rate) == ("changed", 3, 1e-4)
        assert recipe.sft_matched.learning_rates == [1e-5]

    def test_a_null_takes_a_section_out(self, folder):
        assert self.extend(folder, "extends: whole.yaml\nsft: {lora: {r: 8}}\n").sft.lora.r == 8
        assert self.extend(folder, "extends: changed.yaml\nsft: {lora: null}\n", "again.yaml").sft.lora is None

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (
                "extends: hole.yaml",
                "recipes/changed.yaml: extends: no such recipe: hole.yaml (did you mean 'recipes/whole",
            ),
            ("extends: 3", "recipes/changed.yaml: extends: 3 is not a file name"),
            ("extends: changed.yaml", "recipes/changed.yaml: extends: changed.yaml extends itself"),
            ("extends: whole.yaml\nsft: {epoch: 1}", "recipes/changed.yaml: unknown parameter 'sft.epoch'"),
        ],
    )
    def test_a_mistake_names_file_and_key(self, folder, text, message):
        with pytest.raises(InputError) as error:
            self.extend(folder, text + "\n")
        assert message in str(error.value)

    def test_a_mistake_in_the_extended_recipe_names_that_one(self, folder):
        whole = folder / "whole.yaml"
        whole.write_text(whole.read_text().replace("epochs", "epocs"))
        with pytest.raises(InputError, match=r"recipes/whole.yaml: unknown parameter 'sft.epocs'"):
            self.extend(folder, "extends: whole.yaml\n")
