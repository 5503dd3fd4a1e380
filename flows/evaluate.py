"""The flow `evaluate`: measure a registered version, or any folder, and hold it against the champion.

python -m flows.evaluate models:/quickstart@challenger
python -m flows.evaluate models:/quickstart/7
python -m flows.evaluate path/to/a/model
"""

import argparse
import sys
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
from flows.server import check_server
from juicer.registry.evaluate_version import Judgement
from juicer.registry.promote import GATES
from juicer.registry.store import project_model, project_uri
from juicer.runtime.command import guarded
from juicer.runtime.errors import InputError


@flow(name="evaluate", flow_run_name="{model}", persist_result=False)
def evaluate(model: str = "challenger", gates: str = str(GATES), again: bool = True) -> State[Any]:
    """Evaluate a model on this project's prompts, note the figures on its version, publish a verdict.

    Args:
        model: models:/NAME/VERSION, models:/NAME@ALIAS or a folder; "challenger" is the one of the active recipe.
        gates: the file that declares the gates.
        again: evaluate even where the version has figures of these very prompts.
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
    """Do it, without Prefect."""
    from juicer.registry.evaluate_version import evaluate
    from juicer.registry.versions import open_registry

    project = project_model()
    reference = f"models:/{project}@challenger" if model == "challenger" else model
    with open_registry(project_uri()) as registry, tempfile.TemporaryDirectory() as scratch:
        return evaluate(registry, reference, project, Path(scratch), line, gates=Path(gates), again=again)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m flows.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "model", nargs="?", default="challenger", help="models:/NAME/VERSION, models:/NAME@ALIAS or a folder"
    )
    parser.add_argument("--gates", default=str(GATES), help="file that declares the gates, default %(default)s")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    given = parser.parse_args()

    def work() -> None:
        if get_current_settings().api.url is None:
            print(measure(given.model, given.gates, again=True, line=print).as_markdown())
            return
        check_server()
        state = evaluate(given.model, given.gates, return_state=True)
        if not state.is_completed():
            raise InputError(state.message or state.type.value)

    sys.exit(guarded(work, debug=given.debug, name="evaluate"))


if __name__ == "__main__":
    main()
