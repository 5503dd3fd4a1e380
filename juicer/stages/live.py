"""Shows a stage while it runs, at almost no cost: in MLflow, where a helper process (registry/tracker.py) writes the
run, and by a file that says how far it is, which `juicer run` shows.

The helper is started when the stage has run for a while, and reads the stage's messages from a pipe. If the helper or
MLflow fails, the stage continues, and `register` adds later what is missing in the run.
"""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from juicer.stages.reading import Reading

SECONDS = 60.0
"""Seconds before the helper is started; a shorter stage is recorded by `register` only. It is 0 if MLFLOW_TRACKING_URI
names a server. The environment variable JUICER_LIVE_SECONDS overrides both."""
PATIENCE = 5.0
"""Seconds that a stage waits at its end for the helper to finish writing."""
PROGRESS = "JUICER_PROGRESS"
"""Environment variable with the path of the file to which a stage writes how far it is. Without it none is written."""
BETWEEN = 0.5
"""Seconds between two writes of it."""


class Done(NamedTuple):
    """How far a stage is in its current piece of work."""

    done: int
    total: int
    part: str = ""
    """Name of the piece of work; empty if the stage has only one."""

    def __str__(self) -> str:
        """For example "120 of 350", or "base: 120 of 350"."""
        return f"{self.part}{': ' if self.part else ''}{self.done:,} of {self.total:,}"


def read_done(path: Path) -> Done | None:
    """What a stage has written of how far it is; None if it has not, or is writing."""
    with suppress(OSError, ValueError, TypeError):
        done, total, part = json.loads(path.read_text(encoding="utf-8"))
        return Done(int(done), int(total), str(part))
    return None


class Live:
    """What a stage is at, for the helper. An `Observer` (juicer/runtime/context.py)."""

    def __init__(self, recorded: bool) -> None:
        """Follow a stage, if it is `recorded` as a run."""
        self._recorded = recorded
        self.reading: Reading | None = None
        """What the stage has read, if DVC runs it: only then has it an output by which `register` finds the run."""
        self._said: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.part = ""
        """Name of the current piece of work; empty if the stage has only one."""
        # Of several processes, one speaks for all.
        self._progress = os.environ.get(PROGRESS) if os.environ.get("RANK", "0") == "0" else None
        self._written = 0.0

    @contextmanager
    def following(self) -> Iterator[None]:
        """Report the work in the block, and how it ended."""
        if not self._recorded or self.reading is None:
            yield
            return
        self._thread.start()
        try:
            yield
        except KeyboardInterrupt:
            self._end("KILLED")
            raise
        except BaseException as error:
            self._end("FAILED", str(error)[:1000])
            raise
        self._end("FINISHED")

    def on_metrics(self, step: int, values: dict[str, float]) -> None:
        """Receive one point of each named curve."""
        self._say(step=step, curves=values)

    def on_tokens(self, count: float) -> None:
        """Receive the number of response tokens since the last call."""
        self._say(tokens=count)

    def progress(self, done: int, total: int) -> None:
        """Report how much of the current piece of work is done."""
        self._say(done=done, total=total)
        now = time.monotonic()
        if self._progress is not None and (now - self._written >= BETWEEN or done >= total):
            self._written = now
            with suppress(OSError):  # a full disk is an error of the stage, not of what it says
                Path(self._progress).write_text(json.dumps([done, total, self.part]), encoding="utf-8")

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
        # The launcher is the parent of all processes, if there are several.
        process = os.getppid() if "LOCAL_RANK" in os.environ else os.getpid()
        command = [sys.executable, "-m", "juicer.registry.tracker", "--process", str(process)]
        assert self.reading is not None
        try:
            # In a session of its own, so that Ctrl-C ends the stage and the helper can record its end.
            helper = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
            )
            assert helper.stdin is not None
            with helper.stdin as pipe:
                pipe.write(f"{self.reading.model_dump_json()}\n")
                for message in iter(self._said.get, None):
                    pipe.write(f"{json.dumps(message)}\n")
                    pipe.flush()
            helper.wait()
        except OSError:
            return  # the helper has ended, after reporting the reason
