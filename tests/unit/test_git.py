"""What Juicer asks git: the commit, the changes, and one line where git fails."""

import subprocess
from pathlib import Path

import pytest

from juicer.runtime.errors import InputError
from juicer.stages.git import changed_files, commit_of, git, head, is_ancestor, root


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit, and the working directory in a subfolder of it."""
    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    (tmp_path / "kept.txt").write_text("kept")
    git("add", "-A")
    git("-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "first")
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    return tmp_path


def test_the_commit_and_the_root_are_found_from_a_subfolder(checkout: Path) -> None:
    commit = head()
    assert commit is not None
    assert (commit_of(commit[:8]), commit_of("0" * 40), root().resolve()) == (commit, None, checkout.resolve())
    assert is_ancestor(commit, "HEAD") and not is_ancestor("0" * 40, "HEAD") and not is_ancestor(commit, "origin/HEAD")


def test_changes_are_listed_with_and_without_files_that_git_does_not_know(checkout: Path) -> None:
    assert changed_files() == []
    (checkout / "kept.txt").write_text("changed")
    (checkout / "new.txt").write_text("new")
    assert sorted(changed_files()) == ["kept.txt", "new.txt"]
    assert changed_files(untracked=False) == ["kept.txt"]
    assert changed_files(":(exclude,top)kept.txt", untracked=False) == []


def test_outside_git_there_is_no_commit_and_a_failure_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert head() is None
    with pytest.raises(InputError, match=r"^git status: fatal: not a git repository") as error:
        changed_files()
    assert len(str(error.value).splitlines()) == 1


def test_a_machine_without_git_is_told_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", missing)
    with pytest.raises(InputError, match=r"^git rev-parse: git cannot be run \(install git\)$"):
        git("rev-parse", "HEAD")
