"""A registered version as an outcome that this project's results can be compared with (`juicer report --against`)."""

from collections.abc import Mapping
from contextlib import suppress

from juicer.evaluation.results import EvaluatedModel
from juicer.recipe.graph import ABSENT
from juicer.registry.records import LOCK, PARAMS
from juicer.registry.versions import Registry, Version
from juicer.reporting.contract import SummaryRow
from juicer.reporting.objects import Objects
from juicer.reporting.outcomes import DERIVED, Outcome, evaluations_of, lock_of, parsed_lock
from juicer.reporting.provenance import flat
from juicer.runtime.errors import InputError
from juicer.runtime.yaml_text import parse_yaml
from juicer.stages import code
from juicer.stages.dvc_files import DvcLock
from juicer.stages.git import commit_of

COUNTS = ("prompts", "pairs", "steps", "response_tokens_trained")
"""Metrics that are whole numbers; tags are text."""


def outcome_of_version(registry: Registry, version: Version, objects: Objects) -> Outcome:
    """What the registry keeps of a version: its metrics, its recipe, and the part of dvc.lock that led to it.

    What was measured on each prompt is not in the registry. It is in DVC's cache if a dvc.lock names it: that of the
    version's commit, or that of this project, where either still has the version's weights.
    """
    lock = parsed_lock(registry.kept_text(version, LOCK))
    params = parse_yaml(registry.kept_text(version, PARAMS), PARAMS)
    values = {key: value for key, value in flat(params).items() if key.split(".")[0] not in DERIVED}
    row = row_of(version)
    evaluated = _evaluated(version, lock)

    def evaluation(name: str) -> EvaluatedModel | None:
        return evaluations_of(evaluated, objects)(name) if evaluated is not None else None

    def modules(md5: str) -> dict[str, str] | None:
        found = objects.find(md5)
        return code.read_list(found) if found else None

    return Outcome(
        label=version.uri,
        recipe=version.tags.get("recipe", version.name),
        seed=version.tags.get("seed", "unknown"),
        models=[row],
        champion=row.name,
        values=values,
        whole=False,
        lock=evaluated or lock,
        evaluation=evaluation,
        list_of_code=modules,
    )


def row_of(version: Version) -> SummaryRow:
    """The version's metrics, as its tags have them."""
    known = SummaryRow.model_fields
    metrics: Mapping[str, float] = {key: value for key, value in version.metrics.items() if key in known}
    row = SummaryRow(
        name=version.tags.get("model", version.name),
        method=version.tags.get("method", ""),
        round=int(version.tags.get("round", "0")),
        path=version.tags.get("dvc_path", ABSENT),
    )
    return row.model_copy(update={key: int(value) if key in COUNTS else value for key, value in metrics.items()})


def _evaluated(version: Version, lock: DvcLock) -> DvcLock | None:
    """A dvc.lock that has the version's weights and their evaluation; None if there is none any more."""
    path, md5 = version.tags.get("dvc_path", ""), version.tags.get("dvc_md5")
    commit = commit_of(version.tags.get("git_commit", "unknown"))
    candidates = [lock]
    if commit is not None:
        with suppress(InputError):  # the commit may be from before the run was recorded
            candidates.append(lock_of(commit, version.uri))
    candidates.append(DvcLock.read_beside_dvc())
    name = f"evaluation/models/{version.tags.get('model')}.json"
    return next((each for each in candidates if md5 and each.md5(path) == md5 and each.md5(name)), None)
