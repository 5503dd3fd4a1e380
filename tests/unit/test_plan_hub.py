"""A plan of a hub's model and dataset asks the hub, and without a network it says which file is missing."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from juicer.models.hub_config import hub_config
from juicer.planning.planner import Planner
from juicer.planning.roles import available_rows, shape_in
from juicer.recipe.activation import load
from juicer.runtime.devices import DEVICES
from juicer.runtime.errors import InputError
from juicer.sources.hub import counted_rows

ROOT = Path(__file__).parents[2]
COMMIT = "c0ffee" * 6 + "c0ff"
HUB = ["policy.model=someone/kite", f"policy.revision={COMMIT}"]


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A hub with one model, of pythia-1b's sizes, and one dataset; the list has what it was asked for."""
    asked = list[str]()
    splits = [{"name": "train", "num_examples": 2000}, {"name": "test", "num_examples": 300}]

    def dataset_info(name: str, **given: Any) -> Any:
        asked.append(f"{name}@{given['revision']}")
        assert given["timeout"] < 60
        return SimpleNamespace(card_data={"dataset_info": {"config_name": "default", "splits": splits}})

    def model_info(name: str, **given: Any) -> Any:
        assert given["timeout"] < 60
        return SimpleNamespace(sha=COMMIT)

    def download(name: str, file: str, *, local_files_only: bool, revision: str, **_: Any) -> str:
        asked.append(f"{name}@{revision}/{file}")
        if local_files_only:
            raise FileNotFoundError(file)
        return str(shutil.copy(ROOT / "recipes/models/pythia-1b.json", tmp_path / "config.json"))

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    client = SimpleNamespace(model_info=model_info, dataset_info=dataset_info)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: client)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def test_a_model_of_the_hub_is_planned_by_its_config_at_the_pinned_commit(hub: list[str]) -> None:
    recipe, graph = load(Path("recipes/hh-irft.yaml"), HUB, pinned=False)
    planner = Planner(recipe, graph, DEVICES["H100"], None, None)
    assert planner.policy.parameters == 1_011_781_632
    assert f"someone/kite@{COMMIT}/config.json" in hub
    assert any("someone/kite" in line for line in planner.said())


def test_without_a_network_the_missing_file_is_named() -> None:
    recipe, _ = load(Path("recipes/hh-irft.yaml"), HUB, pinned=False)
    with pytest.raises(InputError) as error:
        shape_in(recipe, "someone/kite", "policy", "policy.model")
    assert "policy.model: there is no config.json of 'someone/kite' here, and the hub gives none" in str(error.value)
    assert "save it as recipes/models/kite.json" in str(error.value)


def test_a_folder_is_not_asked_of_the_hub(hub: list[str], tmp_path: Path) -> None:
    recipe, _ = load(Path("recipes/hh-irft.yaml"), HUB, pinned=False)
    with pytest.raises(InputError, match=r"there is no config\.json of"):
        shape_in(recipe, str(tmp_path), "policy", "policy.model")
    assert hub == [] and hub_config("../kite", None) is None


def test_rows_of_a_hub_s_dataset_are_those_of_its_card(hub: list[str]) -> None:
    overrides = ["fetch.rows=null", "fetch.source=someone/rows", f"fetch.revision={COMMIT}", "curate.keep=null"]
    recipe, _ = load(Path("recipes/hh-irft.yaml"), overrides, pinned=False)
    assert available_rows(recipe) == 2000 * 0.99
    assert f"someone/rows@{COMMIT}" in hub


@pytest.mark.parametrize(
    "card",
    [None, {}, {"dataset_info": []}, {"dataset_info": [{"splits": [{"name": "train", "num_examples": "many"}]}]}],
)
def test_a_card_that_does_not_count_its_rows_says_nothing(
    card: Any, hub: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = SimpleNamespace(dataset_info=lambda name, **given: SimpleNamespace(card_data=card))
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: client)
    assert counted_rows("someone/rows", COMMIT, None, "train") is None


def test_several_configurations_are_told_apart_by_the_subset(hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    each = [
        {"config_name": name, "splits": [{"name": "train", "num_examples": rows}]}
        for name, rows in (("a", 5), ("b", 7))
    ]
    client = SimpleNamespace(dataset_info=lambda name, **given: SimpleNamespace(card_data={"dataset_info": each}))
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: client)
    assert counted_rows("someone/rows", COMMIT, "b", "train") == 7
    assert counted_rows("someone/rows", COMMIT, None, "train") is None


def test_without_a_network_and_a_number_the_key_to_set_is_named(tmp_path: Path) -> None:
    overrides = ["fetch.rows=null", "curate.keep=null"]
    recipe, graph = load(Path("recipes/hh-irft.yaml"), overrides, pinned=False)
    with pytest.raises(InputError, match=r"set fetch\.rows, or connect this machine to the hub"):
        Planner(recipe, graph, DEVICES["H100"], None, None)
