"""Inputs that are on this machine only: which are kept in DVC, and that a copy is one."""

import gzip
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from juicer.recipe import activation
from juicer.recipe.activation import activate
from juicer.recipe.checks import validate
from juicer.recipe.origin import origin_of
from juicer.runtime.errors import InputError
from juicer.runtime.files import read_yaml
from tasks.keep import copy
from tests.stub_models import write_stub

ROOT = Path(__file__).resolve().parents[2]
PARAMS = Path("params.yaml")


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Overrides that make the quickstart read a model and a file of this machine."""
    monkeypatch.chdir(tmp_path)
    write_stub(Path("mine/model"))
    monkeypatch.setattr(activation, "probe_models", lambda recipe, where: [])
    Path("mine/model/weights").write_bytes(bytes(2_000_000))
    Path("mine/rows.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "Is it raining?", "response": "No."}\n'))
    return ["policy.model=mine/model", "fetch.source=mine/rows.jsonl.gz"]


def activated(*overrides: str) -> tuple[str, dict[str, dict[str, str]]]:
    """What activation says, and what it decided to keep."""
    said = activate(ROOT / "recipes/quickstart.yaml", overrides, PARAMS)
    kept: dict[str, dict[str, str]] = read_yaml(PARAMS)["graph"]["kept"]
    return said, kept


def test_local_inputs_are_kept_under_a_name_that_tells_their_format(local: list[str]) -> None:
    said, kept = activated(*local)
    written = "params.yaml written from " + str(ROOT / "recipes/quickstart.yaml")
    assert said == f"{written}; mine/rows.jsonl.gz is prompt-response: its 1 row can be used"
    assert kept == {
        "source": {"source": "mine/rows.jsonl.gz", "copy": "inputs/source.jsonl.gz"},
        "policy": {"source": "mine/model", "copy": "inputs/policy"},
    }


def test_a_large_input_is_only_hashed_and_activation_says_its_size(local: list[str]) -> None:
    said, kept = activated(*local, "keep.up_to_gb=0.001")
    assert list(kept) == ["source"]
    assert "; only hashed, because keep.up_to_gb is 0.001: mine/model (0.002 GB)" in said
    said, kept = activated(*local, "keep.up_to_gb=0")
    assert kept == {} and "mine/model" in said and "mine/rows.jsonl.gz" in said


def test_what_stages_make_and_what_is_on_the_hub_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("models/world/policy").mkdir(parents=True)
    assert activated()[1] == {}
    assert activated("policy={model: org/name, revision: " + "a" * 40 + "}")[1] == {}


def test_a_recipe_stays_valid_when_its_kept_inputs_grow_or_go(local: list[str]) -> None:
    activated(*local, "keep.up_to_gb=0.0025")
    Path("mine/model/more").write_bytes(bytes(2_000_000))
    validate(read_yaml(PARAMS), "params.yaml")
    shutil.rmtree("mine")
    validate(read_yaml(PARAMS), "params.yaml")


@pytest.mark.parametrize(
    ("key", "value"), [("source", "/etc"), ("copy", "juicer"), ("copy", "inputs/policy/../../juicer")]
)
def test_what_is_kept_is_not_edited_by_hand(local: list[str], key: str, value: str) -> None:
    activated(*local)
    params = read_yaml(PARAMS)
    params["graph"]["kept"]["policy"][key] = value
    YAML(typ="safe").dump(params, PARAMS)
    with pytest.raises(InputError, match=r"graph\.kept\.policy is no input of the recipe"):
        validate(read_yaml(PARAMS), "params.yaml")


def test_a_copy_has_all_files_and_what_links_lead_to(tmp_path: Path) -> None:
    (tmp_path / "model/deep").mkdir(parents=True)
    (tmp_path / "model/deep/weights").write_bytes(b"12345")
    (tmp_path / "model/link").symlink_to("deep/weights")
    assert copy(tmp_path / "model", tmp_path / "copy") == 10
    assert (tmp_path / "copy/link").read_bytes() == b"12345" and not (tmp_path / "copy/link").is_symlink()
    assert (tmp_path / "copy/deep/weights").read_bytes() == b"12345"


def test_a_source_that_changes_while_it_is_copied_is_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text("{}")
    monkeypatch.setattr("tasks.keep._copy_file", lambda old, new: source.write_text("{}{}"))
    with pytest.raises(InputError, match="it changed while it was copied"):
        copy(source, tmp_path / "copy")
    with pytest.raises(InputError, match="there is no such file or folder"):
        copy(tmp_path / "gone", tmp_path / "copy")


def test_what_params_yaml_was_written_from_is_known_until_it_is_edited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "recipes/quickstart.yaml", "whole.yaml")
    Path("part.yaml").write_text("extends: whole.yaml\nname: part\n")
    activate(Path("part.yaml"), ["seed=1"], PARAMS)
    activate(PARAMS, ["seed=2"], PARAMS)
    origin = origin_of(PARAMS)
    assert origin is not None
    assert origin.recipes == {name: Path(name).read_text() for name in ("part.yaml", "whole.yaml")}
    assert (origin.overrides, origin.tiny) == (["seed=1", "seed=2"], False)
    PARAMS.write_text(PARAMS.read_text().replace("seed: 2", "seed: 3"))
    assert origin_of(PARAMS) is None
    activate(PARAMS, ["seed=4"], PARAMS)
    assert origin_of(PARAMS) is None
