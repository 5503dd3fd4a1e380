"""How a stage ends when it is told to: at once, or where it holds work, when that is saved. Never later than LIMIT.

It is told by SIGTERM, by Ctrl-C, or by the end of what it was started for: DVC leaves its child alone when it is ended.
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

from juicer.runtime.errors import Cancelled

LIMIT = 15.0
"""Seconds from the request to the end, saved or not."""
SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh"}


class Cancellation:
    """Turns the first SIGTERM or SIGINT into `Cancelled`: at once, or at the end of what is held."""

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None
        self._held = 0

    def install(self) -> None:
        """Take over the two signals, and have the run over LIMIT seconds after the first of them."""
        asked, told = os.pipe()
        os.set_blocking(told, False)
        # Handlers wait for the main thread, which may be deep in a long operation; this pipe is written to at once.
        signal.set_wakeup_fd(told, warn_on_full_buffer=False)
        threading.Thread(target=_end_later, args=(asked,), daemon=True).start()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let the block come to its own end, or to its next `check`, before the run does.

        What fails in it after the request fails because others have been told to end too.
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
        """End here if it was asked for.

        Raises:
            Cancelled: with `saved`, what the user is told about the work.
        """
        if self.requested is not None:
            raise Cancelled(self.requested, saved)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested is None:
            self.requested = signal.Signals(number)
            if not self._held:
                self.check()
        elif number == signal.SIGINT and self.requested == signal.SIGINT:
            raise Cancelled(self.requested)  # asked twice: not even what is held is waited for


def _end_later(asked: int) -> None:
    """End the process LIMIT seconds after it was asked to, whatever it does then; the next run clears what is left."""
    number = os.read(asked, 1)[0]
    time.sleep(LIMIT)
    print(
        f"error: no step ended within {LIMIT:.0f} s; work since the last checkpoint is lost",
        file=sys.stderr,
        flush=True,
    )
    os._exit(128 + number)


def end_with(starters: list[psutil.Process], seconds: float = 0.2) -> None:
    """Tell this process to end as soon as one of `starters` has; looks every `seconds`."""

    def watch() -> None:
        while all(_alive(process) for process in starters):
            time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGTERM)

    if starters:
        threading.Thread(target=watch, daemon=True).start()


def starters() -> list[psutil.Process]:
    """The processes without which a stage has no purpose: DVC or accelerate, and who started the tree it belongs to.

    A stage that was started by hand has none: it may outlive its terminal.
    """
    found = []
    started = not {"DVC_STAGE", "LOCAL_RANK"}.isdisjoint(os.environ)
    if started and (parent := _process(os.getppid())) is not None:
        found.append(parent)
        if parent.name() in SHELLS and (above := parent.parent()) is not None:
            found.append(above)  # DVC runs commands by a shell, which most shells give their place up for
    # In a container that was not given the process ids of its host the owner cannot be seen, and is not waited for.
    owner = os.environ.get("JUICER_GROUP", "").partition(".")[0]
    if owner and (process := _process(int(owner))) is not None:
        found.append(process)
    return found


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
