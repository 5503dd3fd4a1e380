"""Lets a run in MLflow grow while its stage runs, at next to no cost: a helper (registry/tracker.py) writes it.

The helper is started when the stage has lasted a while, and reads from a pipe what the stage says. Whatever becomes of
it or of MLflow, the stage goes on; what a run lacks, `register` adds.
"""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from juicer.runtime.events import observed_by

SECONDS = 60.0
"""A shorter stage is recorded by `register` only. Where a server is named the run opens at once, unless
JUICER_LIVE_SECONDS says another number."""
PATIENCE = 5.0
"""Seconds that a stage waits at its end for the helper to write it down."""


class Live:
    """What a stage is at, for the helper. A watcher in the sense of juicer/runtime/events.py."""

    def __init__(self, stage: str, recorded: bool) -> None:
        """Follow `stage`, if it is `recorded` as a run."""
        self._stage = stage
        # Only what DVC runs has an output that `register` will know the run by.
        self._wanted = recorded and "DVC_STAGE" in os.environ
        self._said: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.part = ""
        """Name of the piece of work that is being done; empty where there is but one."""

    @contextmanager
    def following(self) -> Iterator[None]:
        """Tell of the work in the block, and how it ended."""
        if not self._wanted:
            yield
            return
        self._thread.start()
        try:
            with observed_by(self):
                yield
        except KeyboardInterrupt:
            self._end("KILLED")
            raise
        except BaseException as error:
            self._end("FAILED", str(error)[:1000])
            raise
        self._end("FINISHED")

    def point(self, step: int, values: dict[str, float]) -> None:
        """One point of each named curve."""
        self._say(step=step, curves=values)

    def tokens(self, count: float) -> None:
        """So many response tokens since the last call."""
        self._say(tokens=count)

    def progress(self, done: int, total: int) -> None:
        """So much of the current piece of work is done."""
        self._say(done=done, total=total)

    def _say(self, **message: Any) -> None:
        if self._thread.is_alive():
            self._said.put({**message, "part": self.part, "at": time.time()})

    def _end(self, status: str, why: str = "") -> None:
        self._say(status=status, why=why)
        self._said.put(None)
        self._over.set()
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        default = 0.0 if os.environ.get("MLFLOW_TRACKING_URI") else SECONDS
        if self._over.wait(float(os.environ.get("JUICER_LIVE_SECONDS", default))):
            return
        # Of several processes, the one that started them has them all below it.
        process = os.getppid() if "LOCAL_RANK" in os.environ else os.getpid()
        command = [sys.executable, "-m", "juicer.registry.tracker", "--stage", self._stage, "--process", str(process)]
        try:
            # In a session of its own: Ctrl-C is for the stage, whose end the helper has to live to see.
            helper = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
            )
            assert helper.stdin is not None
            with helper.stdin as pipe:
                for message in iter(self._said.get, None):
                    pipe.write(f"{json.dumps(message)}\n")
                    pipe.flush()
            helper.wait()
        except OSError:
            return  # it gave up, and has said why
