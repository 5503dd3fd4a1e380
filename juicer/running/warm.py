"""Stages started by a fork of a process that has imported the libraries: a tenth of a second instead of three.

Only where that gives what an ordinary process gives: on Linux, on CPUs (a process that has touched CUDA cannot be
forked), and for stages of one process. Wherever the parent cannot do it, the caller starts an ordinary process.
"""

import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from juicer.runtime.process_groups import WARM
from juicer.settings.compute import ComputeSettings

ROOM_FOR_TITLE = 4096
"""Bytes for the command line of a stage."""
DRIVER = Path("/dev/nvidiactl")


class Lost(Exception):
    """The parent ended before it could tell how the stage ended. The stage has ended."""


def possible(compute: ComputeSettings) -> bool:
    """Whether stages of a recipe can be forked here."""
    on_cpu = compute.device == "cpu" or not DRIVER.exists()
    one = compute.processes == 1 and compute.zero_stage == 0
    return sys.platform == "linux" and hasattr(os, "pidfd_open") and on_cpu and one


class WarmParent:
    """A process that has the libraries, started with the first stage that needs it. Its methods may be called from
    several threads."""

    def __init__(self, compute: ComputeSettings, folder: Path) -> None:
        self.compute, self._folder = compute, folder
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None

    @property
    def started(self) -> bool:
        """Whether it was started, and has not ended since."""
        return self._process is not None and self._process.poll() is None

    def run(
        self,
        module: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        begun: Callable[[int], object] = lambda process: None,
        *,
        folder: Path | None = None,
        output: tuple[int, int] | None = None,
    ) -> int:
        """Run `python -m MODULE ARGUMENTS` in a fork, and wait for it.

        Args:
            environment: all of its environment variables.
            begun: called with its process id.
            folder: working directory, in place of the parent's.
            output: file descriptors for its standard output and standard error, in place of the parent's.

        Returns:
            Its exit code, or the negative number of the signal that ended it.

        Raises:
            OSError: the parent cannot be started, or has ended; nothing has run.
            Lost: the parent ended meanwhile.
        """
        request = {
            "module": module,
            "arguments": list(arguments),
            "folder": str((folder or self._folder).absolute()),
            "environment": {**environment, WARM: str(self.compute.threads)},
        }
        ours, theirs = socket.socketpair()
        with ours, ours.makefile("r", encoding="utf-8") as answers:
            with theirs, self._lock:
                requests = self._requests or self._start()
                socket.send_fds(requests, [json.dumps(request).encode()], [theirs.fileno(), *(output or ())])
            if not (line := answers.readline()):
                raise ConnectionResetError("it has ended")
            process = int(line)
            begun(process)
            with _watched(process) as end:
                if line := answers.readline():
                    return int(line)
                if end is not None:
                    select.select([end], [], [])
            raise Lost

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            words = ["-m", "juicer.running.warm_parent", str(theirs.fileno()), str(self.compute.threads)]
            self._process = subprocess.Popen(
                [sys.executable, *words, self.compute.device, "." * ROOM_FOR_TITLE],
                cwd=self._folder,
                pass_fds=[theirs.fileno()],
            )
        self._requests = ours
        return ours

    def close(self) -> None:
        """End it; no stage may run any more."""
        if self._requests is not None:
            self._requests.close()
        if self._process is not None:
            self._process.kill()  # it may be in the middle of an import
            self._process.wait()


@contextmanager
def _watched(process: int) -> Iterator[int | None]:
    """A file descriptor that is ready to be read when a process has ended; None if it has."""
    try:
        end = os.pidfd_open(process)
    except ProcessLookupError:
        yield None
        return
    try:
        yield end
    finally:
        os.close(end)
