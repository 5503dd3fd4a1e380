"""The flow `align`: bring a recipe's whole stage graph up to date, with one Prefect task per DVC stage.

python -m flows.align                                        # the active params.yaml
python -m flows.align --recipe quickstart irft.rounds=4      # another recipe, with changes
python -m flows.align --dry-run                              # only the plan
"""

import argparse
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated, Any

from prefect import State, flow, get_run_logger, runtime
from prefect.exceptions import TerminationSignal
from prefect.futures import PrefectFuture
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from pydantic import Field, WithJsonSchema

from flows.execute import run_stage, skip_stage
from flows.forecast import PlannedStage, plan
from flows.form import OVERRIDE, check_stages, named, recipe_schema, stage_schema
from flows.publish import Board, plan_table, publish_mlflow_links, publish_report
from flows.remote import check_machines, run_stage_remotely
from flows.server import check_server
from flows.workspace import (
    ACTIVE,
    PARAMS,
    activated,
    check_clean,
    discard_damage,
    order_of_lock,
    params_on_trial,
    prepare,
    put_back,
    recipes,
)
from juicer.recipe.rounds import DECIDES, advance, are_open
from juicer.running.capacity import AT_A_TIME, gpus_here
from juicer.running.commands import compute_of
from juicer.runtime.command import guarded
from juicer.runtime.errors import InputError
from juicer.stages.workspace import hold

THREADS: TaskRunner[PrefectFuture[Any]] = ThreadPoolTaskRunner(max_workers=64)  # type: ignore[assignment]
# Prefect shows and checks the schemas; on a command line the project's own checks speak.
Recipe = Annotated[str, WithJsonSchema(recipe_schema())]
Override = Annotated[str, WithJsonSchema({"type": "string", "pattern": OVERRIDE})]
Stage = Annotated[str, WithJsonSchema(stage_schema())]


@flow(name="align", flow_run_name=named("recipe", "overrides"), persist_result=False, task_runner=THREADS)
def align(
    recipe: Recipe = ACTIVE,
    overrides: list[Override] = [],  # noqa: B006 - Prefect shows it in a form; it is never mutated
    from_stage: Stage = "",
    until_stage: Stage = "",
    force: bool = False,
    at_a_time: Annotated[int, Field(ge=1)] | None = None,
    require_clean: bool = False,
    on_machines: bool = False,
) -> State[Any]:
    """Run the stages of a recipe that are not up to date, in dependency order, independent ones at the same time.

    Args:
        recipe: a file of recipes/ by its name; "active" takes params.yaml as it is.
        overrides: changes to the recipe, each `key=value` as in `irft.rounds=5`.
        from_stage: run only this stage and those that depend on it; a name as in dvc.yaml.
        until_stage: run only this stage and those that it depends on.
        force: run every stage, even if DVC has its result.
        at_a_time: how many stages may run at the same time; by default 2, or one for each GPU where there are more.
        require_clean: refuse to start if git sees uncommitted changes.
        on_machines: send stages to the workers of the pool "machines"; DVC's remote carries the data.
    """
    log, cancel = get_run_logger(), threading.Event()
    try:
        # Before this waits for its turn, and before anything is changed.
        params_on_trial(recipe, overrides)
        check_stages(from_stage, until_stage)
        # A run that waits for its turn in the UI is better than one that failed at night.
        with hold(wait=runtime.deployment.id is not None, say=log.info), ExitStack() as stack:
            put_back(log.info)  # what a run that was killed has left
            if require_clean:
                check_clean()
            commit = check_machines(force) if on_machines else None
            name = stack.enter_context(activated(recipe, overrides, log.info))
            prepare(log.info)
            discard_damage(log.info)
            many = at_a_time or max(AT_A_TIME, gpus_here(compute_of(Path(PARAMS))))

            def bring_up_to_date(planned: list[PlannedStage], options: list[str]) -> tuple[str | None, str]:
                """Run a plan; returns what failed, if anything, and how many stages ended how."""
                log.info("Plan:\n%s", plan_table(planned))
                board = Board(planned)
                try:
                    with order_of_lock([stage.name for stage in planned]):
                        return execute(planned, board, many, options, commit, cancel), board.line()
                finally:
                    board.close()

            # Not by force: what decides over the rounds is as good if it was made before, and runs again below.
            while not from_stage and are_open(PARAMS, until_stage):
                failed, _ = bring_up_to_date(plan(until_stage=DECIDES), [])
                if failed:
                    return Failed(message=failed)
                said = advance(PARAMS)
                if said is None:
                    break
                log.info("%s", said)
                if commit:
                    do = "commit params.yaml, which says so, and run this again"
                    raise InputError(f"{said}, and the other machines do not know", do=do)
            planned = plan(from_stage=from_stage, until_stage=until_stage, force=force)
            failed, line = bring_up_to_date(planned, ["--force"] if force else [])
            if failed:
                return Failed(message=failed)
            publish_report()
            publish_mlflow_links(name)
            return Completed(message=line)
    except InputError as error:
        log.error("%s", error)
        return Failed(message=str(error))
    except (KeyboardInterrupt, TerminationSignal):
        if runtime.deployment.id is not None:
            raise  # the worker that cancels the run writes down that it did
        return Cancelled(message="cancelled; running it again resumes")


def execute(
    planned: list[PlannedStage],
    board: Board,
    at_a_time: int,
    options: list[str],
    commit: str | None,
    cancel: threading.Event,
) -> str | None:
    """Submit each stage as soon as the stages that it needs have finished, in the plan's order.

    After a failure no new stage is started; running stages may finish.

    Args:
        options: for `dvc repro`.
        commit: what other machines are to check out; None if every stage is to run on this one.

    Returns:
        What failed, in words; None if nothing did.
    """
    waiting, failures = list(planned), list[str]()
    futures: dict[str, PrefectFuture[Any]] = {}
    running: dict[PrefectFuture[Any], str] = {}
    ended: SimpleQueue[PrefectFuture[Any]] = SimpleQueue()
    try:
        while running or waiting:
            for stage in list(waiting):
                ready = not any(need in running.values() or need not in futures for need in stage.needs)
                if ready and (stage.certain or len(running) < at_a_time):
                    after: dict[str, Any] = {"wait_for": [futures[need] for need in stage.needs]}
                    if stage.certain:
                        future = skip_stage.submit(stage.name, **after)
                    elif commit and stage.portable:
                        future = run_stage_remotely.submit(stage.name, commit, cancel, **after)
                    else:
                        future = run_stage.submit(stage.name, options, stage.gpus, cancel, **after)
                    waiting.remove(stage)
                    futures[stage.name], running[future] = future, stage.name
                    future.add_done_callback(ended.put)
            future = ended.get()
            future.wait()
            name = running.pop(future)
            board.note(name, (future.state.name or "").lower())
            if not future.state.is_completed():
                error = future.result(raise_on_failure=False)
                failures.append(str(error) if isinstance(error, Exception) else future.state.message or name)
                waiting.clear()
    finally:
        cancel.set()
        for future in running:
            future.wait()
    return "\n".join(failures) or None


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="change to the recipe: irft.rounds=5")
    parser.add_argument(
        "--recipe", default=ACTIVE, help=f"one of {', '.join([ACTIVE, *recipes()])}; default %(default)s"
    )
    parser.add_argument(
        "--from", dest="from_stage", default="", metavar="STAGE", help="only this stage and those that depend on it"
    )
    parser.add_argument(
        "--until", dest="until_stage", default="", metavar="STAGE", help="only this stage and those that it depends on"
    )
    parser.add_argument("--force", action="store_true", help="run every stage, even if DVC has its result")
    parser.add_argument(
        "--at-a-time",
        type=int,
        metavar="N",
        help="stages at the same time, default 2, or one for each GPU if there are more",
    )
    parser.add_argument("--require-clean", action="store_true", help="refuse to start if git sees uncommitted changes")
    parser.add_argument("--on-machines", action="store_true", help="send stages to the workers of the pool `machines`")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m flows.align", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments(parser)
    given = vars(parser.parse_args())
    dry_run, debug = given.pop("dry_run"), given.pop("debug")

    def work() -> None:
        if dry_run:
            params = params_on_trial(given["recipe"], given["overrides"])
            chosen = {key: given[key] for key in ("from_stage", "until_stage", "force")}
            print(plan_table(plan(**chosen, params=params)))
            return
        check_server()
        state = align(**given, return_state=True)
        if not state.is_completed():
            raise InputError(state.message or state.type.value, where="align")

    sys.exit(guarded(work, debug=debug, name="align"))


if __name__ == "__main__":
    main()
