"""From a registered version, one command brings back the exact weights, data and code, or says what is gone."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from juicer.registry.restore import Restored, _bring_back, _compare_code, restore
from juicer.registry.store import project_uri
from juicer.registry.versions import open_registry
from juicer.runtime.errors import InputError
from juicer.stages.code import Sources
from juicer.stages.dvc_files import DvcLock
from juicer.stages.hashes import md5_of
from tests.small_pipeline import GRAPH, commit, git, make_project, register, repro, run

# MLflow's own use of SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


OLD_CODE = {"irl/world.py": "FIRST = 1\n", "irl/errors.py": "SECOND = 2\n", "tasks/fit.py": "THIRD = 3\n"}
"""Code as it stood before the package juicer/: stages depended on single modules of irl/ and tasks/."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose rounds were registered before its code moved, and whose weights have changed since.

    After the move, as in the project itself, its stages depend on folders of code, without what .dvcignore lists.
    """
    folder = tmp_path_factory.mktemp("project")
    make_project(folder, GRAPH.replace("make.py,", "make.py, irl/world.py, irl/errors.py, tasks/fit.py,"), OLD_CODE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        register(folder)
        shutil.copytree(folder / "models/irft/r2", folder / "as-registered")
        commit(folder, "results")
        script = folder / "make.py"
        script.write_text(script.read_text().replace('"steps": 3', '"steps": 4'))
        for old, new in (("world", "data/world"), ("errors", "runtime/errors")):
            (folder / f"juicer/{new}.py").parent.mkdir(parents=True)
            git(folder, "mv", f"irl/{old}.py", f"juicer/{new}.py")
        (folder / "juicer/runtime/files.py").write_text("FOURTH = 4\n")
        (folder / "dvc.yaml").write_text(
            GRAPH.replace("make.py,", "make.py, juicer/data, juicer/runtime, tasks/fit.py,")
        )
        assert "/juicer/runtime/errors.py" in (folder / ".dvcignore").read_text().splitlines()
        commit(folder, "another training, and a move")
        repro(folder)
        assert md5_of(folder / "models/irft/r2") != md5_of(folder / "as-registered")
    return folder


@pytest.fixture
def restored(made: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Restored]:
    """What `restore` makes of a reference."""
    monkeypatch.chdir(made)

    def restored(reference: str, into: Path, **options: Any) -> Restored:
        with open_registry(project_uri()) as registry:
            return restore(registry, registry.find(reference), into, **options)

    return restored


def test_the_md5_of_a_folder_is_the_one_that_dvc_gives_it(made: Path) -> None:
    lock = DvcLock.read(made / "dvc.lock")
    assert md5_of(made / "models/sft") == lock.md5("models/sft")
    assert md5_of(made / "metrics/summary.json") == lock.md5("metrics/summary.json")


def test_weights_data_and_code_come_back_as_they_were(
    made: Path, restored: Callable[..., Restored], tmp_path: Path
) -> None:
    said = str(restored("models:/quickstart/3", tmp_path / "old"))
    weights = md5_of(made / "as-registered")
    assert weights in said
    assert md5_of(tmp_path / "old/models/irft/r2") == weights
    assert (tmp_path / "old/data/curated/held_out.jsonl").is_file()
    assert '"steps": 3' in (tmp_path / "old/make.py").read_text()
    assert not (tmp_path / "old/models/sft").exists(), "only the version and its data unless asked for more"


def test_a_version_from_before_the_move_proves_its_weights_data_and_code(
    made: Path, restored: Callable[..., Restored], tmp_path: Path
) -> None:
    assert not (made / "irl/world.py").exists()
    found = restored("models:/quickstart/3", tmp_path / "old", everything=True)
    assert (found.code, found.outside) == (len(["make.py", "rows.jsonl", "source", *OLD_CODE]), [])
    assert {name: (tmp_path / "old" / name).read_text() for name in OLD_CODE} == OLD_CODE
    assert not (tmp_path / "old/juicer/data").exists()
    status = run(tmp_path / "old", "dvc", "status", "irft_train@r2")
    assert "up to date" in status.stdout


def test_a_version_whose_stages_depend_on_folders_of_code_proves_them_too(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    shutil.copytree(made, project, symlinks=True)
    monkeypatch.chdir(project)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/mlflow.db")
    assert "3 versions are new" in register(project)
    commit(project, "results")
    arguments = ["models:/quickstart/6", "--everything", "--into", str(tmp_path / "new")]
    assert "6 files or folders as when the version was made" in run(project, "juicer", "restore", *arguments).stdout
    for name in ("data/__pycache__/world.pyc", "runtime/errors.py"):
        (tmp_path / "new/juicer" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "new/juicer" / name).write_text("not compared")
    assert "up to date" in run(tmp_path / "new", "dvc", "status", "irft_train@r2").stdout
    lock = DvcLock.read(tmp_path / "new/dvc.lock")
    assert _compare_code(tmp_path / "new", lock, ["irft_train@r2"]) == (4, [], [])
    (tmp_path / "new/juicer/runtime/files.py").write_text("FOURTH = 5\n")
    assert _compare_code(tmp_path / "new", lock, ["irft_train@r2"]) == (3, ["juicer/runtime"], [])


def test_everything_comes_back_such_that_dvc_sees_nothing_changed(
    restored: Callable[..., Restored], tmp_path: Path
) -> None:
    restored("models:/quickstart@challenger", tmp_path / "old", everything=True)
    status = run(tmp_path / "old", "dvc", "status", "curate", "pretrain", "sft", "irft_train@r1")
    assert "up to date" in status.stdout


def test_code_that_is_not_as_it_was_is_refused_in_one_line_and_leaves_nothing(made: Path, tmp_path: Path) -> None:
    arguments = ["models:/quickstart/3", "--into", str(tmp_path / "new"), "--commit", "HEAD"]
    done = run(made, "juicer", "restore", *arguments, check=False)
    assert (done.returncode, list(tmp_path.iterdir())) == (1, [])
    assert done.stderr.startswith("error: models:/quickstart/3: these differ from the version: irl/errors.py, ")
    assert len(done.stderr.splitlines()) == 1


def test_a_module_or_folder_that_was_never_committed_is_code_that_is_not_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "kept.py").write_text("")
    lost = [{"path": name, "md5": "0"} for name in ("lost.py", "juicer/lost")]
    deps = [{"path": "kept.py", "md5": md5_of(tmp_path / "kept.py")}, *lost]
    lock = DvcLock(tmp_path / "dvc.lock", {"sft": {"deps": [*deps, {"path": "source.jsonl", "md5": "0"}]}}, {})
    assert _compare_code(tmp_path, lock, ["sft"]) == (1, ["juicer/lost", "lost.py"], ["source.jsonl"])


def test_a_list_of_code_is_compared_module_by_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (
        ("tasks/work.py", "import juicer.light.one"),
        ("juicer/light/one.py", ""),
        ("juicer/other.py", ""),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (old,) = Sources(tmp_path, remember=False).lists().values()
    kept = tmp_path / "kept.json"
    kept.write_text(old)
    monkeypatch.setattr("juicer.registry.restore._from_cache", lambda path, md5, folder: kept)
    code = {"deps": [{"path": "juicer", "md5": "0"}, {"path": "tasks", "md5": "0"}]}
    work = {"deps": [{"path": "code/work.json", "md5": md5_of(kept)}]}
    lock = DvcLock(tmp_path / "dvc.lock", {"code": code, "work": work}, {"code": "code"})
    (tmp_path / "juicer/other.py").write_text("CHANGED = 1")
    assert _compare_code(tmp_path, lock, ["code", "work"]) == (2, [], [])
    assert (tmp_path / "code/work.json").read_text() == old
    (tmp_path / "juicer/light/one.py").write_text("CHANGED = 1")
    assert _compare_code(tmp_path, lock, ["code", "work"]) == (1, ["juicer/light/one.py"], [])


def test_weights_come_from_a_remote_when_the_cache_is_empty(
    made: Path, restored: Callable[..., Restored], tmp_path: Path
) -> None:
    cache, kept = made / ".dvc/cache", made / ".dvc/kept"
    remote = tmp_path / "remote"
    shutil.copytree(cache, remote)
    cache.rename(kept)
    try:
        with pytest.raises(InputError, match=r"DVC's cache lacks .*, and there is no remote"):
            restored("models:/quickstart/3", tmp_path / "a")
        # DVC reads such a path from where the project is, and the weights are checked out elsewhere.
        run(made, "dvc", "remote", "add", "--local", "--default", "kept", os.path.relpath(remote, made))
        restored("models:/quickstart/3", tmp_path / "b")
    finally:
        shutil.rmtree(cache, ignore_errors=True)
        kept.rename(cache)
    assert md5_of(tmp_path / "b/models/irft/r2") == md5_of(made / "as-registered")


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("models:/quickstart/9", r"quickstart has no version 9 \(versions: 1, 2, 3\)"),
        ("models:/quickstart@chalenger", r"quickstart has no alias 'chalenger' \(did you mean 'challenger'\?\)"),
        ("models:/quickstat/1", r"no registered model 'quickstat' \(did you mean 'quickstart'\?\)"),
        ("quickstart/1", r"'quickstart/1' is not a reference to a registered model \(write models:/NAME/VERSION"),
    ],
)
def test_an_unknown_version_is_an_error_that_names_those_there_are(
    restored: Callable[..., Restored], tmp_path: Path, reference: str, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        restored(reference, tmp_path / "new")


def test_inputs_from_outside_come_back_as_far_as_dvc_keeps_them(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made)
    known = DvcLock.read(made / "dvc.lock")
    md5s = {
        "/gone/model": known.md5("models/sft"),
        "mine/model": known.md5("models/sft"),
        "mine/summary.json": known.md5("metrics/summary.json"),
        "mine/too-large": "0" * 32,
    }
    new = {"deps": [{"path": path, "hash": "md5", "md5": md5} for path, md5 in md5s.items()]}
    known = DvcLock(known.path, {**known.stages, "new": new}, known.producers)
    found = _bring_back(tmp_path, known, ["new"], list(md5s))
    assert found == {
        "/gone/model": "inputs/0-model",
        "mine/model": "mine/model",
        "mine/summary.json": "mine/summary.json",
    }
    assert {path: md5_of(tmp_path / place) for path, place in found.items()} == {path: md5s[path] for path in found}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inputs", "mine"]
