"""A user's own run and a new reference run from upstream do not meet in one file."""

import subprocess
from pathlib import Path

import pytest

from dev.reference import REFERENCE, as_lock, compare, stages_of, update
from juicer.runtime.errors import InputError
from juicer.stages.dvc_files import DvcLock
from tests.tiny_graph import call, commit, git, make

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("committed", [False, True])
def test_a_pull_of_another_reference_run_leaves_one_s_own_record_alone(tmp_path, committed):
    upstream, clone = make(tmp_path / "upstream"), tmp_path / "clone"
    reference = upstream / "dev/quickstart.json"
    reference.parent.mkdir()
    reference.write_bytes(REFERENCE.read_bytes())
    commit(upstream)
    git(tmp_path, "clone", "-q", str(upstream), str(clone))
    call(clone, "dvc", "repro", "first")
    record = (clone / "dvc.lock").read_bytes()
    if committed:  # as a team does
        git(clone, "add", "dvc.lock")
        commit(clone)
    reference.write_text(reference.read_text().replace('"size": ', '"size": 1'))
    commit(upstream)
    names = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    git(clone, *names, "pull", "-q", "--no-rebase", "--no-edit")
    assert (clone / "dvc.lock").read_bytes() == record
    assert (clone / "dev/quickstart.json").read_bytes() == reference.read_bytes()


def test_the_record_of_a_run_is_not_ignored_which_dvc_would_refuse():
    done = subprocess.run(["git", "check-ignore", "-q", "--no-index", "dvc.lock"], cwd=ROOT, check=False)
    assert done.returncode == 1


def test_a_run_is_compared_with_the_reference_output_by_output(tmp_path):
    own = tmp_path / "dvc.lock"
    with pytest.raises(InputError, match="no run here"):
        compare(own)
    text = as_lock()
    own.write_text(text)
    stages = stages_of()
    assert compare(own) == (len(stages), [])

    changed = stages["sft"]["outs"][0]["md5"]
    head, found, tail = text.partition("  sft:\n")
    own.write_text(head + found + tail.replace(changed, "0" * 32 + ".dir"))
    assert compare(own)[1] == ["sft: other bytes of models/sft, from the same inputs"]
    own.write_text(head + found + tail.replace(changed, "0" * 32 + ".dir").replace("epochs: ", "epochs: 1", 1))
    assert compare(own)[1] == ["sft: other bytes of models/sft, from other inputs, parameters or code"]


def test_only_a_whole_run_of_the_quickstart_becomes_the_reference(project, tmp_path):
    reference, own = tmp_path / "new.json", tmp_path / "dvc.lock"
    own.write_text(as_lock())
    assert update(own, project / "params.yaml", reference).startswith("new.json: ")
    assert as_lock(reference) == as_lock()
    own.write_text(DvcLock.of(as_lock(), own).part(["code"]))
    with pytest.raises(InputError, match="have not run"):
        update(own, project / "params.yaml", reference)
