"""Stages on other machines: DVC's remote transfers the data, a Prefect work pool the work.

The flow `stage` runs in the worker's own checkout: it checks out the commit, pulls the inputs, runs the stage and
pushes its outputs and DVC's run cache. `send` is the other end.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import State, flow, get_run_logger, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import WorkerFilter, WorkerFilterStatus
from prefect.client.schemas.objects import WorkerStatus
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Cancelling, Completed, Failed

from flows.execute import TASK, InfrastructureFailed, Result, StageFailed, Stopped, completed_as, dvc, gpus_held, repro
from flows.forecast import PlannedStage, plan, reading
from flows.workspace import LOCK, PARAMS, check_clean, last_user
from juicer.runtime.errors import InputError
from juicer.runtime.files import read_yaml
from juicer.stages.dvc_files import DvcLock
from juicer.stages.git import commit_of, git, head
from juicer.stages.workspace import hold

POOL = "machines"
DEPLOYMENT = "stage/stage"
AWAITING_WORKER = "AwaitingWorker"
"""Name of the state that flows/automations.yaml gives to a run that no worker has taken."""
LOOKING = threading.Lock()
"""Stages are sent from several threads, of which one at a time reads the plan."""
CARRIED = (str(PARAMS), str(LOCK))
"""Files that are sent with the work; everything else comes from the commit."""


@flow(name="stage", flow_run_name="{stage}", persist_result=False)
def stage(stage: str, commit: str, params: str, lock: str, sender: str, gpus: int = 0) -> State[Any]:
    """Run one stage for an `align` on another machine. Started by `align`, not by hand.

    Args:
        stage: name as in dvc.yaml.
        commit: the commit to check out.
        params: text of params.yaml.
        lock: text of a dvc.lock with the stages that make the inputs.
        sender: flows.workspace.last_user in the checkout of the `align` that waits for the stage.
        gpus: number of GPUs that the stage uses on a machine with GPUs.
    """
    log, never = get_run_logger(), threading.Event()
    try:
        if last_user() == sender:  # it holds the folder until the stage is done
            do = "start the worker in its own clone, with JUICER_CHECKOUT set to that"
            raise InputError("this worker runs in the checkout that sent the stage", where=str(Path.cwd()), do=do)
        with hold(wait=True, say=log.info):
            check_clean(except_for=CARRIED)
            check_out(commit)
            PARAMS.write_text(params, encoding="utf-8")
            LOCK.write_text(lock, encoding="utf-8")
            inputs = list(read_yaml(LOCK)["stages"])
            if inputs:
                dvc(["pull", *inputs], log.info, never)
            with gpus_held(gpus, log.info, never):
                result = repro(stage, line=log.info, cancel=never)
            dvc(["push", "--run-cache", stage], log.info, never)
            return Completed(name=result.capitalize(), message=result)
    except (InputError, StageFailed) as error:
        log.error("%s", error)
        return Failed(message=str(error))


def check_out(commit: str) -> None:
    """Check out a commit; fetches it if it is missing."""
    if head() == commit:
        return
    for path in CARRIED:
        Path(path).unlink(missing_ok=True)
    if commit_of(commit) is None:
        git("fetch", "-q", "--all")
    git("checkout", "-q", "--detach", "--force", commit)


def check_machines(force: bool) -> str:
    """The commit that other machines are to check out; raises InputError if no work can be sent, with the reason."""
    if force:
        raise InputError("forced stages run on this machine only", do="leave out either force or on_machines")
    check_clean(except_for=CARRIED)
    with reading() as repo:
        if not repo.config["core"].get("remote"):
            raise InputError(
                "there is no DVC remote to transfer the data", where=".dvc/config", do="dvc remote add -d NAME URL"
            )
    with get_client(sync_client=True) as client:
        online = WorkerFilter(status=WorkerFilterStatus(any_=[WorkerStatus.ONLINE]))
        try:
            workers = client.read_workers_for_work_pool(POOL, worker_filter=online)
        except ObjectNotFound as error:
            raise InputError(f"the server has no work pool {POOL!r}", do="python -m flows.setup") from error
    if not workers:
        do = f"on each machine, in its checkout: JUICER_CHECKOUT=$PWD prefect worker start --pool {POOL} --limit 1"
        raise InputError(f"no worker is polling the work pool {POOL!r}", do=do)
    return git("rev-parse", "HEAD")


@task(**TASK)
def run_stage_remotely(name: str, commit: str, cancel: threading.Event) -> State[Any]:
    """Run a stage on another machine, unless its result is here already."""
    line = get_run_logger().info
    try:
        with LOOKING:
            planned = next(each for each in plan() if each.name == name)
        if planned.forecast == "will run":
            return completed_as(send(planned, commit, line, cancel))
        return completed_as(repro(name, line=line, cancel=cancel))
    except Stopped:
        return Cancelled(message="cancelled; all its processes have ended")


def send(stage: PlannedStage, commit: str, line: Callable[[str], None], cancel: threading.Event) -> Result:
    """Run a stage on another machine, then restore it here from DVC's remote. Raises as flows.execute.dvc does."""
    if stage.inputs_from:
        dvc(["push", *stage.inputs_from], line, cancel)
    parameters = {
        "stage": stage.name,
        "commit": commit,
        "params": PARAMS.read_text(encoding="utf-8"),
        "lock": DvcLock.read_beside_dvc().part(list(stage.inputs_from)),
        "sender": last_user(),
        "gpus": stage.gpus,
    }
    # As a subflow it would appear as a second task run of the stage.
    run: Any = run_deployment(DEPLOYMENT, parameters=parameters, timeout=0, as_subflow=False)
    line(f"sent to the work pool {POOL!r} as flow run {run.name}")
    state = _final_state(run.id, line, cancel)
    if not state.is_completed():
        failure = InfrastructureFailed if state.is_crashed() else StageFailed
        raise failure(stage.name, 1, [state.message or state.type.value])
    repro(stage.name, "--pull", line=line, cancel=cancel, only_restore=True)
    return "ran"


def _final_state(run: UUID, line: Callable[[str], None], cancel: threading.Event) -> State[Any]:
    """The final state of a flow run; reports if no worker takes it, and cancels it if this run is cancelled."""
    before = None
    with get_client(sync_client=True) as client:
        while True:
            state = client.read_flow_run(run).state
            if state is not None and state.is_final():
                return state
            if state is not None and state.name == AWAITING_WORKER != before:
                line(f"work pool {POOL!r}: {state.message}")
            before = state.name if state is not None else None
            if cancel.is_set():
                client.set_flow_run_state(run, Cancelling(message="the run that sent it was cancelled"))
                raise Stopped(str(run))
            time.sleep(1)
