"""The scripts that continuous integration calls, in a fresh clone of a changed project with a DVC remote."""

import json
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
from mlflow import MlflowClient
from ruamel.yaml import YAML

from juicer.registry.store import project_uri
from tests.shared import copied
from tests.small_pipeline import ROOT, commit, git, repro, run

# MLflow's own use of SQLAlchemy; nothing we could mend.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
MORE = """
  page:
    cmd: python page.py
    deps: [page.py, metrics/summary.json]
    outs: [report/report.html, report/reward.json]
    metrics: [metrics/metrics.json]
  register:
    cmd: python -m tasks.register --summary metrics/summary.json
    deps: [metrics/summary.json, report/report.html]
    always_changed: true
plots:
  - report/reward.json: {x: model, y: value}
"""
PAGE = """
import json
from pathlib import Path
models = json.loads(Path("metrics/summary.json").read_text())["models"]
Path("report").mkdir(exist_ok=True)
Path("report/report.html").write_text("<html></html>")
rewards = {model["name"]: model["reward_mean"] for model in models}
Path("report/reward.json").write_text(json.dumps([{"model": key, "value": value} for key, value in rewards.items()]))
Path("metrics/metrics.json").write_text(json.dumps({"reward_mean": rewards}))
"""


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("remote")


@pytest.fixture(scope="module")
def clone(remote: Path, small_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of a project whose results are in a remote, and whose newest commit changes what is measured."""
    made = copied(small_pipeline, tmp_path_factory.mktemp("project"))
    (made / "page.py").write_text(PAGE)
    with (made / "dvc.yaml").open("a") as graph:
        graph.write(MORE)
    shutil.copytree(ROOT / ".ci", made / ".ci")
    (made / "mlflow").mkdir()
    shutil.copy(ROOT / "mlflow/promotion.yaml", made / "mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        repro(made)
        commit(made, "results")
        run(made, "dvc", "remote", "add", "--quiet", "--local", "--default", "kept", str(remote))
        run(made, "dvc", "push", "--quiet", "--run-cache")
    numbers = json.loads((made / "numbers.json").read_text())
    numbers["irft-r1"]["reward_mean"] = 2.5
    (made / "numbers.json").write_text(json.dumps(numbers))
    commit(made, "change")
    clone = tmp_path_factory.mktemp("clone") / "project"
    git(made.parent, "clone", "--quiet", str(made), str(clone))
    return clone


def script(clone: Path, name: str, *arguments: str, **more: str) -> str:
    """What a script prints; it has to succeed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [str(clone / ".ci" / name), *arguments],
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **more},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def champion(clone: Path) -> str | None:
    aliases = MlflowClient(f"sqlite:///{clone}/mlflow.db").get_registered_model("quickstart").aliases
    return str(aliases["champion"]) if "champion" in aliases else None


@pytest.mark.slow
def test_a_change_is_evaluated_from_the_remote_compared_and_promoted(clone: Path, remote: Path) -> None:
    printed = script(clone, "evaluate", "HEAD~1", DVC_REMOTE=str(remote))
    ran = {line.split("'")[1].split("@")[0] for line in printed.splitlines() if line.startswith("Running stage")}
    assert ran == {"evaluate", "report", "page", "register"}, "training comes from the remote"
    difference = (clone / "difference/difference.md").read_text()
    assert difference.startswith(f"### Figures since {git(clone, 'rev-parse', '--short', 'HEAD~1').strip()}\n")
    assert "| reward_mean.irft-r1 |" in " ".join(difference.split())
    assert "reward_mean.sft" not in difference, "only what changed is shown"
    assert "| report/reward.json |  | ▁▄▇▆ 1.9 | ▁▄█▆ 1.9 |" in difference, "the curve, scaled as both need"
    assert difference in printed
    assert (clone / "difference/index.html").is_file()

    gates, file = (clone / "mlflow/promotion.yaml").read_text(), clone / "mlflow/promotion.yaml"
    file.write_text("{better_than_base: [], not_worse_than_champion: [], within: {response_tokens: {at_most: 1}}}")
    before = sum(path.is_file() for path in remote.rglob("*"))
    assert "refused by 1 of 2 gates" in script(clone, "promote")
    assert champion(clone) is None
    assert sum(path.is_file() for path in remote.rglob("*")) > before, "the new results are in the remote"
    file.write_text(gates)
    # Another checkout has registered since, and found another model best.
    MlflowClient(f"sqlite:///{clone}/mlflow.db").set_registered_model_alias("quickstart", "challenger", "3")
    assert "moved champion none -> 2" in script(clone, "promote")
    assert champion(clone) == "2"


WORKFLOWS = {
    path.stem: YAML(typ="safe").load(path.read_text()) for path in sorted((ROOT / ".github/workflows").glob("*.yml"))
}
JOBS = [(workflow, name) for workflow, content in WORKFLOWS.items() for name in content["jobs"]]


def test_the_workflow_runs_these_scripts_and_nothing_else_of_its_own() -> None:
    steps = [step["run"].split()[0] for step in WORKFLOWS["evaluate"]["jobs"]["evaluate"]["steps"] if "run" in step]
    assert steps == ["make", ".ci/evaluate", ".ci/promote"]


def test_a_pull_request_is_given_no_secret() -> None:
    job = WORKFLOWS["evaluate"]["jobs"]["evaluate"]
    for name in ("DVC_REMOTE", *(f"MLFLOW_TRACKING_{end}" for end in ("URI", "USERNAME", "PASSWORD"))):
        assert job["env"][name] == f"${{{{ github.event_name == 'push' && secrets.{name} || '' }}}}"
    secrets = [
        line for line in (ROOT / ".github/workflows/evaluate.yml").read_text().splitlines() if "secrets." in line
    ]
    assert len(secrets) == 4
    assert "secrets." not in (ROOT / ".github/workflows/test.yml").read_text()


@pytest.mark.parametrize(("workflow", "name"), JOBS)
def test_what_may_write_runs_no_code_of_a_pull_request(workflow: str, name: str) -> None:
    assert WORKFLOWS[workflow]["permissions"] == {}
    job = WORKFLOWS[workflow]["jobs"][name]
    if set(job["permissions"].values()) != {"read"}:
        assert not any("checkout" in step.get("uses", "") for step in job["steps"])
        assert [step["run"].split()[:3] for step in job["steps"] if "run" in step] == [["gh", "pr", "comment"]]


@pytest.mark.parametrize(("workflow", "name"), JOBS)
def test_an_action_is_named_by_its_commit_keeps_no_token_and_no_shell_reads_what_others_wrote(workflow, name):
    for step in WORKFLOWS[workflow]["jobs"][name]["steps"]:
        assert "${{" not in step.get("run", "")
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step["uses"])
        if "checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False


def test_an_empty_address_of_a_server_means_the_store_of_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert project_uri(ROOT / "params.yaml") == "sqlite:///mlflow.db"


@pytest.mark.parametrize("event", ["push", "pull_request"])
def test_a_change_of_whatever_an_evaluation_or_promotion_uses_starts_one(event: str) -> None:
    patterns = WORKFLOWS["evaluate"]["on"][event]["paths"]
    used = ("juicer", "tasks", "flows", "mlflow", "recipes", ".ci", ".dvc")
    files = git(
        ROOT, "ls-files", "--", *used, "params.yaml", "dvc.yaml", "dvc.lock", "constraints.txt", "pyproject.toml"
    )
    unseen = [file for file in files.splitlines() if not any(fnmatch(file, pattern) for pattern in patterns)]
    assert unseen == []
