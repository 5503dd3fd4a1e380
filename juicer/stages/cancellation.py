"""Cancellation of a stage: immediate, or after the next checkpoint where work would be lost, but at most LIMIT later.

A stage is cancelled by SIGTERM, by Ctrl-C, or by the end of the process that started it, because DVC does not end its
child process when it is ended itself.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import psutil

from juicer.runtime.errors import Cancelled, InputError
from juicer.runtime.process_groups import WARM
from juicer.stages.workspace import dvc_processes

LIMIT = 15.0
"""Seconds from the request to the end of the process, whether or not a checkpoint was saved."""
SECONDS_TO_WRITE = 2.0
"""How long DVC takes at most to write its list of files in use."""
SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh"}


class Cancellation:
    """Turns the first SIGTERM or SIGINT into `Cancelled`: immediately, or when a `held` block ends or calls `check`."""

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None
        self._held = 0

    def install(self) -> None:
        """Handle both signals, and start a thread that ends the process LIMIT seconds after the first one."""
        asked, told = os.pipe()
        os.set_blocking(told, False)
        # Handlers run in the main thread, which may be in a long operation; this pipe is written to immediately.
        signal.set_wakeup_fd(told, warn_on_full_buffer=False)
        threading.Thread(target=_end_later, args=(asked,), daemon=True).start()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Delay cancellation until the block ends or calls `check`.

        An error in the block after a request is attributed to the cancellation, because other processes end too.
        """
        self._held += 1
        try:
            yield
        except Exception as error:
            if self.requested is not None:
                raise Cancelled(self.requested) from error
            raise
        finally:
            self._held -= 1
        if not self._held:
            self.check()

    def check(self, saved: str = "") -> None:
        """Raise Cancelled if cancellation has been requested.

        Args:
            saved: what the user is told about the saved work.

        Raises:
            Cancelled: cancellation has been requested.
        """
        if self.requested is not None:
            raise Cancelled(self.requested, saved)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested is None:
            self.requested = signal.Signals(number)
            if not self._held:
                self.check()
        elif number == signal.SIGINT and self.requested == signal.SIGINT:
            raise Cancelled(self.requested)  # a second Ctrl-C does not wait even for a held block


def _end_later(asked: int) -> None:
    """End the process LIMIT seconds after the request, whatever it is doing; the next run removes its leftovers."""
    number = os.read(asked, 1)[0]
    time.sleep(LIMIT)
    print(
        f"error: no step finished within {LIMIT:.0f} s of cancellation; work since the last checkpoint is lost",
        file=sys.stderr,
        flush=True,
    )
    os._exit(128 + number)


def end_with(starters: list[psutil.Process], seconds: float = 0.2) -> None:
    """Send this process SIGTERM as soon as one of `starters` has ended; polls every `seconds`."""

    def watch() -> None:
        while all(_alive(process) for process in starters):
            time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGTERM)

    if starters:
        threading.Thread(target=watch, daemon=True).start()


def starters() -> list[psutil.Process]:
    """The processes with which a stage ends: DVC or accelerate, and the process that started the process group.

    A stage that was started by hand has none, so it may outlive its terminal.
    """
    found = []
    started = not {"DVC_STAGE", "LOCAL_RANK"}.isdisjoint(os.environ)
    if started and (parent := _process(os.getppid())) is not None:
        found.append(parent)
        # DVC runs commands in a shell, which most shells replace by the command, or in a fork of its warm parent.
        if (parent.name() in SHELLS or WARM in os.environ) and (above := parent.parent()) is not None:
            found.append(above)
    # In a container with process ids of its own, the owner is not visible and is ignored.
    owner = os.environ.get("JUICER_GROUP", "").partition(".")[0]
    if owner and (process := _process(int(owner))) is not None:
        found.append(process)
    return found


def check_started() -> None:
    """Check that the DVC that started this stage, if one did, is still there; call it after `end_with`.

    A stage takes seconds to start. If DVC is killed meanwhile, the stage's parent is another process already when it
    is asked for, and would never end. DVC records in .dvc/tmp/rwlock which process of its has a stage run. It writes
    that file in place, so where another stage begins or ends at this moment, the file may be read half written.

    Raises:
        InputError: DVC has ended.
    """
    if "DVC_STAGE" not in os.environ or "LOCAL_RANK" in os.environ:
        return
    deadline = time.monotonic() + SECONDS_TO_WRITE
    try:
        while dvc_processes().isdisjoint(process.pid for process in psutil.Process().parents()):
            if time.monotonic() > deadline:
                do = "nothing was done; run it again"
                raise InputError("the DVC that started this stage has ended", where=os.environ["DVC_STAGE"], do=do)
            time.sleep(0.05)
    except FileNotFoundError:
        return  # not started by DVC itself


def _process(number: int) -> psutil.Process | None:
    try:
        return psutil.Process(number)
    except psutil.Error:
        return None


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
