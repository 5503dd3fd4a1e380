"""What `register` wants to see in the registry, read from dvc.lock, the summary and the training records.

Nothing here knows MLflow: `juicer.registry.ensure` compares these records with what is there and adds what is missing.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from juicer.reporting.leaderboard_table import HEADINGS, as_markdown
from juicer.runtime.errors import InputError
from juicer.runtime.files import read_json
from juicer.stages.dvc_files import DvcLock
from juicer.stages.git import changed_files, head, is_ancestor
from juicer.stages.pipeline import PIPELINE, Run, declared
from juicer.stages.stage import COSTS

REGISTERED = ("sft", "sft-matched", "irft", "rft")
"""Methods whose models become versions; the base model is somebody else's."""
ATTEMPT = "juicer.attempt"
"""Tag of a run: what its stage makes its output from. Known when the stage starts, as its output's md5 is not."""
DATA, PARAMS, LOCK = "data/curated", "params.yaml", "dvc.lock"


@dataclass
class RunRecord:
    """One finished training or evaluating stage."""

    key: str
    """What makes a run the same run: stage, md5 of its output and, of an evaluation, what it judged by."""
    attempt: str
    """What the output was made from: a run that grew while the stage ran is known by it."""
    name: str
    """The stage, for example irft_train@r1."""
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    """Per quantity, (step, value)."""
    data: dict[str, str] = field(default_factory=dict)
    """Per data set that the stage reads, its path in DVC and its md5."""
    samples: list[dict[str, Any]] = field(default_factory=list)
    """Rows of the table of responses."""
    files: dict[str, str] = field(default_factory=dict)
    """Small texts kept with the run, by name."""
    started: float | None = None
    """Seconds since the epoch; None where this machine does not know (the output was restored from a cache)."""
    ended: float | None = None


@dataclass
class VersionRecord:
    """One model to be registered."""

    key: str
    """Model name and md5 of its folder: what makes a version the same version."""
    name: str
    """For example irft-r1."""
    run: str
    """Key of the run that made it."""
    parent: str | None
    """Key of the version that it was trained from."""
    tags: dict[str, str]
    """Written once, when the version is made."""
    metrics: dict[str, str]
    """Tags that follow the newest evaluation."""


@dataclass
class Records:
    """Everything that the registry should hold about the active recipe."""

    runs: list[RunRecord]
    versions: list[VersionRecord]
    champion: str | None
    """Key of the version that the summary calls champion; None if that model is not registered."""


def collect(
    summary: dict[str, Any], path: Path, lock: Path, recipe: str, params: Path = Path("params.yaml")
) -> Records:
    """Read the records of the stages that led to `summary`, a dictionary as the report writes it to `path`.

    dvc.lock keeps stages that the recipe no longer has (rounds dropped when T shrinks), so stages are found by
    walking up from the summary.

    Raises:
        InputError: dvc.lock does not know the summary or one of its models.
    """
    known = DvcLock.read(lock)
    producers = known.producers
    if str(path) not in producers:
        raise InputError(f"{path} is made by no stage", where=str(lock), do="make it: dvc repro")
    dataset = known.md5(DATA)
    common = {"recipe": recipe, **({"dataset_md5": dataset} if dataset else {}), **git_tags()}

    kinds = {name: meta.run for name, meta in declared(lock.with_name(PIPELINE.name)).items()}
    runs, evaluations = dict[str, RunRecord](), dict[str, RunRecord]()
    for name in known.upstream(producers[str(path)]):
        if kind := kinds.get(name.split("@")[0]):
            runs[name] = _run(name, kind, known, common)
            if kind == "evaluation":
                evaluations[runs[name].tags["model"]] = runs[name]
    benchmarks = {row["name"]: row for row in summary.get("leaderboard", {}).get("models", [])}
    for name, row in benchmarks.items():
        _add_leaderboard(runs[f"leaderboard@{name}"], row)
    settings = params.read_text(encoding="utf-8")
    versions: list[VersionRecord] = []
    by_path: dict[str, VersionRecord] = {}
    champion = None
    for row in summary["models"]:
        if row["method"] not in REGISTERED:
            continue
        producer = producers.get(row["path"])
        if producer is None or producer not in runs:
            raise InputError(f"{row['path']} is made by no training stage", where=str(lock), do="make it: dvc repro")
        parent = by_path.get(known.argument(producer, "--policy") or "")
        version = _version(row, runs[producer], evaluations.get(row["name"]), parent, summary)
        if scores := benchmarks.get(row["name"]):
            version.metrics |= {f"metric.leaderboard_{key}": f"{scores[key]:.6g}" for key in HEADINGS}
            errors = {key: error for key, error in (scores.get("errors") or {}).items() if error is not None}
            version.metrics |= {f"metric.leaderboard_{key}_sem": f"{error:.6g}" for key, error in errors.items()}
        runs[producer].files = {LOCK: known.part(known.upstream(producer)), PARAMS: settings}
        versions.append(version)
        by_path[row["path"]] = version
        if row["name"] == summary["champion"]["name"]:
            champion = version.key
    return Records(list(runs.values()), versions, champion)


def _run(name: str, kind: Run, lock: DvcLock, common: dict[str, str]) -> RunRecord:
    stage = lock.stages[name]
    out = stage["outs"][0]
    path = Path(out["path"])
    tags = {**common, "stage": name.split("@")[0], "dvc_path": out["path"], "dvc_md5": out["md5"]}
    read = {key: value for values in stage.get("params", {}).values() for key, value in values.items()}
    made_from = {dep["path"]: dep.get("md5", "") for dep in stage.get("deps", [])}
    data = {path: md5 for path, md5 in made_from.items() if path.startswith("data/")}
    attempt = attempt_of(name, made_from, read)
    run = RunRecord(f"{name}:{out['md5']}", attempt, name, tags, in_words(read), {}, data=data)
    if kind == "evaluation":
        evaluated_on = lock.evaluated_on(name)
        # The same figures by other parameters are another run, which other models are compared with.
        run.key = f"{run.key}:{evaluated_on}"
        evaluation = read_json(path)
        run.tags |= {"model": evaluation["name"], "method": evaluation["method"], "round": str(evaluation["round"])}
        run.tags |= {"evaluated_on": evaluated_on}
        run.samples = evaluation.get("samples") or []
        for split in ("held_out", "validation"):
            run.metrics |= _numbers(evaluation.get(split) or {}, f"{split}/")
    elif kind == "leaderboard":
        results = read_json(path / "results.json")
        run.tags |= {"model": results["name"], "method": results["method"], "round": str(results["round"])}
        run.tags |= {f"version.{library}": version for library, version in results["harness"].items()}
    else:
        for file in sorted(path.rglob("training.json")):
            part = file.parent.relative_to(path).as_posix()
            _add_training(run, read_json(file), "" if part == "." else f"{part}/")
    _add_costs(run, path)
    return run


def attempt_of(stage: str, made_from: dict[str, str], read: dict[str, Any]) -> str:
    """One md5 for all that a stage makes its output from.

    Args:
        made_from: path in dvc.yaml to md5, of data and code.
        read: the parameters that dvc.yaml lists, by key.
    """
    values = json.dumps([stage, made_from, read], sort_keys=True)
    return hashlib.md5(values.encode(), usedforsecurity=False).hexdigest()


def in_words(params: dict[str, Any]) -> dict[str, str]:
    """Parameters as MLflow takes them: flat, and text."""
    flat = _flat(params)
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in flat.items()}


def _add_leaderboard(run: RunRecord, row: dict[str, Any]) -> None:
    """Add the model's scores, the paper's beside them, and both as a table in what MLflow shows as the description."""
    run.metrics |= {f"leaderboard/{key}": row[key] for key in HEADINGS}
    if row["paper"]:
        run.metrics |= {f"paper/{key}": row["paper"][key] for key in HEADINGS}
    run.tags["mlflow.note.content"] = as_markdown(row)


def _add_training(run: RunRecord, training: dict[str, Any], prefix: str) -> None:
    run.metrics |= _numbers(training, prefix)
    run.metrics |= _numbers(training.get("facts") or {}, prefix)
    for name, curve in (training.get("curves") or {}).items():
        points = zip(curve["step"], curve["value"], strict=True)
        run.curves[f"{prefix}train/{name}"] = [(int(step), float(value)) for step, value in points if value is not None]


def _add_costs(run: RunRecord, path: Path) -> None:
    """Add seconds and memory, if they are those of the run that made `path`.

    A stage writes its costs after its output. A folder with a file that is newer came from DVC's cache, and the costs
    beside it may be those of other parameters. Costs of a single file name its md5.
    """
    costs = COSTS / f"{run.name}.json"
    if not costs.is_file():
        return
    ended, values = costs.stat().st_mtime, read_json(costs)
    if path.is_file() and values.get("output_md5") != run.tags["dvc_md5"]:
        return
    if any(file.stat().st_mtime > ended for file in path.rglob("*") if file.is_file()):
        return
    run.metrics |= _numbers(values, "cost/")
    if values.get("seconds") and values.get("response_tokens"):
        run.metrics["cost/response_tokens_per_second"] = values["response_tokens"] / values["seconds"]
    if values.get("seconds") and values.get("cpu_seconds"):
        run.metrics["system/cpu_utilization_percentage"] = 100 * values["cpu_seconds"] / values["seconds"]
    for cost, of in (("peak_memory_mb", "system"), ("peak_device_memory_mb", "gpu")):
        if cost in values:
            run.metrics[f"system/peak_{of}_memory_usage_megabytes"] = values[cost]
    run.started, run.ended = ended - values.get("seconds", 0.0), ended


def _version(
    row: dict[str, Any],
    run: RunRecord,
    evaluation: RunRecord | None,
    parent: VersionRecord | None,
    summary: dict[str, Any],
) -> VersionRecord:
    tags = {key: value for key, value in run.tags.items() if key != "stage"} | {
        "model": row["name"],
        "method": row["method"],
        "round": str(row["round"]),
        "seed": str(summary["seed"]),
    }
    metrics = {f"metric.{key}": f"{value:.6g}" for key, value in _numbers(row, "").items() if key != "round"}
    if evaluation is not None:
        metrics["evaluated_on"] = evaluation.tags["evaluated_on"]
    key = f"{row['name']}:{run.tags['dvc_md5']}"
    return VersionRecord(key, row["name"], run.key, parent.key if parent else None, tags, metrics)


def _numbers(values: dict[str, Any], prefix: str) -> dict[str, float]:
    return {
        f"{prefix}{key}": float(value)
        for key, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def git_tags() -> dict[str, str]:
    """The commit, and whether tracked files differ from it, but those that a run keeps itself: they are no code."""
    own = [f":(exclude){path}" for path in (LOCK, PARAMS)]
    try:
        dirty = str(bool(changed_files(".", *own, untracked=False))).lower()
    except InputError:
        dirty = "unknown"
    return {"git_commit": head() or "unknown", "git_dirty": dirty}


def in_history(commit: str) -> bool:
    """Whether a commit led to the one that is checked out, or is on the remote's main branch."""
    return any(is_ancestor(commit, each) for each in ("HEAD", "origin/HEAD"))
