"""The rules of the house that no type checker knows (docs/architecture.md)."""

import ast
import gzip
import importlib.util
import json
import os
import re
import shutil
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from juicer.recipe.activation import load
from tests.stub_models import write_stub

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {
    package: sorted((ROOT / package).rglob("*.py"), key=str)
    for package in ("juicer", "tasks", "flows")
    if (ROOT / package).is_dir()
}
BELOW = {"juicer": (), "tasks": ("juicer",), "flows": ("juicer", "tasks")}
ROOMS: tuple[set[str], ...] = (
    {"runtime", "settings"},
    {"data"},
    {"models", "sources"},
    {"scorers", "sampling", "training"},
    {"quickstart", "evaluation"},
    {"methods", "judging"},
    {"recipe"},
    {"stages"},
    {"planning", "reporting", "running"},
    {"drafting", "claim", "experiments", "voting"},
    {"registry"},
    {"serving"},
)
"""The rooms of juicer, floor by floor: a room imports from the floors below it."""
ALSO = {"settings": {"runtime"}, "runtime": {"settings"}}
"""Processes are joined as the settings say, and settings report errors. No module does both."""
KNOWN_TO = {
    "prefect": {"flows."},
    "mlflow": {"juicer.registry.", "flows.gate"},
    "dvc": {
        "flows.",
        "juicer.running.",
        "juicer.experiments.",
        "juicer.stages.damage",
        "juicer.stages.pipeline",
        "juicer.reporting.objects",
        "juicer.reporting.plot_difference",
    },
}


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


def room_of(path: Path) -> str:
    """The room of a module of juicer; "" for one that stands in the hall, such as the console script."""
    parts = path.relative_to(ROOT).parts
    return parts[1] if len(parts) > 2 else ""


@pytest.mark.parametrize("path", [path for path in SOURCES["juicer"] if room_of(path)], ids=str)
def test_a_room_imports_from_the_rooms_below_it_only(path: Path) -> None:
    room = room_of(path)
    below = set().union(*ROOMS[: next(floor for floor, rooms in enumerate(ROOMS) if room in rooms)])
    used = {name.split(".")[1] for name in imported(path) if name.startswith("juicer.")} - {room}
    assert used - below - ALSO.get(room, set()) == set()


def test_every_room_has_a_floor_and_says_what_it_holds() -> None:
    rooms = {room_of(path) for path in SOURCES["juicer"]} - {""}
    assert rooms == set().union(*ROOMS)
    for room in rooms:
        assert ast.get_docstring(ast.parse((ROOT / "juicer" / room / "__init__.py").read_text(encoding="utf-8"))), room


def test_no_module_of_the_library_imports_itself_in_a_circle() -> None:
    modules = {".".join(path.with_suffix("").relative_to(ROOT).parts): path for path in SOURCES["juicer"]}
    graph = {name: {other for other in imported(path) if other in modules} for name, path in modules.items()}
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize(("package", "rooms"), KNOWN_TO.items())
def test_orchestrator_tracker_and_dvc_are_known_where_they_belong(package: str, rooms: set[str]) -> None:
    users = {
        ".".join(path.with_suffix("").relative_to(ROOT).parts)
        for paths in SOURCES.values()
        for path in paths
        for name in imported(path)
        if name.split(".")[0] == package
    }
    assert users
    assert [user for user in users if not any(user.startswith(room) for room in rooms)] == []


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


@pytest.mark.parametrize("folder", ["juicer", "tasks", "flows", "bench", "dev"])
def test_no_model_is_loaded_in_a_way_that_may_ask_whether_to_run_its_code(folder: str) -> None:
    asking = re.compile(r"(Auto\w+|kind)\.(from_pretrained|from_config)|LLM|HFLM")
    calls = [
        (f"{path}:{node.lineno}", {keyword.arg for keyword in node.keywords})
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and asking.fullmatch(dotted(node.func))
    ]
    assert calls or folder != "juicer"
    assert [where for where, given in calls if "trust_remote_code" not in given] == []


FETCHED = {
    "smollm2-hh-cpu": "data/hh-harmless.jsonl.gz",
    "smollm2-own": "data/own.jsonl",
}
"""What recipes read that a user puts there first."""


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the recipes, and stand-ins for what a user puts beside them first."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    monkeypatch.chdir(tmp_path)
    shape = json.loads((ROOT / "recipes/models/SmolLM2-135M-Instruct.json").read_text(encoding="utf-8"))
    write_stub(tmp_path / "models/SmolLM2-135M-Instruct", shape)
    row = json.dumps({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}) + "\n"
    for name in FETCHED.values():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(gzip.compress(row.encode()) if name.endswith(".gz") else row.encode())
    return tmp_path


@pytest.mark.parametrize("name", FETCHED)
def test_recipes_of_files_that_a_user_fetches_are_valid_once_these_are_there(name: str, fetched: Path) -> None:
    recipe, graph = load(fetched / f"recipes/{name}.yaml", ["policy.digest=null"], pinned=False)
    assert recipe.name == name
    assert graph.sources["source"] == FETCHED[name]


@pytest.mark.parametrize(
    "path",
    [path for path in sorted((ROOT / "recipes").glob("*.yaml")) if path.stem not in FETCHED],
    ids=lambda path: path.stem,
)
def test_every_recipe_is_valid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    if path.stem == "hh-tiny" and not (ROOT.parent / "shared").is_dir() and "CI" not in os.environ:
        pytest.skip("the real rows that hh-tiny reads are not beside this checkout")
    # That all but beaver are pinned is tested in test_paper_recipes.py.
    recipe, graph = load(path, [], pinned=False)
    assert recipe.name == path.stem
    assert list(graph.models)[:2] == ["base", "sft"]
