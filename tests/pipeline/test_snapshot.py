"""A run in a copy of the project, while the project's own files are edited."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.tiny_graph import call, commit, environment, make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    project = make(tmp_path / "project")
    (project / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
    # The graph makes no report.
    (project / "juicer/reporting/summary.py").write_text("def show(*_): pass\n")
    commit(project)
    return project


def snapshots(folder: Path) -> list[Path]:
    return sorted((folder / ".juicer/snapshots").glob("*"))


def test_edits_during_a_run_do_not_reach_it_and_a_run_that_failed_is_resumed_in_the_same_copy(folder):
    with (folder / ".gitignore").open("a") as ignored:
        ignored.write("/source.txt\n")
    subprocess.run(["git", "rm", "-q", "--cached", "source.txt"], cwd=folder, check=True)  # a user's data
    (folder / "untracked.txt").write_text("not committed")
    (folder / "broken").touch()
    failed = call(folder, "juicer", "run", "--snapshot", check=False)
    assert failed.returncode == 1, failed.stderr
    assert "juicer run --snapshot resumes there" in failed.stderr
    (copy,) = snapshots(folder)
    assert (copy / "untracked.txt").read_text() == "not committed"
    assert not (folder / "out").exists()

    (copy / "broken").unlink()
    process = subprocess.Popen(
        [sys.executable, "-m", "juicer", "run", "--snapshot"], cwd=folder, env=environment(folder),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert any("where an earlier run stopped" in line for line in process.stdout)
    (folder / "source.txt").write_text("edited")
    (folder / "params.yaml").write_text("half of a fi: [")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert (folder / ".juicer/trace").exists() is False
    assert (folder / "out/first/text").read_text() == "out/first/textsource"
    assert (folder / "out/last").read_text().startswith("out/lastout/slow")
    stages = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
    assert set(stages) >= {"first", "slow", "quick@x", "quick@y", "last"}
    assert ": first started" not in output and ": last started" in output
    assert snapshots(folder) == []
    assert len(subprocess.check_output(["git", "worktree", "list"], cwd=folder, text=True).splitlines()) == 1
