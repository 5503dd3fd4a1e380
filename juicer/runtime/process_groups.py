"""Run a command in a process group that can be cancelled as a whole, including everything that it starts."""

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
"""Environment variable that marks a group: `<pid of the starting process>.<id>`. Stages end when it has ended."""
WARM = "JUICER_WARM"
"""Environment variable of a stage that was forked from a warm parent: the number of threads of its libraries."""


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
    """Run a command in a new session and pass its output, line by line, to `line` in the calling thread.

    However the wait ends (the command exits, `cancel` is set, or the calling thread gets an exception such as
    KeyboardInterrupt), no process of the group survives this call: running ones get SIGTERM, on which a stage saves a
    checkpoint; after `grace` seconds the remaining ones get SIGKILL.

    Args:
        line: called with each line of standard output and standard error, without its end.
        cancel: set it, from any thread, to end the group; the exit code is then not 0.
        grace: seconds from SIGTERM to SIGKILL.
        folder: working directory.
        environment: variables in addition to those of this process.

    Returns:
        The command's exit code, or the negative number of the signal that ended it.
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
            _forward(lines, line, wait=0.1)
    finally:
        _end(process, group, grace, lambda: _forward(lines, line, wait=0.1))
    reader.join(timeout=1)
    _forward(lines, line, wait=0)
    return process.returncode


def members(group: str) -> list[psutil.Process]:
    """Running processes of a group, recognised by their environment: new sessions and orphans are included."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(GROUP) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue  # it has ended, or belongs to another user
    return found


def _read(process: "subprocess.Popen[str]", lines: "queue.SimpleQueue[str]") -> None:
    assert process.stdout is not None
    with process.stdout as output:
        for text in output:
            lines.put(text.rstrip("\n"))


def _forward(lines: "queue.SimpleQueue[str]", line: Callable[[str], None], wait: float) -> None:
    """Pass on the lines printed so far; wait at most `wait` seconds for the first one."""
    try:
        while True:
            line(lines.get(timeout=wait) if wait else lines.get_nowait())
            wait = 0
    except queue.Empty:
        return


def _end(process: "subprocess.Popen[str]", group: str, grace: float, meanwhile: Callable[[], None]) -> None:
    """End all processes of a group, even if an exception interrupts the wait."""
    try:
        signalled = set[int]()
        deadline = time.monotonic() + grace
        while (running := members(group)) and time.monotonic() < deadline:
            for each in running:
                if each.pid not in signalled:
                    signalled.add(each.pid)
                    _signal(each, signal.SIGTERM)
            meanwhile()
    finally:
        while running := members(group):
            for each in running:
                _signal(each, signal.SIGKILL)
            time.sleep(0.02)
        process.kill()  # in case the command removed the mark from its environment
        process.wait()


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.Error:
        return  # it has ended
