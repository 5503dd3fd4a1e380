"""Running a command and all that it starts as one tree that can be cancelled: nothing of it is left behind."""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

GROUP = "JUICER_GROUP"
"""Environment variable that marks a tree: `<pid of who started it>.<id>`. Stages end when that process is gone."""


def stage_environment() -> dict[str, str]:
    """Variables for DVC and its stages beside those of this process: this Python first on PATH, and unbuffered output.

    Stages are run as `python -m tasks.NAME`, which has to be the Python of the project whether or not its virtual
    environment is activated.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {"PATH": path, "PYTHONUNBUFFERED": "1"}


def run_in_group(
    command: Sequence[str],
    line: Callable[[str], None],
    *,
    cancel: threading.Event | None = None,
    grace: float = 17.0,
    folder: Path | None = None,
    environment: dict[str, str] | None = None,
) -> int:
    """Run a command in a session of its own and hand on its output, line by line, in the calling thread.

    Whatever ends the wait (the command itself, `cancel`, or an exception in the calling thread such as
    KeyboardInterrupt), no process of the tree is left when this returns: those that run get SIGTERM, on which a stage
    checkpoints; after `grace` seconds the rest gets SIGKILL.

    Args:
        line: called with each line of standard output and standard error, without its end.
        cancel: set it, from any thread, to end the tree. The caller knows that it did; the exit code is not 0 then.
        grace: seconds from SIGTERM to SIGKILL.
        folder: working directory.
        environment: variables beside those of this process.

    Returns:
        The command's exit code; minus the number of the signal that ended it, if one did.
    """
    group = f"{os.getpid()}.{uuid.uuid4().hex}"
    process = subprocess.Popen(
        list(command),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        start_new_session=True,
        cwd=folder,
        env={**os.environ, **(environment or {}), GROUP: group},
    )
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(process, lines), daemon=True)
    reader.start()
    try:
        while process.poll() is None and not (cancel is not None and cancel.is_set()):
            _hand_on(lines, line, wait=0.1)
    finally:
        _end(process, group, grace, lambda: _hand_on(lines, line, wait=0.1))
    reader.join(timeout=1)
    _hand_on(lines, line, wait=0)
    return process.returncode


def members(group: str) -> list[psutil.Process]:
    """Living processes of a tree, told by their environment: new sessions and orphans included."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(GROUP) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue  # gone in the meantime, or somebody else's
    return found


def _read(process: "subprocess.Popen[str]", lines: "queue.SimpleQueue[str]") -> None:
    assert process.stdout is not None
    with process.stdout as output:
        for text in output:
            lines.put(text.rstrip("\n"))


def _hand_on(lines: "queue.SimpleQueue[str]", line: Callable[[str], None], wait: float) -> None:
    """Hand on what has been printed; waits at most `wait` seconds for the first line."""
    try:
        while True:
            line(lines.get(timeout=wait) if wait else lines.get_nowait())
            wait = 0
    except queue.Empty:
        return


def _end(process: "subprocess.Popen[str]", group: str, grace: float, meanwhile: Callable[[], None]) -> None:
    """End what still runs of a tree; whatever happens here, nothing of it survives."""
    try:
        asked = set[int]()
        deadline = time.monotonic() + grace
        while (running := members(group)) and time.monotonic() < deadline:
            for each in running:
                if each.pid not in asked:
                    asked.add(each.pid)
                    _signal(each, signal.SIGTERM)
            meanwhile()
    finally:
        while running := members(group):
            for each in running:
                _signal(each, signal.SIGKILL)
            time.sleep(0.02)
        process.kill()  # for a command that took the mark out of its own environment; else it is gone already
        process.wait()


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.Error:
        return  # it ended by itself
