"""Ensure that MLflow holds the records of a recipe.

A registered version is an external logged model: it points at the DVC path and md5, and holds no weights.
"""

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from juicer.registry.aliases import Aliases
from juicer.registry.database import locked, make_portable, sqlite_file
from juicer.registry.figures import FIGURES, describe, described_anew, former, measured_anew
from juicer.registry.provenance import commit_tags, in_history
from juicer.registry.records import ATTEMPT, PIPELINE_RUN, Records, RunRecord, VersionRecord
from juicer.registry.store import (
    LONGEST_PARAM,
    Measured,
    connect,
    every_page,
    log_params,
    log_points,
    log_samples,
    without_password,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

KEY = "juicer.key"
EVALUATED = "model"
"""Tag of the run of an evaluation: the name of the model that was evaluated."""
CHALLENGER = "challenger"
"""Alias of the version that the evaluation found best. It becomes champion only by promotion."""
PARENT = "mlflow.parentRunId"
KIND, TRAINING = "mlflow.experimentKind", "custom_model_development"
"""Tag of an experiment, and its value for one whose page is the table of runs rather than of traces."""


@dataclass(frozen=True)
class KnownVersion:
    """A version that the registry already holds."""

    number: str
    tags: dict[str, str]
    logged_model: str
    """Id of the logged model that it points to."""
    description: str = ""


@dataclass(frozen=True)
class Update:
    """What has to change about a version that the registry holds."""

    tags: dict[str, str]
    former: list[str]
    """Tags that are no longer used."""
    description: str | None
    """None where it is right."""

    def __bool__(self) -> bool:
        return bool(self.tags or self.former or self.description)


@dataclass
class Known:
    """What the registry already holds."""

    runs: dict[str, str] = field(default_factory=dict)
    """Key to run id, finished runs only."""
    unfinished: list[str] = field(default_factory=list)
    """Ids of runs that an interrupted call left in status RUNNING."""
    parents: dict[str, str] = field(default_factory=dict)
    """Run id to the id of its parent."""
    has_kind: bool = False
    """Whether the experiment says what kind it is."""
    grown: dict[str, str] = field(default_factory=dict)
    """Attempt to run id, of runs that were written while their stages ran and are not completed yet."""
    versions: dict[str, KnownVersion] = field(default_factory=dict)
    """By their keys."""
    challenger: str | None = None
    """Version number that the alias points to."""

    def lacks(self, wanted: Records) -> bool:
        """Whether anything in `wanted` is missing or out of date here."""
        return (
            any(run.key not in self.runs for run in (wanted.pipeline, *wanted.runs))
            or bool(self.orphans(wanted))
            or not self.has_kind
            or any(
                version.key not in self.versions or _update(version, self.versions[version.key])
                for version in wanted.versions
            )
            or self.challenger != (self.versions[wanted.champion].number if wanted.champion else None)
        )

    def orphans(self, wanted: Records) -> list[RunRecord]:
        """The runs that are here but belong to no pipeline run: from before there were any, or it was deleted."""
        pipelines = {run for key, run in self.runs.items() if key.startswith(f"{PIPELINE_RUN}:")}
        here = [record for record in wanted.runs if record.key in self.runs]
        return [record for record in here if self.parents.get(self.runs[record.key]) not in pipelines]


def ensure(wanted: Records, uri: str, experiment: str, model: str) -> str:
    """Add what the registry at `uri` lacks of `wanted`; returns what was done, in words.

    Args:
        uri: MLflow tracking URI.
        experiment: name of the experiment that the runs belong to.
        model: name of the registered model that the versions belong to.

    Raises:
        InputError: MLflow cannot be reached or refuses.
    """
    shown = without_password(uri)
    with locked(uri):
        known = _peek(uri, experiment, model)
        complete = known is not None and not known.lacks(wanted)
        added = (0, 0) if complete else _ensure(wanted, uri, experiment, model)
    there = f"{len(wanted.runs)} runs and {len(wanted.versions)} versions of {model!r} are in {shown}"
    return f"{there} ({added[0]} runs and {added[1]} versions are new)"


def _peek(uri: str, experiment: str, model: str) -> Known | None:
    """What a SQLite store holds, read without MLflow.

    `register` runs on every `dvc repro`. Where nothing is new, this takes 0.2 s; MLflow's import and searches take
    4.5 s of CPU time more (measured on the quickstart's 18 runs and 7 versions).
    None if there is no such store yet, or its tables are not as expected: then MLflow's client is used.
    """
    database = sqlite_file(uri)
    if database is None or not database.is_file() or os.environ.get("MLFLOW_REGISTRY_URI"):
        return None
    known = Known()
    try:
        with contextlib.closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as store:
            runs = store.execute(
                "SELECT tags.value, runs.run_uuid FROM runs JOIN tags USING (run_uuid) "
                "JOIN experiments USING (experiment_id) WHERE experiments.name = ? AND tags.key = ? "
                "AND runs.status = 'FINISHED' AND runs.lifecycle_stage = 'active' "
                "AND experiments.lifecycle_stage = 'active'",
                (experiment, KEY),
            )
            known.runs = dict(runs.fetchall())
            query = "SELECT run_uuid, value FROM tags WHERE key = ?"
            known.parents = dict(store.execute(query, (PARENT,)).fetchall())
            query = "SELECT 1 FROM experiment_tags JOIN experiments USING (experiment_id) WHERE name = ? AND key = ?"
            known.has_kind = store.execute(query, (experiment, KIND)).fetchone() is not None
            tags: dict[str, dict[str, str]] = {}
            rest: dict[str, tuple[str, str]] = {}
            for version, key, value, source, description in store.execute(
                "SELECT version, key, value, source, description FROM model_version_tags "
                "JOIN model_versions USING (name, version) WHERE name = ? AND current_stage != 'Deleted_Internal'",
                (model,),
            ):
                tags.setdefault(str(version), {})[key] = value
                rest[str(version)] = source.removeprefix("models:/"), description or ""
            known.versions = {
                tag[KEY]: KnownVersion(version, tag, *rest[version]) for version, tag in tags.items() if KEY in tag
            }
            query = "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = ?"
            alias = store.execute(query, (model, CHALLENGER)).fetchone()
            known.challenger = str(alias[0]) if alias else None
    except sqlite3.Error:
        return None
    return known


def _ensure(wanted: Records, uri: str, experiment: str, model: str) -> tuple[int, int]:
    with connect(uri) as client:
        number = experiment_of(client, experiment)
        _make_model(client, model)
        known = _ask(client, number, model)
        if sqlite_file(uri) and not os.environ.get("MLFLOW_REGISTRY_URI"):
            return _add(client, wanted, known, uri, number, model)
        if not known.lacks(wanted):
            return 0, 0
        # A lock on this machine does not exclude other users of a server, so read again under the server's own lock.
        with Aliases(client, model).locked():
            return _add(client, wanted, _ask(client, number, model), uri, number, model)


def _add(
    client: "MlflowClient", wanted: Records, known: Known, uri: str, experiment: str, model: str
) -> tuple[int, int]:
    # The lock guarantees that no process is writing these in a local store; on a server another machine may be.
    for unfinished in known.unfinished if sqlite_file(uri) else []:
        client.set_terminated(unfinished, "KILLED")
    new_runs = [run for run in wanted.runs if run.key not in known.runs]
    orphans = known.orphans(wanted)
    was_there, figures_changed = wanted.pipeline.key in known.runs, False
    if not was_there:
        _time(wanted.pipeline, [*new_runs, *orphans])
        known.runs[wanted.pipeline.key] = _add_run(client, experiment, wanted.pipeline, None, {})
    parent = {PARENT: known.runs[wanted.pipeline.key]}
    for run in orphans:
        _adopt(client, known.runs[run.key], run, parent)
    # A version needs the run that trained it, and the results of an evaluation need the version that it evaluated.
    for run in new_runs:
        if EVALUATED not in run.tags:
            _ensure_run(client, experiment, run, known, None, parent)
    records = {run.key: run for run in wanted.runs}
    new_versions = [version for version in wanted.versions if version.key not in known.versions]
    for version in wanted.versions:
        if version.key not in known.versions:
            known.versions[version.key] = _add_version(
                client, experiment, model, version, records[version.run].params, known
            )
        there = known.versions[version.key]
        update = _update(version, there)
        figures_changed |= FIGURES in update.tags
        if "git_commit" in update.tags:
            # A restoration compares code and parameters with these files, so they have to be those of the same commit.
            _log_files(client, known.runs[version.run], records[version.run].files())
            for key, value in commit_tags(update.tags).items():
                client.set_tag(known.runs[version.run], key, value)
        if update.description:  # first: by the tags that are there it is told from one that a user wrote
            client.update_model_version(model, there.number, update.description)
        for key, value in update.tags.items():
            client.set_model_version_tag(model, there.number, key, value)
        for key in update.former:
            client.delete_model_version_tag(model, there.number, key)
    if was_there and figures_changed:
        _renew(client, known.runs[wanted.pipeline.key], wanted.pipeline)
    logged_models = {version.name: known.versions[version.key].logged_model for version in wanted.versions}
    for run in new_runs:
        if EVALUATED in run.tags:
            _ensure_run(client, experiment, run, known, logged_models.get(run.tags[EVALUATED]), parent)
    _point(client, model, known, wanted.champion)
    return len(new_runs), len(new_versions)


def _renew(client: "MlflowClient", run: str, pipeline: RunRecord) -> None:
    """Give a pipeline run the figures that have changed without a new run of a stage in it: votes, or a judge."""
    _log_figures(client, run, pipeline.metrics, {}, time.time(), None)
    _log_files(client, run, pipeline.files())
    for key, value in pipeline.tags.items():
        client.set_tag(run, key, value)


def _time(pipeline: RunRecord, runs: list[RunRecord]) -> None:
    """Let a pipeline run last from the first start to the last end of the stages that belong to it."""
    pipeline.started = min((run.started for run in runs if run.started), default=None)
    pipeline.ended = max((run.ended for run in runs if run.ended), default=None)


def _adopt(client: "MlflowClient", run: str, record: RunRecord, parent: dict[str, str]) -> None:
    """Give a run a parent, and what its page shows as Source and Version if it is from before that was recorded."""
    there = client.get_run(run).data.tags
    source = {key: record.tags[key] for key in ("mlflow.source.name", "mlflow.source.type")}
    for key, value in {**source, **commit_tags(there), **there, **parent}.items():
        if there.get(key) != value:
            client.set_tag(run, key, value)


def _ensure_run(
    client: "MlflowClient",
    experiment: str,
    record: RunRecord,
    known: Known,
    logged_model: str | None,
    parent: dict[str, str],
) -> None:
    """Complete the run that was written while the stage ran, or add one.

    Args:
        logged_model: id of the model that the stage evaluated, None if it evaluated none that is registered.
        parent: the tag that names the pipeline run.
    """
    data = next(iter(record.data.items())) if len(record.data) == 1 else None
    measured = Measured(logged_model, data) if logged_model else None
    grown = known.grown.get(record.attempt)
    known.runs[record.key] = (
        _complete_run(client, grown, record, measured, parent)
        if grown
        else _add_run(client, experiment, record, measured, parent)
    )


def experiment_of(client: "MlflowClient", name: str) -> str:
    """Id of the experiment, which is created if it does not exist. Its page is the table of runs."""
    found = client.get_experiment_by_name(name)
    if found is None:
        with _unless_there():
            number = str(client.create_experiment(name, tags={KIND: TRAINING}))
            if database := sqlite_file(client.tracking_uri):
                make_portable(database)
            return number
        found = client.get_experiment_by_name(name)
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    if KIND not in found.tags:
        client.set_experiment_tag(found.experiment_id, KIND, TRAINING)
    return str(found.experiment_id)


def _ask(client: "MlflowClient", experiment: str, model: str) -> Known:
    known = Known(has_kind=True)  # see `experiment_of`
    for run in every_page(client.search_runs, experiment_ids=[experiment], filter_string=f"tags.`{KEY}` LIKE '%'"):
        if PARENT in run.data.tags:
            known.parents[run.info.run_id] = run.data.tags[PARENT]
        if run.info.status == "FINISHED":
            known.runs[run.data.tags[KEY]] = run.info.run_id
        elif run.info.status == "RUNNING":
            known.unfinished.append(run.info.run_id)
    query = {"filter_string": f"tags.`{ATTEMPT}` LIKE '%'", "order_by": ["attributes.start_time ASC"]}
    for run in every_page(client.search_runs, experiment_ids=[experiment], **query):
        if KEY not in run.data.tags:
            known.grown[run.data.tags[ATTEMPT]] = run.info.run_id
    for version in every_page(client.search_model_versions, filter_string=f"name = '{model}'"):
        if KEY in version.tags:
            logged_model = version.source.removeprefix("models:/")
            number, said = str(version.version), version.description or ""
            known.versions[version.tags[KEY]] = KnownVersion(number, version.tags, logged_model, said)
    known.challenger = client.get_registered_model(model).aliases.get(CHALLENGER)
    return known


def _make_model(client: "MlflowClient", name: str) -> None:
    """Create the registered model if it does not exist."""
    if not client.search_registered_models(filter_string=f"name = '{name}'"):
        with _unless_there():
            client.create_registered_model(name, description=f"The rounds of the recipe {name!r}. Weights are in DVC.")


@contextlib.contextmanager
def _unless_there() -> Iterator[None]:
    """Ignore that another process has created the same thing in the meantime."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _add_run(
    client: "MlflowClient", experiment: str, record: RunRecord, measured: Measured | None, parent: dict[str, str]
) -> str:
    now = time.time()
    started, ended = record.started or now, record.ended or now
    tags = {**record.tags, **parent, KEY: record.key}
    run = str(
        client.create_run(experiment, start_time=int(1000 * started), tags=tags, run_name=record.name).info.run_id
    )
    _log_figures(client, run, record.metrics, record.curves, ended, measured)
    _log_rest(client, run, record)
    # Last: FINISHED marks a run as complete, so a run that was interrupted above is created again.
    client.set_terminated(run, "FINISHED", int(1000 * ended))
    return run


def _complete_run(
    client: "MlflowClient", run: str, record: RunRecord, measured: Measured | None, parent: dict[str, str]
) -> str:
    """Add what is missing from a run that was written while its stage ran."""
    found = client.get_run(run)
    metrics = {name: value for name, value in record.metrics.items() if name not in found.data.metrics}
    curves = {}
    for name, points in record.curves.items():
        there = {point.step for point in client.get_metric_history(run, name)} if name in found.data.metrics else set()
        curves[name] = [point for point in points if point[0] not in there]
    _log_figures(client, run, metrics, curves, record.ended or time.time(), measured)
    _log_rest(client, run, record)
    if found.info.status != "FINISHED":
        client.set_terminated(run, "FINISHED")  # its last request was lost, or the stage was rerun elsewhere
    # The key comes last: a run is complete once it is FINISHED and has a key.
    for key, value in {**record.tags, **parent, KEY: record.key}.items():
        client.set_tag(run, key, value)
    return run


def _log_figures(
    client: "MlflowClient",
    run: str,
    values: dict[str, float],
    curves: dict[str, list[tuple[int, float]]],
    at: float,
    measured: Measured | None,
) -> None:
    points = [(name, value, at, 0) for name, value in values.items()]
    points += [(name, value, at, step) for name, curve in curves.items() for step, value in curve]
    log_points(client, run, points, measured)


def _log_rest(client: "MlflowClient", run: str, record: RunRecord) -> None:
    """Log parameters, data, files and samples; idempotent."""
    log_params(client, run, record.params)
    client.log_inputs(run, [_dataset(path, md5, record) for path, md5 in record.data.items()])
    _log_files(client, run, record.files())
    if record.samples:
        log_samples(client, run, record.samples)


def _log_files(client: "MlflowClient", run: str, files: dict[str, str]) -> None:
    for name, text in files.items():
        client.log_text(run, text, name)


def _dataset(path: str, md5: str, record: RunRecord) -> "DatasetInput":
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"path": path, "md5": md5, "git_commit": record.tags["git_commit"]})
    context = "evaluation" if "evaluated_on" in record.tags else "training"
    return DatasetInput(Dataset(path, md5, "dvc", source), [InputTag("mlflow.data.context", context)])


def _add_version(
    client: "MlflowClient", experiment: str, model: str, record: VersionRecord, params: dict[str, str], known: Known
) -> KnownVersion:
    import mlflow

    tags = {**record.tags, **measured_anew({}, record.figures, record.evaluated_on), KEY: record.key}
    if record.parent:
        tags["parent"] = known.versions[record.parent].number
    run = known.runs[record.run]
    logged = mlflow.create_external_model(
        name=record.name,
        source_run_id=run,
        tags={key: value for key, value in tags.items() if key != FIGURES},
        params={key: value[:LONGEST_PARAM] for key, value in params.items()},
        model_type="policy",
        experiment_id=experiment,
    )
    source, said = f"models:/{logged.model_id}", describe(tags)
    version = client.create_model_version(
        model, source=source, run_id=run, tags=tags, model_id=logged.model_id, description=said
    )
    return KnownVersion(str(version.version), tags, logged.model_id, said)


def _update(version: VersionRecord, there: KnownVersion) -> Update:
    """Tags that a newer evaluation has changed, and the commit if this checkout has a better one.

    The commit is replaced if the version was registered with uncommitted code, or if its commit is not in the history
    of this checkout, for example after a pull request was squashed.
    """
    tags = there.tags
    wanted = measured_anew(tags, version.figures, version.evaluated_on, judged=True)
    commit = tags.get("git_commit", "unknown")
    lost = commit != version.tags.get("git_commit") and not in_history(commit)
    if version.tags.get("git_dirty") == "false" and (lost or tags.get("git_dirty") == "true"):
        wanted |= {key: version.tags[key] for key in ("git_commit", "git_dirty")}
    gone = former(tags)
    after = {key: value for key, value in tags.items() if key not in gone} | wanted
    changed = {key: value for key, value in wanted.items() if tags.get(key) != value}
    return Update(changed, gone, described_anew(there.description, tags, after))


def _point(client: "MlflowClient", model: str, known: Known, champion: str | None) -> None:
    """Point the alias to the best model; there is no challenger if the best model is not registered."""
    wanted = known.versions[champion].number if champion else None
    if wanted == known.challenger:
        return
    if wanted:
        client.set_registered_model_alias(model, CHALLENGER, wanted)
    else:
        client.delete_registered_model_alias(model, CHALLENGER)
