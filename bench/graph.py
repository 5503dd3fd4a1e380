"""How does what DVC and Juicer do around the stages grow with the rounds? The real dvc.yaml, with empty stages.

    python -m bench.graph [--rounds 3 12 24 64] [--command "python -m dvc repro"] [--only repro no-op] [--out FILE]

For each T, a project with T rounds of each method: the real graph, parameters and code, but every stage except `code`
only writes small outputs. Prints processor seconds of the commands, with all processes that they start, and the
exponent of each in the rounds beside the goal of 1.2. `one parameter` changes evaluation.shown, which evaluations read.

With stock DVC the first run takes minutes at T = 24 and most of an hour at T = 64: it writes all of dvc.lock after each
stage. --command takes another runner.
"""

import argparse
import contextlib
import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from bench.measure import exponent
from juicer.recipe.activation import dump, load
from tests.example_evaluations import PROVENANCE, curation, metrics

ROOT = Path(__file__).resolve().parents[1]
GOALS = {"repro": 1.2, "no-op": 1.2, "status": 1.2, "plan": 1.2, "report": 1.2, "register again": 1.2}
"""Largest exponent of processor time in rounds."""
SECONDS_OF_NO_OP, SECONDS_PER_STAGE = 15.0, 0.5
"""Goals at the largest T: a run with nothing to do, and what DVC adds to a stage that runs again."""
EMPTY = """
import json, os, shutil, sys
from pathlib import Path

words = sys.argv[1 : sys.argv.index("--")]
name, _, key = os.environ["DVC_STAGE"].rpartition(":")[2].partition("@")
given = dict(word.split("=", 1) for word in words if "=" in word)
for out in (Path(word) for word in words if "=" not in word):
    out.parent.mkdir(parents=True, exist_ok=True)
    if name == "evaluate":
        row = {"name": key, "method": given["method"], "round": int(given["round"]), "path": given["path"]}
        out.write_text(json.dumps(row | json.loads(Path("given/evaluation.json").read_text())))
    elif name == "tabulate":
        previous = Path(given["previous"])
        models = json.loads(previous.read_text())["models"] if previous.suffix else []
        row = json.loads(Path(f"evaluation/models/{key}.json").read_text())
        out.write_text(json.dumps({"models": [*models, row]}))
    elif out.suffix:
        out.write_text(json.dumps({"made by": name, "key": key}))
    else:
        for part in (".", "policy", "scorer"):
            (out / part).mkdir(parents=True, exist_ok=True)
            training = {"stage": f"{name}@{key}", "steps": 3, "response_tokens": 30}
            (out / part / "training.json").write_text(json.dumps(training))
        for file in Path("given").glob("*.json"):
            shutil.copy(file, out)
"""


def make(folder: Path, rounds: int) -> None:
    """A project with this many rounds of each method whose stages do nothing."""
    for name in ("juicer", "tasks", "flows", "recipes"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".gitignore", ".dvcignore", ".dvc/config", "prefect.yaml"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    graph = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    for name, stage in graph["stages"].items():
        if name != "code":
            emptied(name, stage.get("do", stage))
    with (folder / "dvc.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump({"stages": graph["stages"]}, file)
    set_parameter(folder, rounds)
    (folder / "empty.py").write_text(EMPTY, encoding="utf-8")
    numbers = metrics(prompts=300)
    evaluation = {"held_out": numbers, "held_out_scores": [0.0] * 4, "validation": numbers, "samples": []}
    for name, value in (("evaluation", evaluation), ("provenance", PROVENANCE), ("curation", curation(True))):
        (folder / "given").mkdir(exist_ok=True)
        (folder / f"given/{name}.json").write_text(json.dumps(value), encoding="utf-8")
    for words in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "all"],
    ):
        subprocess.run(["git", *words], cwd=folder, check=True)


def emptied(name: str, stage: dict[str, Any]) -> None:
    """Let a stage of dvc.yaml do nothing but write its outputs; the record keeps its real command."""
    outs = [out for kind in ("outs", "metrics") for out in stage.get(kind, [])]
    fields = {"evaluate": ("method", "round", "path"), "tabulate": ("previous",)}.get(name, ())
    words = [*outs, *(f"{field}=${{item.{field}}}" for field in fields)]
    stage["cmd"] = f"python -S empty.py {' '.join(words)} -- {stage['cmd']}"


def set_parameter(folder: Path, rounds: int, *overrides: str) -> None:
    """Write params.yaml."""
    with contextlib.chdir(folder):
        recipe = load(Path("recipes/quickstart.yaml"), [f"irft.rounds={rounds}", f"rft.rounds={rounds}", *overrides])
        Path("params.yaml").write_text(dump(*recipe), encoding="utf-8")


def seconds(folder: Path, command: Sequence[str]) -> tuple[float, str]:
    """Processor seconds of a command and of all that it starts, and what it printed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(folder), "MLFLOW_TRACKING_URI": ""}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"error: {shlex.join(command)} failed in {folder}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout + done.stderr


def measured(folder: Path, rounds: int, repro: Sequence[str], only: Sequence[str]) -> dict[str, float]:
    """Processor seconds of each command in a project with this many rounds."""
    make(folder, rounds)
    python = [sys.executable, "-m"]
    tables = ["--table", f"evaluation/tables/rft-r{rounds}.json", "--raw", "data/raw", "--data", "data/curated"]
    register = [*python, "tasks.register", "--summary", "metrics/summary.json"]
    sizes = [f"irft.rounds={rounds}", f"rft.rounds={rounds}"]
    commands = {
        "repro": list(repro),
        "no-op": list(repro),
        "one parameter": list(repro),
        "status": [*python, "juicer", "status"],
        "plan": [*python, "juicer", "plan", "recipes/quickstart.yaml", *sizes],
        "report": [*python, "tasks.report", *tables],
        "register": register,
        "register again": register,
    }
    found: dict[str, float] = {}
    for name, command in commands.items():
        if only and name not in (*only, "repro"):
            continue
        if name == "one parameter":
            set_parameter(folder, rounds, "evaluation.shown=7")
        took, printed = seconds(folder, command)
        found[name] = round(took, 2)
        if name == "one parameter":
            ran = len(set(re.findall(r"[Rr]unning stage '(evaluate@[^']+)'", printed))) or 2 * rounds + 3
            found["per stage"] = round((took - found.get("no-op", 0.0)) / ran, 3)
        print(f"T = {rounds}: {name} {found[name]:.2f} s", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, nargs="+", default=[3, 12, 24, 64], help="values of T")
    parser.add_argument("--command", default=f"{sys.executable} -m dvc repro", help="what brings the graph up to date")
    parser.add_argument("--only", nargs="+", default=[], help="measure these, and the first run")
    parser.add_argument("--out", type=Path, help="write the result here, as JSON")
    given = parser.parse_args()
    found = {}
    for rounds in given.rounds:
        with tempfile.TemporaryDirectory(prefix="graph-") as folder:
            found[rounds] = measured(Path(folder).resolve(), rounds, shlex.split(given.command), given.only)
    names = list(next(iter(found.values())))
    print(f"| processor seconds | {' | '.join(f'T = {rounds}' for rounds in found)} | exponent | goal |")
    print(f"|{'---|' * (len(found) + 3)}")
    exponents = {}
    for name in names:
        values = [max(each[name], 0.001) for each in found.values()]
        exponents[name] = round(exponent(list(found), values), 2) if len(found) > 1 else None
        goal = {"per stage": f"{SECONDS_PER_STAGE} s"}.get(name, str(GOALS.get(name, "")))
        goal += f", {SECONDS_OF_NO_OP:.0f} s" if name == "no-op" else ""
        print(f"| {name} | {' | '.join(f'{value:.2f}' for value in values)} | {exponents[name]} | {goal} |")
    if given.out is not None:
        result = {"seconds": {str(rounds): each for rounds, each in found.items()}, "exponents": exponents}
        given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
