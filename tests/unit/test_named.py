"""What a user calls a model: names of the recipe, aliases, versions and folders; and the nearest right one."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ruamel.yaml import YAML

from juicer.data import hh
from juicer.registry import restore, store, versions
from juicer.registry.aliases import aliases_set
from juicer.runtime.errors import InputError
from juicer.serving import named
from juicer.serving.named import Named, default_word, found, predecessor
from tests.stub_models import write_stub

MODELS = {
    "base": "models/world/policy",
    "sft": "models/sft",
    "irft-r1": "models/irft/r1",
    "irft-r2": "models/irft/r2",
    "rft-r1": "models/rft/r1/policy",
}
RECIPE: dict[str, Any] = {
    "name": "kites",
    "seed": 0,
    "template": {"name": "hh", "system": "Be kind.", "max_prompt_tokens": 64, "max_response_tokens": 40},
    "evaluation": {"sampling": {"temperature": 0.7, "top_p": 0.9}},
    "register": {"tracking_uri": "sqlite:///mlflow.db"},
    "graph": {
        "base": "models/world/policy",
        "models": {name: {"path": path, "method": name.split("-")[0], "round": 0} for name, path in MODELS.items()},
        "irft": {"r1": {"previous": "models/sft"}, "r2": {"previous": "models/irft/r1"}},
        "rft": {"r1": {"previous": "models/sft"}},
    },
}
TAGS = {"model": "irft-r1", "dvc_path": "models/irft/r1", "dvc_md5": "0.dir"}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the models of a recipe, and no registry."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    YAML().dump(RECIPE, tmp_path / "params.yaml")
    for path in MODELS.values():
        write_stub(tmp_path / path)
    return tmp_path


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry whose version 3 is the champion."""
    version = versions.Version("kites", "3", {**TAGS, "parent": "2"}, "run", "logged", ("champion", "prod"))
    parent = versions.Version("kites", "2", {**TAGS, "model": "sft", "dvc_path": "models/sft"}, "run", "logged")
    known = {"models:/kites@champion": version, "models:/kites@prod": version, "models:/kites/3": version}
    known["models:/kites/2"] = parent
    kept = "name: kites-then\ntemplate: {name: model}\ngraph: {models: {}}\n"

    @contextmanager
    def opened(uri: str) -> Iterator[Any]:
        yield SimpleNamespace(find=lambda word: known[word], kept_text=lambda version, name: kept)

    monkeypatch.setattr(versions, "open_registry", opened)
    monkeypatch.setattr(restore, "weights_of", lambda registry, version, folder: Path(version.tags["dvc_path"]))
    monkeypatch.setattr(named, "aliases_set", lambda uri, name: ["champion", "prod"])


def resolve(word: str) -> Named:
    with found(word, Path(word)) as model:
        return model


def test_a_name_of_the_recipe_is_its_model_with_the_recipe_s_template_and_sampling() -> None:
    model = resolve("irft-r2")
    assert (model.name, model.folder) == ("irft-r2", Path("models/irft/r2"))
    assert model.template.system == "Be kind."
    assert (model.evaluation.sampling.temperature, model.evaluation.sampling.top_p) == (0.7, 0.9)


def test_the_folder_of_a_model_of_the_recipe_is_that_model() -> None:
    assert resolve("models/irft/r2").name == "irft-r2"


@pytest.mark.parametrize("word", ["champion", "prod", "models:/kites/3", "models:/kites@champion"])
def test_an_alias_or_a_version_is_the_registered_model_with_the_template_it_was_trained_with(
    word: str, registry: None
) -> None:
    model = resolve(word)
    assert (model.name, model.folder, model.template.name) == ("kites-3", Path("models/irft/r1"), "model")
    assert model.recipe["name"] == "kites-then"
    assert model.version is not None and model.version.uri == "models:/kites/3"


def test_a_folder_from_outside_brings_its_own_chat_template_and_no_system_turn(project: Path) -> None:
    write_stub(project / "theirs")
    (project / "theirs/chat_template.jinja").write_text("{{ messages }}")
    assert (resolve("theirs").template.name, resolve("theirs").template.system) == ("model", None)
    assert resolve("theirs").template.max_response_tokens == 40, "the project's limits"
    (project / "theirs/chat_template.jinja").write_text(hh.CHAT_TEMPLATE)
    assert resolve("theirs").template.name == "hh"


def test_a_folder_without_a_chat_template_is_asked_as_the_project_s_models_are(project: Path) -> None:
    write_stub(project / "theirs")
    assert resolve("theirs").template.system == "Be kind."
    config = {"chat_template": [{"name": "tools", "template": "a"}, {"name": "default", "template": "b"}]}
    (project / "theirs/tokenizer_config.json").write_text(json.dumps(config))
    assert resolve("theirs").template.name == "model"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("irft-r22", "did you mean 'irft-r2'?"),
        ("champoin", "did you mean 'champion'?"),
        ("models/irft/r22", "did you mean 'models/irft/r2'?"),
        ("./irft-r2", "no such folder"),
        ("nothing-like-it", "choose from: base, sft, irft-r1, irft-r2, rft-r1, champion, challenger, previous"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_right_one(word: str, said: str) -> None:
    with pytest.raises(InputError) as refused:
        resolve(word)
    assert said in str(refused.value)
    assert not Path("mlflow.db").exists(), "no store is made for a mistake"


def test_a_model_that_has_not_been_made_is_refused_with_what_makes_it(project: Path) -> None:
    (project / "models/irft/r2").rename(project / "elsewhere")
    with pytest.raises(InputError, match=r"models/irft/r2: irft-r2 is not there \(make it: juicer run; or: dvc pull"):
        resolve("irft-r2")


def test_without_a_word_it_is_the_best_on_validation_until_there_is_a_champion(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert default_word() == "rft-r1", "the last one, without a summary"
    (project / "metrics").mkdir()
    (project / "metrics/summary.json").write_text(json.dumps({"champion": {"name": "irft-r1"}}))
    assert default_word() == "irft-r1"
    monkeypatch.setattr(named, "aliases_set", lambda uri, name: ["champion"])
    assert default_word() == "champion"


def test_without_any_model_the_user_is_told_to_make_some(project: Path) -> None:
    (project / "models").rename(project / "elsewhere")
    with pytest.raises(InputError, match=r"there is no model yet \(make some: juicer run"):
        default_word()


@pytest.mark.parametrize(
    ("word", "before"), [("irft-r2", "irft-r1"), ("irft-r1", "sft"), ("rft-r1", "sft"), ("sft", "base")]
)
def test_a_model_was_trained_from_the_one_before_it(word: str, before: str) -> None:
    with predecessor(resolve(word)) as found_before:
        assert found_before.name == before


def test_a_version_was_trained_from_its_parent(registry: None) -> None:
    with found("champion", Path("champion")) as model, predecessor(model) as before:
        assert before.name == "kites-2"


def test_the_base_model_was_trained_from_nothing_that_is_known() -> None:
    said = r"nothing is known of a model that base .* was trained from"
    with pytest.raises(InputError, match=said), predecessor(resolve("base")):
        pass


def test_aliases_are_read_from_a_store_in_a_file_and_a_missing_store_has_none(tmp_path: Path) -> None:
    import sqlite3

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert aliases_set(uri, "kites") == []
    assert not (tmp_path / "mlflow.db").exists()
    made = sqlite3.connect(tmp_path / "mlflow.db")
    made.execute("CREATE TABLE registered_model_aliases (alias, version, name)")
    made.executemany(
        "INSERT INTO registered_model_aliases VALUES (?, 1, ?)",
        [("champion", "kites"), ("challenger", "kites"), ("prod", "boats")],
    )
    made.commit()
    made.close()
    assert aliases_set(uri, "kites") == ["challenger", "champion"]
    assert store.project_model() == "kites"
