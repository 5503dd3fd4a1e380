"""What is right after a fault: bytes, record, DVC's status, MLflow, processes and leftovers, each judged by itself."""

import contextlib
import hashlib
import json
import os
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from dev.faults.project import chain
from dev.faults.workload import TRAINED, Project
from juicer.runtime.files import md5_of_file, read_yaml, value_at
from juicer.stages.dvc_files import DvcLock

STAGES = ("curate", "sft", "irft_train@r1", "evaluate@irft-r1", "report")
RATES = {"sft": "sft.optimiser.learning_rate", "irft_train@r1": "irft.training.optimiser.learning_rate"}
ENDING = 10.0
"""Seconds in which the processes of a run have to be gone after its end: a live run's helper may take 6."""
JUNK = re.compile(r"\.tmp$|^\.juicer/checkpoints/.|^\.juicer/scratch/.")
"""Paths that a finished run leaves nothing at."""
UNDER_DVC = (".dvc/cache/", ".dvc/tmp/", ".git/")
"""DVC's own folders, whose temporary files nothing of ours can tell from those of a running DVC."""


def judge(project: Project) -> list[str]:
    """What is wrong in a project whose last run has ended well, a sentence each; nothing if all is right."""
    try:
        with contextlib.chdir(project.folder):
            lock = DvcLock.read(Path("dvc.lock"))
            return [*_bytes(project, lock), *aftermath(project, lock, STAGES)]
    except Exception as error:  # what cannot be read is a wrong too, and not the end of the harness
        return [f"what was left cannot be judged: {type(error).__name__}: {' '.join(str(error).split())[:200]}"]


def aftermath(project: Project, lock: DvcLock, stages: Sequence[str]) -> list[str]:
    """What is wrong around the outputs of the project in the working directory: whatever its stages are."""
    return [
        *_survivors(project),
        *_record(lock, stages),
        *_status(project),
        *_store(project.variables.get("MLFLOW_TRACKING_URI")),
        *_leftovers(),
    ]


def _survivors(project: Project) -> list[str]:
    end = time.monotonic() + ENDING
    while (found := project.processes()) and time.monotonic() < end:
        time.sleep(0.1)
    lines = []
    for process in found:
        with contextlib.suppress(psutil.Error):
            lines.append(f"a process survives: {' '.join(process.cmdline()[-6:])}")
    return lines


def md5_of(path: Path) -> str:
    """The md5 that DVC gives to a file or a folder, hashed anew: the judge relies on nobody's memory of it."""
    if path.is_file():
        return md5_of_file(path)
    names = sorted(each.relative_to(path).parts for each in path.rglob("*") if each.is_file())
    parts = [{"md5": md5_of_file(path.joinpath(*name)), "relpath": "/".join(name)} for name in names]
    return f"{hashlib.md5(json.dumps(parts).encode(), usedforsecurity=False).hexdigest()}.dir"


def _record(lock: DvcLock, stages: Sequence[str]) -> list[str]:
    """dvc.lock names what is here now: parameters, code, inputs and outputs, hashed without DVC's memory of them."""
    params, wrong = read_yaml(Path("params.yaml")), list[str]()
    for name in stages:
        if name not in lock.stages:
            wrong.append(f"dvc.lock has no entry of {name}")
            continue
        stage = lock.stages[name]
        for kind in ("deps", "outs"):
            for each in stage.get(kind, []):
                if each["path"].partition("/")[0] == "juicer" or each["path"] == "tasks":
                    continue  # .dvcignore leaves out some of it; `dvc status` knows which
                if not Path(each["path"]).exists():
                    wrong.append(f"{each['path']} of {name} is not there")
                elif md5_of(Path(each["path"])) != each["md5"]:
                    wrong.append(f"dvc.lock has another {each['path']} among the {kind} of {name}")
        for key, value in stage.get("params", {}).get("params.yaml", {}).items():
            if value != value_at(params, key, None):
                wrong.append(f"dvc.lock has another {key} for {name}")
    return wrong


def expected(lock: DvcLock, stage: str, code: str) -> str:
    """The weights that a training makes of the parameters in dvc.lock, and of the code and the inputs that are here."""
    entry = lock.stages[stage]
    version = int(re.findall(r"^VERSION = (\d+)", code, re.MULTILINE)[0])
    values = entry["params"]["params.yaml"]
    rate = values["sft" if stage == "sft" else "irft.training"]["optimiser"]["learning_rate"]
    policy, data = (Path(str(lock.argument(stage, option))) for option in ("--policy", "--data"))
    text, before = (data / "train.txt").read_text(), (policy / "weights.txt").read_text()
    return chain.trained(version, stage, values["seed"], rate, text, before)


def _bytes(project: Project, lock: DvcLock) -> list[str]:
    """Every output is the one that an undisturbed run makes of what dvc.lock names."""
    wrong, code = list[str](), project.read("tasks/chain.py")
    rows = project.read("source/rows.txt")
    for name in ("train", "held_out", "validation"):
        if project.read(f"data/curated/{name}.txt") != f"{name} {rows}":
            wrong.append(f"data/curated/{name}.txt does not follow from source/rows.txt")
    for stage, out in TRAINED.items():
        if stage in lock.stages and project.read(f"{out}/weights.txt") != expected(lock, stage, code):
            wrong.append(f"{out} is not what the recorded parameters, code and inputs make")
    row = json.loads(project.read("evaluation/models/irft-r1.json"))
    model, data = ((Path(path)).read_bytes() for path in ("models/irft/r1/weights.txt", "data/curated/held_out.txt"))
    seed = lock.stages["evaluate@irft-r1"]["params"]["params.yaml"]["seed"]
    if row["held_out_scores"] != [chain.score(model, data, seed)]:
        wrong.append("evaluation/models/irft-r1.json is not the evaluation of models/irft/r1")
    summary = json.loads(project.read("metrics/summary.json"))
    if summary["models"][1]["reward_mean"] != row["held_out"]["reward_mean"]:
        wrong.append("metrics/summary.json does not follow from the evaluation")
    return wrong


def _status(project: Project) -> list[str]:
    """`dvc status` has nothing to say, but that register always runs."""
    from dvc.repo import Repo

    # In this process: to start another takes longer than all else that is judged.
    with _variables(project), Repo(".") as repo:
        found = {name: why for name, why in repo.status().items() if name != "register"}
    return [f"dvc status is not clean: {', '.join(found)}"] if found else []


@contextlib.contextmanager
def _variables(project: Project) -> Iterator[None]:
    name, value = "DVC_SITE_CACHE_DIR", project.environment()["DVC_SITE_CACHE_DIR"]
    before, os.environ[name] = os.environ.get(name), value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _store(uri: str | None) -> list[str]:
    """MLflow holds each run and version of the record once, with the values that were really used."""
    from juicer.registry.records import collect
    from juicer.reporting.contract import Summary

    if uri is not None:
        return []
    summary = Path("metrics/summary.json")
    wanted = collect(Summary.read(summary), summary, Path("dvc.lock"), "quickstart")
    with contextlib.closing(sqlite3.connect("file:mlflow.db?mode=ro", uri=True)) as store:
        rows = store.execute("SELECT run_uuid, status, name FROM runs WHERE lifecycle_stage = 'active'").fetchall()
        tags = _table(store, "SELECT run_uuid, key, value FROM tags")
        params = _table(store, "SELECT run_uuid, key, value FROM params")
        metrics = _table(store, "SELECT run_uuid, key, value FROM latest_metrics")
        versions = _table(store, "SELECT version, key, value FROM model_version_tags")
        if store.execute("PRAGMA quick_check").fetchone() != ("ok",):
            return ["mlflow.db is malformed"]
    finished = {run for run, status, _ in rows if status == "FINISHED"}
    wrong = [f"the run {name} in MLflow is still RUNNING" for _, status, name in rows if status == "RUNNING"]
    counts = Counter(tags.get(run, {}).get("juicer.key") for run in finished)
    for record in (wanted.pipeline, *wanted.runs):
        if counts[record.key] != 1:
            wrong.append(f"MLflow has {counts[record.key]} runs of {record.name} instead of one")
    counts = Counter(found.get("juicer.key") for found in versions.values())
    for version in wanted.versions:
        if counts[version.key] != 1:
            wrong.append(f"MLflow has {counts[version.key]} versions of {version.name} instead of one")
    attempts = Counter(tags.get(run, {}).get("juicer.attempt") for run, _, _ in rows)
    if any(count > 1 for attempt, count in attempts.items() if attempt):
        wrong.append("two runs in MLflow are of the same attempt")
    for run, _, name in rows:
        used = metrics.get(run, {}).get("rate_used")
        told = params.get(run, {}).get(RATES.get(name, ""))
        if used is not None and told is not None and float(told) != float(used):
            wrong.append(f"the run {name} in MLflow has the learning rate {told}, and was made with {used}")
    return wrong


def _table(store: sqlite3.Connection, query: str) -> dict[str, dict[str, Any]]:
    found = dict[str, dict[str, Any]]()
    for owner, key, value in store.execute(query):
        found.setdefault(str(owner), {})[key] = value
    return found


def _leftovers() -> list[str]:
    names = [path.as_posix() for path in Path().rglob("*") if path.is_file() or path.is_symlink()]
    ours = [name for name in names if JUNK.search(name) and not name.startswith(UNDER_DVC)]
    wrong = [f"left behind: {name}" for name in ours[:3]]
    rwlock = Path(".dvc/tmp/rwlock")
    if rwlock.is_file():
        try:
            held = json.loads(rwlock.read_text())
            if any(held.get(kind) for kind in ("read", "write")):
                wrong.append("a lock of a path is left in .dvc/tmp/rwlock")
        except ValueError:
            wrong.append(".dvc/tmp/rwlock is not JSON")
    return wrong
