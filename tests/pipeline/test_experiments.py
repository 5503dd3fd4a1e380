"""Changes of the recipe beside the workspace: experiments, a graph that DVC cannot change, and folders for recipes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.shared import copied, made_once
from tests.tiny_graph import call, commit, environment, git, make

ROOT = Path(__file__).resolve().parents[2]
MAKE = """
import json, os, re, sys
from pathlib import Path
out = Path(sys.argv[1])
with open(os.environ["RAN"], "a") as ran:
    print(out, file=ran)
if Path("broken").exists() and out.name == "r4":
    sys.exit("error: r4: the stage is broken")
out.parent.mkdir(parents=True, exist_ok=True)
if out.name != "summary.json":
    out.write_text(f"{out}")
    sys.exit()
rounds = int(re.search(r"^irft:\\n  rounds: (\\d+)", Path("params.yaml").read_text(), re.M)[1])
shown = {"steps": 3, "prompts": 10, "reward_mean": 0.0, "reward_sem": 0.1}
sft = {"name": "sft", "method": "sft", "round": 0, "path": "models/sft", **shown}
best = {"name": f"irft-r{rounds}", "method": "irft", "round": rounds, "path": "models/irft", **shown}
best["reward_mean"] = float(rounds)
champion = {"name": best["name"], "criterion": None}
out.write_text(json.dumps(
    {"recipe": "quickstart", "seed": 0, "control": "sft", "models": [sft, best], "champion": champion}
))
Path("report").mkdir(exist_ok=True)
Path("report/report.html").write_text("<html></html>")
"""
GRAPH = """
  sft:
    cmd: python make.py models/sft
    deps: [make.py, code/sft.json]
    params: [sft.epochs]
    outs: [models/sft]
  irft_train:
    foreach: ${graph.irft}
    do:
      cmd: python make.py models/irft/${key}
      deps: [make.py, "${item.previous}"]
      params: ["graph.irft.${key}.previous"]
      outs: ["models/irft/${key}"]
  report:
    cmd: python make.py metrics/summary.json
    deps: [make.py, "${graph.sft_matched.control.irft}"]
    params: [irft.rounds]
    outs: [metrics/summary.json, report/report.html]
  register:
    cmd: python make.py registered
    deps: [metrics/summary.json]
    always_changed: true
"""
CODE = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["code"]
"""The project's own first stage."""


def make_project(folder: Path) -> None:
    make(folder)
    (folder / "make.py").write_text(MAKE)
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"code": CODE}}) + GRAPH)
    (folder / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
    commit(folder)
    run(folder, "dvc", "repro", "report")
    git(folder, "add", "dvc.lock")
    commit(folder)


@pytest.fixture
def folder(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose pipeline has run and is committed, with irft.rounds=3."""
    return copied(made_once(tmp_path_factory, "experiments", make_project), tmp_path / "project")


def run(folder: Path, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return call(folder, *command, check=check, RAN=str(folder.parent / "ran"))


def ran(folder: Path) -> list[str]:
    """What stages have made since the last call."""
    place = folder.parent / "ran"
    found = place.read_text().split() if place.exists() else []
    place.unlink(missing_ok=True)
    return found


def outputs(folder: Path) -> dict[str, bytes]:
    """Every output in the workspace, and what DVC recorded."""
    paths = [path for name in ("models", "metrics", "report", "code") for path in (folder / name).rglob("*")]
    return {str(path): path.read_bytes() for path in [*paths, folder / "dvc.lock"] if path.is_file()}


def test_a_key_that_changes_the_graph_is_refused_before_any_output_is_removed(folder):
    params, before = (folder / "params.yaml").read_text(), outputs(folder)
    refused = run(folder, "dvc", "exp", "run", "-S", "irft.rounds=4", "-S", "sft.epochs=7", check=False)
    assert refused.returncode != 0
    assert "graph.irft.r4 does not follow from the recipe" in refused.stderr
    assert "juicer use --undo" in refused.stderr and "juicer exp run -S" in refused.stderr
    assert ran(folder) == []
    assert outputs(folder) == before

    # DVC itself leaves params.yaml changed.
    assert (folder / "params.yaml").read_text() != params
    assert "as in the last commit again" in run(folder, "juicer", "use", "--undo").stdout
    assert (folder / "params.yaml").read_text() == params

    (folder / "params.yaml").write_text(params.replace("  rounds: 3", "  rounds: 4", 1).replace("seed: 0", "seed: -1"))
    assert run(folder, "dvc", "repro", "report", check=False).returncode != 0
    assert outputs(folder) == before and ran(folder) == []


def test_an_experiment_runs_beside_the_workspace_resumes_and_can_be_compared_applied_and_removed(folder):
    (folder / "broken").touch()
    params, before = (folder / "params.yaml").read_text(), outputs(folder)
    failed = run(folder, "juicer", "exp", "run", "-S", "irft.rounds=4", check=False)
    assert failed.returncode == 1 and "the same command resumes" in failed.stderr
    assert ran(folder) == ["models/irft/r4"], "all else is restored from the project's cache"
    place = folder / ".juicer/experiments/irft.rounds=4"
    (place / "broken").unlink()
    done = run(folder, "juicer", "exp", "run", "-S", "irft.rounds=4")
    assert "where an earlier run stopped" in done.stdout
    assert "Next:" not in done.stdout, "those commands would act on the models of the workspace"
    assert ran(folder) == ["models/irft/r4", "metrics/summary.json"], "it registers nothing"
    assert [each.name for each in place.iterdir()] == ["report"], "the run has said where it is"
    assert (folder / "params.yaml").read_text() == params and outputs(folder) == before

    again = run(folder, "juicer", "exp", "run", "-S", "irft.rounds=4", check=False)
    assert again.returncode == 1 and "--force" in again.stderr

    table = run(folder, "juicer", "exp").stdout.splitlines()
    assert table[0].split()[:3] == ["experiment", "changed", "champion"]
    assert table[1].split()[:5] == ["workspace", "-", "irft-r3", "3.000", "±0.100"]
    assert table[2].split()[:5] == ["irft.rounds=4", "irft.rounds=4", "irft-r4", "4.000", "±0.100"]

    run(folder, "juicer", "exp", "apply", "irft.rounds=4")
    assert (folder / "models/irft/r4").read_text() == "models/irft/r4"
    assert json.loads((folder / "metrics/summary.json").read_text())["champion"]["name"] == "irft-r4"
    assert "r4:" in (folder / "params.yaml").read_text()
    run(folder, "dvc", "repro", "report")
    assert ran(folder) == [], "what was applied is up to date"

    run(folder, "juicer", "exp", "remove", "irft.rounds=4")
    assert not place.exists()
    gone = run(folder, "juicer", "exp", "remove", "irft.rounds=4", check=False)
    assert gone.returncode == 1 and "no such experiment" in gone.stderr


def test_a_recipe_has_a_folder_of_its_own_in_which_the_same_command_works(folder):
    before = outputs(folder)
    made = run(folder, "juicer", "worktree", "quickstart", "irft.rounds=4", "--folder", "../second")
    second = folder.parent / "second"
    assert f"cd {second} && juicer run" in made.stdout
    run(second, "dvc", "repro", "report")
    assert ran(folder) == ["models/irft/r4", "metrics/summary.json"], "what both have in common ran once"
    assert (second / "models/irft/r4").is_file() and outputs(folder) == before

    # The console script of the first folder, which is the one that is installed.
    script = folder.parent / "juicer"
    script.write_text("from juicer.cli import main\nmain()\n")
    done = subprocess.run(
        [sys.executable, str(script), "use", "--undo"], cwd=second / "recipes", env=environment(folder),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "params.yaml is as juicer last wrote it; nothing was changed\n")

    again = run(folder, "juicer", "worktree", "quickstart", "--folder", "../second", check=False)
    assert again.returncode == 1 and "there is something already" in again.stderr
