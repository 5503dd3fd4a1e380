"""From a registered version, one command brings back the exact weights, data and code, or says what is gone."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from juicer.registry.restore import Restored, _compare_code, restore
from juicer.registry.store import project_uri
from juicer.registry.versions import open_registry
from juicer.runtime.errors import InputError
from juicer.stages.dvc_files import DvcLock, md5_of
from tests.small_pipeline import commit, make_project, register, repro, run

# MLflow's own use of SQLAlchemy; nothing we could mend.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose rounds are registered, and whose code and weights have changed since."""
    folder = tmp_path_factory.mktemp("project")
    make_project(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        register(folder)
        shutil.copytree(folder / "models/irft/r2", folder / "as-registered")
        commit(folder, "results")
        script = folder / "make.py"
        script.write_text(script.read_text().replace('"steps": 3', '"steps": 4'))
        commit(folder, "another training")
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
    assert done.stderr.startswith("error: models:/quickstart/3: not as when the version was made: make.py (")
    assert len(done.stderr.splitlines()) == 1


def test_a_module_that_was_never_committed_is_code_that_is_not_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "kept.py").write_text("")
    deps = [{"path": "kept.py", "md5": md5_of(tmp_path / "kept.py")}, {"path": "lost.py", "md5": "0"}]
    lock = DvcLock(tmp_path / "dvc.lock", {"sft": {"deps": [*deps, {"path": "source.jsonl", "md5": "0"}]}}, {})
    assert _compare_code(tmp_path, lock, ["sft"]) == (1, ["lost.py"], ["source.jsonl"])


def test_weights_come_from_a_remote_when_the_cache_is_empty(
    made: Path, restored: Callable[..., Restored], tmp_path: Path
) -> None:
    cache, kept = made / ".dvc/cache", made / ".dvc/kept"
    remote = tmp_path / "remote"
    shutil.copytree(cache, remote)
    cache.rename(kept)
    try:
        with pytest.raises(InputError, match="not in DVC's cache, and there is no remote"):
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
        ("quickstart/1", r"'quickstart/1' is no reference to a registered model \(write models:/NAME/VERSION"),
    ],
)
def test_an_unknown_version_is_an_error_that_names_those_there_are(
    restored: Callable[..., Restored], tmp_path: Path, reference: str, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        restored(reference, tmp_path / "new")
