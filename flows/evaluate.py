"""The flow `evaluate`: evaluate a registered version, or any model's folder, and compare it with the champion.

The command is `juicer evaluate`.
"""

import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import State, flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.settings import get_current_settings
from prefect.states import Completed, Failed

from flows.execute import gpus_held
from flows.forecast import gpus_of_processes
from flows.form import named
from flows.server import check_server
from juicer.registry.evaluate_version import Judgement
from juicer.registry.promote import GATES
from juicer.registry.store import project_model, project_uri
from juicer.runtime.errors import InputError


@flow(name="evaluate", flow_run_name=named("model"), persist_result=False)
def evaluate(model: str = "challenger", gates: str = str(GATES), again: bool = True) -> State[Any]:
    """Evaluate a model on this project's prompts, record the metrics on its version, publish a verdict.

    Args:
        model: models:/NAME/VERSION, models:/NAME@ALIAS or a folder; "challenger" is the one of the active recipe.
        gates: the file that declares the gates.
        again: evaluate even if the version already has metrics on these prompts.
    """
    log = get_run_logger()
    try:
        with gpus_held(gpus_of_processes(), log.info, threading.Event()):
            found = measure(model, gates, again=again, line=lambda text: log.info("%s", text))
    except InputError as error:
        log.error("%s", error)
        return Failed(message=str(error))
    create_markdown_artifact(found.as_markdown(), key="verdict", description=found.line)
    return Completed(message=found.line)


def measure(model: str, gates: str, *, again: bool, line: Callable[[str], None]) -> Judgement:
    """The evaluation itself, without Prefect."""
    from juicer.registry.evaluate_version import evaluate
    from juicer.registry.versions import open_registry

    project = project_model()
    reference = f"models:/{project}@challenger" if model == "challenger" else model
    with open_registry(project_uri()) as registry, tempfile.TemporaryDirectory() as scratch:
        return evaluate(registry, reference, project, Path(scratch), line, gates=Path(gates), again=again)


def command(model: str, gates: str) -> None:
    """Evaluate as the flow does; without a Prefect server, in this process, and print the verdict."""
    if get_current_settings().api.url is None:
        print(measure(model, gates, again=True, line=print).as_markdown())
        return
    check_server()
    state = evaluate(model, gates, return_state=True)
    if not state.is_completed():
        raise InputError(state.message or state.type.value)
