"""The flow `promote`: make a version the champion if it passes the gates of mlflow/promotion.yaml, or roll back.

The commands are `juicer promote` and `juicer rollback`.
"""

from pathlib import Path
from typing import Any

from prefect import State, flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.settings import get_current_settings
from prefect.states import Completed, Failed

from flows.form import named
from flows.server import check_server
from juicer.registry.promote import GATES, Decision
from juicer.registry.store import project_model, project_uri
from juicer.runtime.errors import InputError
from juicer.settings.compute import ComputeSettings
from juicer.stages.stage import set_environment

REFUSED, REFUSED_STATE = 3, "Refused"
"""Exit code where gates failed; 1 is an error."""


@flow(name="promote", flow_run_name=named("version"), persist_result=False)
def promote(
    version: str = "challenger", gates: str = str(GATES), dry_run: bool = False, rollback: bool = False
) -> State[Any]:
    """Make a version the champion if it passes every gate, or roll back.

    Args:
        version: models:/NAME/VERSION or models:/NAME@ALIAS; "challenger" is the one of the active recipe.
        gates: the file that declares the gates.
        dry_run: only say what would happen.
        rollback: make the previous champion the champion again; `version` then only says of which model.
    """
    try:
        decision = decide(version, gates, dry_run=dry_run, rollback=rollback)
    except InputError as error:
        get_run_logger().error("%s", error)
        return Failed(message=str(error))
    get_run_logger().info("%s", decision)
    create_markdown_artifact(decision.as_markdown(), key="promotion", description=decision.title)
    if decision.refused:
        return Failed(name=REFUSED_STATE, message=decision.line)
    return Completed(message=decision.line)


def decide(version: str, gates: str, *, dry_run: bool, rollback: bool) -> Decision:
    """The decision itself, without Prefect."""
    from juicer.registry import promote
    from juicer.registry.versions import name_of, open_registry

    set_environment(ComputeSettings())
    reference = f"models:/{project_model()}@challenger" if version == "challenger" else version
    with open_registry(project_uri()) as registry:
        if rollback:
            return promote.roll_back(registry, name_of(reference), dry_run=dry_run)
        return promote.promote(registry, registry.find(reference), Path(gates), dry_run=dry_run)


def command(version: str, gates: str, *, dry_run: bool, rollback: bool = False) -> int:
    """Decide as `promote` does and print the decision; returns the exit code: 0, or REFUSED where gates failed.

    Where PREFECT_API_URL names a server the flow runs, so that others see the decision there. Without one it does not:
    Prefect would start a server of its own, which only this process knows.
    """
    if get_current_settings().api.url is not None:
        check_server()
        state = promote(version, gates=gates, dry_run=dry_run, rollback=rollback, return_state=True)
        if state.name == REFUSED_STATE:
            return REFUSED
        if not state.is_completed():
            raise InputError(state.message or state.type.value)
        return 0
    decision = decide(version, gates, dry_run=dry_run, rollback=rollback)
    print(decision)
    return REFUSED if decision.refused else 0


def unlock(model: str) -> None:
    """Remove a model's promotion lock, which a promotion that died on another machine has left."""
    from juicer.registry.versions import open_registry

    with open_registry(project_uri()) as registry:
        registry.aliases_of(model).unlock()
