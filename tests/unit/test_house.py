"""The rules of the house that no type checker knows (docs/architecture.md)."""

import ast
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from juicer.recipe.activation import load

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {
    package: sorted((ROOT / package).rglob("*.py"), key=str)
    for package in ("juicer", "tasks", "flows")
    if (ROOT / package).is_dir()
}
BELOW = {"juicer": (), "tasks": ("juicer",), "flows": ("juicer", "tasks")}
ORCHESTRATION = {"prefect", "mlflow", "dvc"}


def imported(path: Path) -> Iterator[str]:
    """Names of the modules that a file imports, at any place in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def dotted(node: ast.expr) -> str:
    """`a.b.c` of an attribute chain."""
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else getattr(node, "id", "")


@pytest.mark.parametrize("package", SOURCES)
def test_imports_run_one_way(package: str) -> None:
    above = set(SOURCES) - {package, *BELOW[package]}
    wrong = [f"{path}: {name}" for path in SOURCES[package] for name in imported(path) if name.split(".")[0] in above]
    assert SOURCES[package]
    assert wrong == []


def test_the_library_knows_no_orchestrator_no_tracker_and_no_dvc() -> None:
    roots = {(path.name, name.split(".")[0]) for path in SOURCES["juicer"] for name in imported(path)}
    assert [each for each in roots if each[1] in ORCHESTRATION] == []


def test_few_tasks_and_no_flow_know_mlflow() -> None:
    users = {
        path.name
        for path in SOURCES["tasks"] + SOURCES["flows"]
        for name in imported(path)
        if name.split(".")[0] == "mlflow"
    }
    assert users == {"aliases.py", "mlflow_store.py", "packaging.py", "registry.py", "tracker.py", "versions.py"}


@pytest.mark.parametrize("folder", ["mlflow", "docker"])
def test_folders_named_like_libraries_hold_no_package(folder: str) -> None:
    assert list((ROOT / folder).rglob("*.py")) == []


def test_import_mlflow_finds_the_library_from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend("")
    found = importlib.util.find_spec("mlflow")
    assert found is not None and found.origin is not None
    assert "site-packages" in found.origin


@pytest.mark.parametrize("path", [path for paths in SOURCES.values() for path in paths], ids=lambda path: path.name)
def test_no_code_unpickles_or_runs_a_shell(path: Path) -> None:
    assert not {"pickle", "cPickle", "dill", "joblib", "cloudpickle"} & set(imported(path))
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            where = f"{path}:{node.lineno}"
            called = dotted(node.func)
            assert called not in {"torch.load", "numpy.load", "os.system", "os.popen", "eval", "exec"}, where
            for keyword in node.keywords:
                off = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                assert keyword.arg != "shell" or off, where
                assert keyword.arg not in ("trust_remote_code", "allow_pickle") or off, where


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_valid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    if path.stem == "hh-tiny" and not (ROOT.parent / "shared").is_dir() and "CI" not in os.environ:
        pytest.skip("the real rows that hh-tiny reads are not beside this checkout")
    # That all but beaver are pinned is tested in test_paper_recipes.py.
    recipe, graph = load(path, [], pinned=False)
    assert recipe.name == path.stem
    assert list(graph.models)[:2] == ["base", "sft"]
