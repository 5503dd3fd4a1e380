"""What `register` wants to see in the registry, read from dvc.lock, the summary and the training records.

Nothing here knows MLflow: `juicer.registry.ensure` compares these records with what is there and adds what is missing.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from juicer.evaluation.benchmark_results import BenchmarkedModel
from juicer.evaluation.results import EvaluatedModel, Row, ShownSample, Training
from juicer.recipe.origin import Origin, origin_of
from juicer.registry.gates import LIMIT
from juicer.registry.per_prompt import FILE as PER_PROMPT
from juicer.registry.per_prompt import per_prompt_of
from juicer.registry.provenance import checkout_tags, git_tags, source_tag
from juicer.reporting.contract import LeaderboardRow, Summary, SummaryRow
from juicer.reporting.costs import LEDGER, Ledger
from juicer.reporting.formatting import shown
from juicer.reporting.leaderboard_table import as_markdown, scores_of
from juicer.reporting.numbers import shown_columns
from juicer.runtime.errors import InputError
from juicer.stages import recorded
from juicer.stages.costs import COSTS, StageCost
from juicer.stages.dvc_files import DvcLock
from juicer.stages.hashes import md5_of
from juicer.stages.pipeline import PIPELINE, Run, declared
from juicer.stages.reading import check_made

REGISTERED = ("sft", "sft-matched", "irft", "rft")
"""Methods whose models become versions; the base model was not trained here."""
ATTEMPT = "juicer.attempt"
"""Tag of a run: what its stage makes its output from. Unlike the output's md5 it is known when the stage starts."""
DATA, PARAMS, LOCK = "data/curated", "params.yaml", "dvc.lock"
LONGEST_TAG = 5000
PIPELINE_RUN = "pipeline"
"""Tag `stage` of a pipeline run, and the beginning of its key."""
IDENTIFIES = ("recipe", "dataset_md5", "git_commit", "git_dirty", "dvc_path", "dvc_md5")
"""The tags that a version takes from the run that made it: promotion, restoration and the model card read them."""
REPORT = Path("report/report.html")
ORIGIN = "origin.json"
"""The recipe that params.yaml was written from (juicer/recipe/origin.py)."""


@dataclass
class RunRecord:
    """One finished training or evaluating stage, or the pipeline run that they belong to."""

    key: str
    """Identifies the run: stage, md5 of its output and, for an evaluation, md5 of what it was evaluated on. Of a
    pipeline run: md5 of the recipe's name, the keys of all its runs, and the champion."""
    attempt: str
    """What the output was made from: identifies a run that was written while the stage ran."""
    name: str
    """The stage, for example irft_train@r1."""
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    """Per quantity, (step, value)."""
    data: dict[str, str] = field(default_factory=dict)
    """Per data set that the stage reads, its path in DVC and its md5."""
    samples: list[ShownSample] = field(default_factory=list)
    """Rows of the table of responses."""
    files: Callable[[], dict[str, str]] = dict
    """Gives small texts to be kept with the run, by name; called only for a run that is new."""
    started: float | None = None
    """Seconds since the epoch; None where it is unknown here, because the output was restored from a cache."""
    ended: float | None = None


@dataclass
class VersionRecord:
    """One model to be registered."""

    key: str
    """Identifies the version: model name and md5 of its folder."""
    name: str
    """For example irft-r1."""
    run: str
    """Key of the run that made it."""
    parent: str | None
    """Key of the version that it was trained from."""
    tags: dict[str, str]
    """Written once, when the version is made. What they do not say is among the parameters of its logged model."""
    figures: dict[str, float]
    """What the newest evaluation measured."""
    evaluated_on: str | None = None
    """md5 of what that was measured on."""


@dataclass
class Records:
    """Everything that the registry should hold about the active recipe."""

    pipeline: RunRecord
    """The parent of the runs: what led to one summary. It is no stage of its own."""
    runs: list[RunRecord]
    versions: list[VersionRecord]
    champion: str | None
    """Key of the version that the summary calls champion; None if that model is not registered."""


def collect(summary: Summary, path: Path, lock: Path, recipe: str, params: Path = Path("params.yaml")) -> Records:
    """Read the records of the stages that led to `summary`, which the report wrote to `path`.

    dvc.lock keeps stages that the recipe no longer has (rounds dropped when T shrinks), so stages are found by
    walking up from the summary.

    Raises:
        InputError: dvc.lock does not know the summary or one of its models.
    """
    known = DvcLock.read(lock)
    producers = known.producers
    if str(path) not in producers:
        raise InputError(f"no stage makes {path}", where=str(lock), do="make it: dvc repro")
    dataset = known.md5(DATA)
    of_git = git_tags()
    common = {"recipe": recipe, **({"dataset_md5": dataset} if dataset else {}), **of_git, **checkout_tags(of_git)}
    ledger = Ledger.of(LEDGER)

    kinds = {name: meta.run for name, meta in declared(lock.with_name(PIPELINE.name)).items()}
    runs, evaluations = dict[str, RunRecord](), dict[str, RunRecord]()
    for name in known.upstream(producers[str(path)]):
        if kind := kinds.get(name.split("@")[0]):
            runs[name] = _run(name, kind, known, common, ledger.costs(name))
            if kind == "evaluation":
                evaluations[runs[name].tags["model"]] = runs[name]
    benchmarks = {row.name: row for row in summary.leaderboard.models} if summary.leaderboard else {}
    for name, scores in benchmarks.items():
        _add_leaderboard(runs[f"leaderboard@{name}"], scores)
    settings, origin = params.read_text(encoding="utf-8"), origin_of(params)
    versions: list[VersionRecord] = []
    by_path: dict[str, VersionRecord] = {}
    champion = None
    for row in summary.models:
        if row.method not in REGISTERED:
            continue
        producer = producers.get(row.path)
        if producer is None or producer not in runs:
            raise InputError(f"no training stage makes {row.path}", where=str(lock), do="make it: dvc repro")
        parent = by_path.get(known.argument(producer, "--policy") or "")
        version = _version(row, runs[producer], evaluations.get(row.name), parent, summary.seed)
        if board := benchmarks.get(row.name):
            version.figures |= _prefixed(scores_of(board), "leaderboard_")
            errors = {f"{key}_sem": error for key, error in board.errors.items() if error is not None}
            version.figures |= _prefixed(errors, "leaderboard_")
            if summary.leaderboard and summary.leaderboard.limit is not None:
                version.figures[LIMIT] = summary.leaderboard.limit
        runs[producer].files = partial(_files, producer, known, settings, origin)
        versions.append(version)
        by_path[row.path] = version
        if row.name == summary.champion.name:
            champion = version.key
    pipeline = _pipeline_run(summary, list(runs.values()), common)
    pipeline.files = partial(_files_of_all, path, known, settings, origin)
    return Records(pipeline, list(runs.values()), versions, champion)


def _pipeline_run(summary: Summary, runs: list[RunRecord], common: dict[str, str]) -> RunRecord:
    """The parent of the runs that led to a summary.

    What was made decides which pipeline run it is, not when or from which commit: a rerun that DVC answers from its
    cache, another checkout and a commit that changes no output are the same one.
    """
    chosen = summary.champion.name
    made = json.dumps([common["recipe"], sorted(run.key for run in runs), chosen])
    key = hashlib.md5(made.encode(), usedforsecurity=False).hexdigest()
    params = dict[str, str]()
    for run in runs:
        params |= run.params
    tags = {**common, "stage": PIPELINE_RUN, "champion": chosen, **source_tag(PIPELINE_RUN)}
    tags["mlflow.note.content"] = _bounded(overview(summary))
    row = next((row for row in summary.models if row.name == chosen), None)
    metrics = _prefixed(row.numbers(), "champion/") if row else {}
    return RunRecord(f"{PIPELINE_RUN}:{key}", "", f"{common['recipe']} {key[:8]}", tags, params, metrics)


def _bounded(text: str) -> str:
    """A text as a tag; of one that is longer than MLflow's stores take, only the first paragraph."""
    return text if len(text) <= LONGEST_TAG else f"{text.partition(chr(10) * 2)[0]} The table is in report.html."


def overview(summary: Summary) -> str:
    """The table of all models of a summary in Markdown, its champion in bold."""
    columns, chosen = shown_columns(summary.models), summary.champion.name
    rows = [["model", *(column.key for column in columns)], ["---"] * (1 + len(columns))]
    for model in summary.models:
        name = f"**{model.name}**" if model.name == chosen else model.name
        cells = (shown(model.metric(column.key), column.digits, signed=column.signed) for column in columns)
        rows.append([name, *cells])
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in rows)
    return f"Recipe {summary.recipe}, seed {summary.seed}. Champion: **{chosen}**.\n\n{table}"


def check_recorded(records: Records, lock: DvcLock) -> None:
    """Check that the outputs of the runs are those of dvc.lock, which records what their stages have read.

    Raises:
        InputError: an output is damaged or was changed by hand, or an entry of dvc.lock is not true.
    """
    recorded.check(lock)
    outputs = [Path(run.tags["dvc_path"]) for run in records.runs]
    check_made({str(path): md5_of(path, remember=True) for path in outputs if path.exists()}, lock)


def _files(producer: str, lock: DvcLock, params: str, origin: Origin | None) -> dict[str, str]:
    """What a version is restored by: its part of dvc.lock, the parameters, and the recipe if they follow from one."""
    files = {LOCK: lock.part(lock.upstream(producer)), PARAMS: params}
    return files if origin is None else {**files, ORIGIN: origin.model_dump_json(indent=1)}


def _per_prompt(evaluation: EvaluatedModel) -> dict[str, str]:
    """What gates pair two evaluations by."""
    found = per_prompt_of(evaluation)
    return {} if found is None else {PER_PROMPT: json.dumps(found.as_json())}


def _files_of_all(summary: Path, lock: DvcLock, params: str, origin: Origin | None) -> dict[str, str]:
    """What is kept with a pipeline run: what a version is restored by, the report and its summary."""
    kept = _files(lock.producers[str(summary)], lock, params, origin)
    return kept | {path.name: path.read_text(encoding="utf-8") for path in (summary, REPORT) if path.is_file()}


def _run(name: str, kind: Run, lock: DvcLock, common: dict[str, str], costs: Sequence[StageCost]) -> RunRecord:
    stage = lock.stages[name]
    out = stage["outs"][0]
    path = Path(out["path"])
    tags = {**common, "stage": name.split("@")[0], "dvc_path": out["path"], "dvc_md5": out["md5"], **source_tag(name)}
    read = {key: value for values in stage.get("params", {}).values() for key, value in values.items()}
    made_from = {dep["path"]: dep.get("md5", "") for dep in stage.get("deps", [])}
    data = {path: md5 for path, md5 in made_from.items() if path.startswith("data/")}
    attempt = attempt_of(name, made_from, read)
    run = RunRecord(f"{name}:{out['md5']}", attempt, name, tags, in_words(read), {}, data=data)
    if kind == "evaluation":
        evaluated_on = lock.evaluated_on(name)
        # The same figures by other parameters are another run, which other models are compared with.
        run.key = f"{run.key}:{evaluated_on}"
        evaluation = EvaluatedModel.read(path)
        run.tags |= {**_model_tags(evaluation), "evaluated_on": evaluated_on}
        run.samples = evaluation.samples
        run.files = partial(_per_prompt, evaluation)
        run.metrics |= _prefixed(evaluation.held_out.numbers(), "held_out/")
        if evaluation.validation:
            run.metrics |= _prefixed(evaluation.validation.numbers(), "validation/")
    elif kind == "leaderboard":
        results = BenchmarkedModel.read(path / "results.json")
        run.tags |= _model_tags(results)
        run.tags |= {f"version.{library}": version for library, version in results.harness.items()}
    else:
        for file in sorted(path.rglob("training.json")):
            part = file.parent.relative_to(path).as_posix()
            _add_training(run, Training.read(file), "" if part == "." else f"{part}/")
    _add_costs(run, costs)
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
    """Parameters as MLflow takes them: flat, and text. Those of the graph follow from the others and are left out."""
    flat = _flat({key: value for key, value in params.items() if not key.startswith("graph.")})
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in flat.items()}


def _model_tags(row: Row | SummaryRow) -> dict[str, str]:
    return {"model": row.name, "method": row.method, "round": str(row.round)}


def _add_leaderboard(run: RunRecord, row: LeaderboardRow) -> None:
    """Add the model's scores, the paper's beside them, and both as a table in what MLflow shows as the description."""
    run.metrics |= _prefixed(scores_of(row), "leaderboard/")
    if row.paper:
        run.metrics |= _prefixed(scores_of(row.paper), "paper/")
    run.tags["mlflow.note.content"] = as_markdown(row)


def _add_training(run: RunRecord, training: Training, prefix: str) -> None:
    facts = {key: value for key, value in training.facts.items() if isinstance(value, int | float)}
    counts = {key: value for key, value in facts.items() if not isinstance(value, bool)}
    run.metrics |= _prefixed(training.numbers(), prefix) | _prefixed(counts, prefix)
    for name in ("precision", "device"):
        if isinstance(said := training.facts.get(name), str):
            run.tags[f"{prefix}{name}"] = said
    if isinstance(deterministic := training.facts.get("deterministic"), bool):
        run.tags[f"{prefix}deterministic"] = str(deterministic).lower()
    for name, curve in training.curves.items():
        run.curves[f"{prefix}train/{name}"] = list(zip(curve.step, curve.value, strict=True))


def _add_costs(run: RunRecord, earlier: Sequence[StageCost]) -> None:
    """Add seconds, memory and times, if they are those of the run that made the output rather than of another one.

    Args:
        earlier: costs of earlier runs of the stage, whose output DVC may have restored.
    """
    file = COSTS / f"{run.name}.json"
    newest = [StageCost.read(file)] if file.is_file() else []
    cost = next((each for each in (*newest, *earlier) if each.output_md5 == run.tags["dvc_md5"]), None)
    if cost is None:
        return
    run.metrics |= _prefixed(cost.numbers(), "cost/")
    tokens = cost.count("response_tokens")
    if cost.seconds and tokens:
        run.metrics["cost/response_tokens_per_second"] = tokens / cost.seconds
    if cost.seconds and cost.cpu_seconds:
        run.metrics["system/cpu_utilization_percentage"] = 100 * cost.cpu_seconds / cost.seconds
    for name, peak in (("system", cost.peak_memory_mb), ("gpu", cost.peak_device_memory_mb)):
        if peak is not None:
            run.metrics[f"system/peak_{name}_memory_usage_megabytes"] = peak
    # Costs of earlier versions of Juicer do not say when; a file that is the newest was written as the stage ended.
    run.ended = cost.ended or (file.stat().st_mtime if cost in newest else time.time())
    run.started = run.ended - (cost.seconds or 0.0)


def _version(
    row: SummaryRow, run: RunRecord, evaluation: RunRecord | None, parent: VersionRecord | None, seed: int
) -> VersionRecord:
    tags = {key: run.tags[key] for key in IDENTIFIES if key in run.tags} | _model_tags(row) | {"seed": str(seed)}
    figures = {key: float(value) for key, value in row.numbers().items() if key != "round"}
    key, evaluated_on = f"{row.name}:{run.tags['dvc_md5']}", evaluation.tags["evaluated_on"] if evaluation else None
    return VersionRecord(key, row.name, run.key, parent.key if parent else None, tags, figures, evaluated_on)


def _prefixed(values: Mapping[str, float], prefix: str) -> dict[str, float]:
    return {f"{prefix}{key}": float(value) for key, value in values.items()}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
