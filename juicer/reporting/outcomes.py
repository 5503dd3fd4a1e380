"""The outcome of a run, wherever it is: in this project now, at an earlier git revision, or in another folder.

An earlier revision is read without a checkout: dvc.lock comes from git, and says by md5 which results belong to it;
those come from DVC's cache or remote.
"""

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from juicer.evaluation.results import EvaluatedModel
from juicer.recipe.graph import ABSENT
from juicer.reporting.contract import Summary, SummaryRow
from juicer.reporting.objects import Objects
from juicer.reporting.provenance import flat
from juicer.runtime.errors import InputError
from juicer.stages import code
from juicer.stages.dvc_files import LOCK, DvcLock
from juicer.stages.git import commit_of, git
from juicer.stages.hashes import md5_of

SUMMARY, EVALUATIONS = "metrics/summary.json", "evaluation/models"
DATA_STAGES = ("pretrain", "download", "tiny", "fetch", "preferences", "curate")
"""Stages whose outputs a run starts from: data, and the models that are not trained by the methods."""
DERIVED = ("graph",)
"""Parameters that follow from others."""

Fetch = Callable[[str], EvaluatedModel | None]


@dataclass(frozen=True)
class Outcome:
    """The results of a run, and what they were made from."""

    label: str
    """What it is called on the page, for example "HEAD~1 (1a2b3c4d)"."""
    recipe: str
    seed: str
    models: list[SummaryRow]
    champion: str
    values: dict[str, Any]
    """The recipe's values that its stages read, by dotted key."""
    whole: bool
    """Whether it is all of a run; of a registered version, a single model, only what both outcomes have is compared."""
    lock: DvcLock
    evaluation: Fetch
    """Gives the evaluation of a model by name, with what was measured on each prompt; None where it cannot be had."""
    list_of_code: Callable[[str], dict[str, str] | None]
    """Gives the modules of a list of code, with their md5s, by the md5 of the list; None where it cannot be had."""

    def model(self, name: str) -> SummaryRow | None:
        """The model of this name."""
        return next((model for model in self.models if model.name == name), None)


def is_project(folder: Path) -> bool:
    """Whether a folder is a project of Juicer, or a copy of one."""
    return folder.is_dir() and (folder / "dvc.yaml").is_file()


def of_folder(folder: Path, label: str, objects: Objects) -> Outcome:
    """The outcome in the files of a project.

    Raises:
        InputError: it has no results, or no dvc.lock.
    """
    path = folder / SUMMARY
    if not path.is_file():
        raise InputError("there are no results", where=str(path), do="make them in that folder: juicer run")
    if not (folder / LOCK).is_file():
        raise InputError("nothing says what the results were made from", where=str(folder / LOCK), do="juicer run")
    summary, lock = Summary.read(path), DvcLock.read_beside_dvc(folder / LOCK)

    def evaluation(name: str) -> EvaluatedModel | None:
        file = folder / EVALUATIONS / f"{name}.json"
        return EvaluatedModel.read(file) if file.is_file() else None

    def modules(md5: str) -> dict[str, str] | None:
        for file in sorted((folder / code.FOLDER).glob("*.json")):
            if md5_of(file) == md5:
                return code.read_list(file)
        return _list_in(objects, md5)

    return _outcome(label, summary, lock, evaluation, modules)


def at_revision(revision: str, objects: Objects) -> Outcome:
    """The outcome that belongs to a git revision.

    Raises:
        InputError: there is no such revision, it has no results, or DVC has them no more.
    """
    commit = commit_of(revision) if not revision.startswith("-") else None
    if commit is None:
        what = f"{revision!r} is neither a git revision, nor a folder of a project, nor models:/NAME/VERSION"
        raise InputError(what, where="--against", do="git fetch --all, or see what there is: git log --oneline")
    label = revision if commit.startswith(revision) else f"{revision} ({commit[:8]})"
    lock = lock_of(commit, label)
    md5 = lock.md5(SUMMARY)
    if md5 is None:
        do = "name a revision whose run went to the report, or run it there"
        raise InputError(f"its {LOCK} has no {SUMMARY}", where=label, do=do)
    found = objects.find(md5)
    if found is None:
        do = f"dvc push it where it was made, with a remote that is known here too; or run {commit[:8]} again"
        raise InputError(f"neither DVC's cache nor a remote has its {SUMMARY} ({md5})", where=label, do=do)
    return _outcome(label, Summary.read(found), lock, evaluations_of(lock, objects), lambda md5: _list_in(objects, md5))


def lock_of(commit: str, label: str) -> DvcLock:
    """dvc.lock at a commit.

    Raises:
        InputError: the commit has none.
    """
    try:
        text = git("show", f"{commit}:./{LOCK}")
    except InputError as error:
        raise InputError(
            f"the revision has no {LOCK}", where=label, do="name one in which a run is recorded"
        ) from error
    return parsed_lock(text)


def parsed_lock(text: str) -> DvcLock:
    """A dvc.lock from its text."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / LOCK.name
        path.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
        return DvcLock.read(path)


def evaluations_of(lock: DvcLock, objects: Objects) -> Fetch:
    """Gives evaluations by the md5s in a dvc.lock."""

    def evaluation(name: str) -> EvaluatedModel | None:
        md5 = lock.md5(f"{EVALUATIONS}/{name}.json")
        found = objects.find(md5) if md5 else None
        return EvaluatedModel.read(found) if found else None

    return evaluation


def values_read(lock: DvcLock, stages: Iterable[str]) -> dict[str, Any]:
    """The recipe's values that stages read, by dotted key."""
    found: dict[str, Any] = {}
    for stage in stages:
        for params in (lock.stages[stage].get("params") or {}).values():
            found |= flat(params)
    return {key: value for key, value in sorted(found.items()) if key.split(".")[0] not in DERIVED}


def starting_points(lock: DvcLock) -> dict[str, str]:
    """md5s of what a run starts from: the data, models that no method trains, and files that no stage makes."""
    found: dict[str, str] = {}
    for stage in _stages(lock):
        entry = lock.stages[stage]
        if stage.split("@")[0] in DATA_STAGES:
            found |= {out["path"]: str(out.get("md5")) for out in entry.get("outs") or []}
        for dep in entry.get("deps") or []:
            place = Path(dep["path"])
            made = any(str(each) in lock.producers for each in (place, *place.parents))
            if not made and dep["path"] != ABSENT and stage != code.STAGE and not code.is_list(dep["path"]):
                found[dep["path"]] = str(dep.get("md5"))
    return dict(sorted(found.items()))


def lists_of_code(lock: DvcLock) -> dict[str, str]:
    """md5s of the lists of code that the stages read, by path."""
    deps = [dep for stage in _stages(lock) for dep in lock.stages[stage].get("deps") or []]
    return {dep["path"]: str(dep.get("md5")) for dep in deps if code.is_list(dep["path"])}


def _stages(lock: DvcLock) -> list[str]:
    """The stages that led to the summary; all, where there is none: dvc.lock keeps those of dropped rounds."""
    maker = lock.producers.get(SUMMARY)
    return lock.upstream(maker) if maker else list(lock.stages)


def _outcome(
    label: str,
    summary: Summary,
    lock: DvcLock,
    evaluation: Fetch,
    modules: Callable[[str], Mapping[str, str] | None],
) -> Outcome:
    return Outcome(
        label=label,
        recipe=summary.recipe,
        seed=str(summary.seed),
        models=summary.models,
        champion=summary.champion.name,
        values=values_read(lock, _stages(lock)),
        whole=True,
        lock=lock,
        evaluation=evaluation,
        list_of_code=lambda md5: None if (found := modules(md5)) is None else dict(found),
    )


def _list_in(objects: Objects, md5: str) -> dict[str, str] | None:
    found = objects.find(md5)
    return code.read_list(found) if found else None
