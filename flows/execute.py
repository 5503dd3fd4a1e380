"""One stage as one Prefect task: `dvc repro --single-item` in a process group of its own, its output in the log.

DVC is run by juicer/running, which writes dvc.lock by the entry.
"""

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import httpx
from prefect import State, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Completed
from prefect.tasks import exponential_backoff

from flows.forecast import repair_locks
from juicer.runtime.errors import InputError
from juicer.runtime.process_groups import run_in_group, stage_environment

Result = Literal["unchanged", "restored", "ran"]
LAST_LINES = 15
GPU = "gpu"
"""Global concurrency limit whose slots are GPUs; `prefect gcl` sets their number."""
DRIVER = Path("/dev/nvidiactl")
"""Exists where the machine or container has a GPU; asking torch takes seconds."""
GPU_ASKED_EVERY = 3.0
"""Seconds between two attempts to get a slot; a cancelled run stops waiting at once."""
MARKS: dict[str, Result] = {"didn't change, skipping": "unchanged", "is cached - skipping run": "restored"}
INFRASTRUCTURE = (
    "Unable to acquire lock",
    "it is being blocked by",
    "exited with -9",
    "exited with 137",
    "Connection refused",
    "Connection reset",
    "Temporary failure in name resolution",
    "No space left on device",
)
"""What DVC prints when the machine failed rather than the stage, so that a retry may succeed."""


class StageFailed(Exception):
    """A stage failed with its own error; a retry would fail again."""

    def __init__(self, stage: str, code: int, last: Sequence[str]) -> None:
        self.stage = stage
        super().__init__(f"{stage} failed (exit code {code}); its last lines:\n" + "\n".join(last))


class InfrastructureFailed(StageFailed):
    """A stage could not start, or was killed from outside."""


class Stopped(Exception):
    """The run was cancelled while the stage was running."""


def dvc(arguments: Sequence[str], line: Callable[[str], None], cancel: threading.Event) -> None:
    """Run a DVC command and pass on its output line by line.

    Raises:
        StageFailed: the stage failed.
        InfrastructureFailed: the machine failed; a retry may succeed.
        Stopped: `cancel` was set, and all its processes have ended.
    """
    last: deque[str] = deque(maxlen=LAST_LINES)

    def read(text: str) -> None:
        if text.strip():
            last.append(text)
            line(text)

    command = [sys.executable, "-m", "juicer.running", "--wait-for-lock", *arguments]
    code = run_in_group(command, read, cancel=cancel, environment=stage_environment())
    if code != 0:
        with suppress(InputError):  # the failure itself is reported below
            repair_locks()
    if cancel.is_set():
        raise Stopped(arguments[-1])
    if code != 0:
        outside = code < 0 or any(sign in text for text in last for sign in INFRASTRUCTURE)
        raise (InfrastructureFailed if outside else StageFailed)(arguments[-1], code, last)


def repro(
    stage: str, *options: str, line: Callable[[str], None], cancel: threading.Event, only_restore: bool = False
) -> Result:
    """Bring a single stage up to date. Raises as `dvc` does.

    Args:
        only_restore: fail rather than run the stage here if DVC's cache and remote do not have its result.
    """
    result: Result = "ran"
    runs_here = threading.Event() if only_restore else cancel

    def read(text: str) -> None:
        nonlocal result
        line(text)
        if text.startswith(f"Stage '{stage}'"):
            result = next((found for mark, found in MARKS.items() if mark in text), result)
        if only_restore and (cancel.is_set() or text.startswith("Running stage")):
            runs_here.set()

    try:
        dvc(["repro", "--single-item", *options, stage], read, runs_here)
    except Stopped:
        if cancel.is_set():
            raise
        raise InfrastructureFailed(stage, 1, ["DVC's remote does not have its result"]) from None
    return result


@contextmanager
def gpus_held(wanted: int, line: Callable[[str], None], cancel: threading.Event) -> Iterator[None]:
    """Hold slots of the GPU limit on a machine with GPUs; waits until enough are free.

    If more are wanted than the limit has, all of its slots suffice, because it may count machines.

    Raises:
        Stopped: `cancel` was set while waiting.
    """
    with ExitStack() as held:
        told = False
        while wanted and DRIVER.exists() and not _entered(held, wanted):
            if not told:
                line(f"waiting for a GPU: the limit {GPU!r} has no free slot (see: prefect gcl inspect {GPU})")
            told = True
            if cancel.wait(GPU_ASKED_EVERY):
                raise Stopped(GPU)
        yield


def _entered(held: ExitStack, wanted: int) -> bool:
    """Whether slots were free and are now held until the stack closes; true on a server without the limit."""
    with get_client(sync_client=True) as client:
        try:
            limit = client.read_global_concurrency_limit_by_name(GPU)
        except ObjectNotFound:
            return True
    units = min(wanted, limit.limit)
    if units == 0:
        return not limit.active
    try:
        # Without Prefect's own retries, which a cancelled run could not interrupt.
        held.enter_context(concurrency(GPU, occupy=units, max_retries=0))
    except ConcurrencySlotAcquisitionError as error:
        cause = error.__cause__
        if isinstance(cause, httpx.HTTPStatusError) and cause.response.status_code == httpx.codes.LOCKED:
            return False
        raise cause or error from None  # a lost connection is worth a retry
    return True


def is_infrastructure(task: Any, run: Any, state: State[Any]) -> bool:
    """Whether a failed task is worth a retry."""
    return isinstance(state.result(raise_on_failure=False), InfrastructureFailed | httpx.HTTPError)


TASK: dict[str, Any] = {
    "task_run_name": "{name}",
    "cache_policy": NO_CACHE,  # DVC is the only cache
    "persist_result": False,
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(backoff_factor=5),
    "retry_condition_fn": is_infrastructure,
}
"""Options of every stage's task."""


def completed_as(result: Result) -> State[Result]:
    """The result of a stage as a Prefect state of that name."""
    return Completed(name=result.capitalize(), message=result, data=result)


@task(**TASK)
def run_stage(name: str, options: Sequence[str], gpus: int, cancel: threading.Event) -> State[Any]:
    """Bring a stage up to date on this machine."""
    try:
        line = get_run_logger().info
        with gpus_held(gpus, line, cancel):
            return completed_as(repro(name, *options, line=line, cancel=cancel))
    except Stopped:
        return Cancelled(message="cancelled; all its processes have ended")


@task(**TASK)
def skip_stage(name: str) -> State[Any]:
    """Show a stage that is unchanged, as is everything upstream of it."""
    return completed_as("unchanged")
