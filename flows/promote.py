"""Promote a registered version to champion if it passes the gates of mlflow/promotion.yaml, or roll back.

python -m flows.promote                                  # the challenger of the active recipe
python -m flows.promote models:/quickstart/7 --dry-run   # what would happen, and the numbers of every gate
python -m flows.promote --rollback                       # the champion before takes its place again
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from prefect import State, flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.settings import get_current_settings
from prefect.states import Completed, Failed

from flows.server import check_server
from juicer.registry.promote import GATES, Decision
from juicer.registry.store import project_model, project_uri
from juicer.runtime.command import guarded
from juicer.runtime.errors import InputError
from juicer.settings.compute import ComputeSettings
from juicer.stages.stage import set_environment

REFUSED, REFUSED_STATE = 3, "Refused"
"""Exit code where gates failed; 1 is an error."""


@flow(name="promote", flow_run_name="{version}", persist_result=False)
def promote(
    version: str = "challenger", gates: str = str(GATES), dry_run: bool = False, rollback: bool = False
) -> State[Any]:
    """Make a version the champion if it passes every gate, or roll back.

    Args:
        version: models:/NAME/VERSION or models:/NAME@ALIAS; "challenger" is the one of the active recipe.
        gates: the file that declares the gates.
        dry_run: only say what would happen.
        rollback: give the champion's place back to the one before; `version` then only says of which model.
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
    """Do it, without Prefect."""
    from juicer.registry import promote
    from juicer.registry.versions import name_of, open_registry

    set_environment(ComputeSettings())
    reference = f"models:/{project_model()}@challenger" if version == "challenger" else version
    with open_registry(project_uri()) as registry:
        if rollback:
            return promote.roll_back(registry, name_of(reference), dry_run=dry_run)
        return promote.promote(registry, registry.find(reference), Path(gates), dry_run=dry_run)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m flows.promote", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("version", nargs="?", default="challenger", help="models:/NAME/VERSION or models:/NAME@ALIAS")
    parser.add_argument("--gates", default=str(GATES), help="file that declares the gates, default %(default)s")
    parser.add_argument("--rollback", action="store_true", help="give the place back to the champion before")
    parser.add_argument("--dry-run", action="store_true", help="only say what would happen")
    parser.add_argument("--unlock", metavar="NAME", help="take the lock from a promotion that died on another machine")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    given = parser.parse_args()

    def work() -> None:
        if given.unlock:
            from juicer.registry.versions import open_registry

            with open_registry(project_uri()) as registry:
                registry.aliases_of(given.unlock).unlock()
            return
        asked: dict[str, Any] = {"gates": given.gates, "dry_run": given.dry_run, "rollback": given.rollback}
        # On a server the decision is seen by others; without one Prefect would start its own, for nobody.
        if get_current_settings().api.url is not None:
            check_server()
            state = promote(given.version, **asked, return_state=True)
            if state.name == REFUSED_STATE:
                sys.exit(REFUSED)
            if not state.is_completed():
                raise InputError(state.message or state.type.value)
            return
        decision = decide(given.version, **asked)
        print(decision)
        if decision.refused:
            sys.exit(REFUSED)

    sys.exit(guarded(work, debug=given.debug, name="promote"))


if __name__ == "__main__":
    main()
