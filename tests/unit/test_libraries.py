"""Libraries whose internals Juicer relies on: one set of bounds, checked by installers and again at run time."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from flows.forecast import reading
from juicer.methods.policy_alignment import align_policy
from juicer.methods.sft import train_sft
from juicer.models.loading import load_policy
from juicer.registry.store import connect
from juicer.runtime.errors import InputError
from juicer.runtime.libraries import BOUNDS, PPO_TRL, require
from juicer.settings.compute import ComputeSettings

ROOT = Path(__file__).resolve().parents[2]


def install(monkeypatch: pytest.MonkeyPatch, installed: str) -> None:
    """Let every distribution claim to be of this version."""
    monkeypatch.setattr("importlib.metadata.version", lambda name: installed)


def test_pyproject_states_the_bounds_that_are_checked_at_run_time() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stated = {each.name: each.specifier for each in map(Requirement, project["dependencies"])}
    assert {name: stated[name] for name in BOUNDS} == {
        name: SpecifierSet(each.versions) for name, each in BOUNDS.items()
    }


@pytest.mark.parametrize("name", BOUNDS)
def test_the_bounds_have_an_upper_end_and_hold_the_tested_version(name: str) -> None:
    bounds = SpecifierSet(BOUNDS[name].versions)
    assert any(each.operator == "<" for each in bounds)
    (tested,) = re.findall(rf"^{name}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert tested in bounds


@pytest.mark.parametrize(("file", "name"), [("bare", "transformers"), ("ppo", "trl")])
def test_other_environments_of_this_project_are_accepted_too(
    monkeypatch: pytest.MonkeyPatch, file: str, name: str
) -> None:
    (pinned,) = re.findall(rf"^{name}==(\S+)$", (ROOT / f"constraints-{file}.txt").read_text(), re.MULTILINE)
    install(monkeypatch, pinned)
    require(name, also=PPO_TRL if file == "ppo" else "")


def test_the_installed_libraries_are_accepted() -> None:
    for name in BOUNDS:
        require(name, also=PPO_TRL if name == "trl" else "")


def test_another_version_is_one_line_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "1.20.0")
    with pytest.raises(InputError) as error:
        require("trl")
    assert str(error.value) == (
        "trl 1.20.0 is installed, but Juicer, which overrides private methods of TRL's SFT and RLOO trainers, is "
        "written for trl >=1.16,<1.17 (install one of these: pip install 'trl>=1.16,<1.17')"
    )


def test_a_missing_library_is_one_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BOUNDS, "no-such-library", BOUNDS["trl"])
    with pytest.raises(InputError, match=r"^no-such-library is not installed \(install one of these: pip install"):
        require("no-such-library")


@pytest.mark.parametrize("release", ["1.16.3", "1.17.0.dev0", "1.17.0rc1"])
def test_a_pre_release_is_judged_by_its_number(monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    install(monkeypatch, release)
    if release == "1.16.3":
        require("trl")
    else:
        with pytest.raises(InputError, match="is written for"):
            require("trl")


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("trl", lambda: train_sft(*[None] * 7)),
        ("trl", lambda: align_policy(*[None] * 8, seed=0, scratch=Path())),
        ("transformers", lambda: load_policy(Path(), ComputeSettings())),
        ("mlflow", lambda: connect("sqlite:///mlflow.db").__enter__()),
        ("dvc", lambda: reading().__enter__()),
    ],
    ids=["SFT", "RLOO", "models", "MLflow", "DVC"],
)
def test_the_version_is_checked_where_the_internals_are_used(
    monkeypatch: pytest.MonkeyPatch, name: str, use: Callable[[], object]
) -> None:
    install(monkeypatch, "0.1")
    monkeypatch.setattr("juicer.models.loading.check_folder", lambda folder: {})
    with pytest.raises(InputError, match=f"^{name} 0.1 is installed, but Juicer"):
        use()
