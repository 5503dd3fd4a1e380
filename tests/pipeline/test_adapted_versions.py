"""Registered versions that are adapters: restored with their base model, merged where the project has another one."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from juicer.models.folder import base_record
from juicer.models.loading import TRAINING_DTYPE, load_policy, load_template
from juicer.registry.promote import _upload
from juicer.registry.restore import restore, weights_of
from juicer.registry.store import project_uri
from juicer.registry.versions import Registry, open_registry
from juicer.settings.compute import ComputeSettings
from juicer.settings.data import TemplateSettings
from juicer.settings.training import LoraSettings
from juicer.training.adapters import add_adapters, merge_adapters, save_trained
from tests.small_pipeline import GRAPH, commit, make_project, register, save_tiny_model

# MLflow's own use of SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

CPU = ComputeSettings(device="cpu", precision="fp32")
SFT, R2 = Path("models/sft"), Path("models/irft/r2")
ADAPTED = GRAPH.replace("{r1: models/sft, r2: models/irft/r1}", "{r1: adapters/r1, r2: adapters/r2}").replace(
    'deps: [make.py, "${item}", data/curated]', 'deps: [make.py, "${item}", models/sft, data/curated]'
)
LAST = "models:/quickstart/3"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_policy(folder, CPU, TRAINING_DTYPE).state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two rounds of adapters over its SFT policy, registered."""
    folder = tmp_path_factory.mktemp("project")
    with contextlib.chdir(folder):
        save_tiny_model(SFT)
        template = load_template(SFT, TemplateSettings(name="hh", max_prompt_tokens=48, max_response_tokens=16))
        start = SFT
        for seed, name in enumerate(("r1", "r2")):
            model = load_policy(start, CPU, TRAINING_DTYPE)
            handle = add_adapters(model, LoraSettings(r=2), seed)
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter.add_(0.1 * torch.randn(parameter.shape))
            merge_adapters(handle)
            out = Path("adapters", name)
            save_trained(model, template, out, {"facts": {}}, LoraSettings(r=2), start)
            start = out
        shutil.rmtree(SFT)
    make_project(folder, ADAPTED)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        register(folder)
        commit(folder, "results")
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which the test is in."""
    shutil.copytree(made, tmp_path / "project", symlinks=True)
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/project/mlflow.db")
    return tmp_path / "project"


@pytest.fixture
def registry(project: Path) -> Iterator[Registry]:
    with open_registry(project_uri()) as opened:
        yield opened


def test_a_version_of_adapters_comes_back_with_its_base_model(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = weights(R2)
    found = restore(registry, registry.find(LAST), tmp_path / "back")
    assert {"models/irft/r2", "models/sft"} <= found.md5s.keys()
    assert "models/irft/r1" not in found.md5s, "the adapters of all rounds are in the last one"
    monkeypatch.chdir(tmp_path / "back")
    record = base_record(R2)
    assert record is not None and (record.base, record.ranks) == ("models/sft", [2, 2])
    assert same(weights(R2), expected)


def test_a_version_is_used_where_it_is_as_long_as_its_base_model_is_there(registry: Registry, tmp_path: Path) -> None:
    assert weights_of(registry, registry.find(LAST), tmp_path / "scratch") == R2


@pytest.mark.parametrize("which", ["another", "none"])
def test_a_version_whose_base_model_the_project_has_no_more_is_merged_into_the_one_of_dvc_s_cache(
    registry: Registry, tmp_path: Path, which: str
) -> None:
    expected = weights(R2)
    other = load_policy(SFT, CPU)
    shutil.rmtree(SFT)
    if which == "another":
        with torch.no_grad():
            next(iter(other.parameters())).add_(1)
        other.save_pretrained(SFT)
    whole = weights_of(registry, registry.find(LAST), tmp_path / "scratch")
    assert whole.is_relative_to(tmp_path / "scratch")
    assert base_record(whole) is None
    assert same(weights(whole), expected)


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred")  # MLflow's, of its own code
def test_what_is_promoted_is_merged_into_an_ordinary_model(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, stored = weights(R2), Path("uploaded")
    monkeypatch.setattr(registry, "upload", lambda version, model, card: shutil.copytree(model / "model", stored))
    _upload(registry, registry.find(LAST), "no gates here")
    assert not {"base.json", "adapter_model.safetensors"} & {path.name for path in stored.iterdir()}
    assert same(weights(stored), expected)
