"""The command of a stage, run as DVC runs it, or by a fork of the warm parent where that gives the same."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

from juicer.running import warm
from juicer.running.capacity import Room
from juicer.runtime.command import print_line
from juicer.runtime.errors import InputError
from juicer.runtime.files import read_yaml
from juicer.settings.compute import ComputeSettings

PLAIN = re.compile(r"[\w@%+=:,./ -]+")
"""A command that a shell does not change."""
PARAMS = Path("params.yaml")
COLD = {"tasks.leaderboard"}
"""Stages that set variables which libraries read when they are imported."""


class Commands:
    """Runs the commands of stages, several at a time."""

    def __init__(
        self,
        room: Room,
        at_a_time: int,
        parent: warm.WarmParent | None,
        say: Callable[[str], object] = print_line,
    ) -> None:
        """Run commands, and tell `room` of their processes. Without a parent all are ordinary processes."""
        self._room, self._parent, self._say = room, parent, say
        self._places, self._several = set(range(at_a_time)), at_a_time > 1 and sys.stderr.isatty()
        self._stopping = threading.Event()
        self._last: tuple[bytes, ComputeSettings] | None = None

    def run(
        self,
        stage: str,
        heavy: bool,
        command: str,
        words: Sequence[str] | str,
        given: Mapping[str, Any],
        output: tuple[IO[bytes], Mapping[str, str]] | None = None,
    ) -> int:
        """Run a stage's command and return its exit code, negative for a signal.

        Args:
            heavy: whether it needs the libraries, so that it is worth to start the warm parent.
            command: as dvc.yaml has it.
            words: the same with the shell that DVC runs it in.
            given: the options for `subprocess.Popen`, with the environment.
            output: the file for its output, and more variables for its environment; None prints where this process
                does.
        """
        if self._stopping.is_set():
            return -signal.SIGTERM
        file, variables = (None, {}) if output is None else output
        # Both streams in one file, which is in the order in which they were written.
        both = {} if file is None else {"stdout": file, "stderr": file}
        files = None if file is None else (file.fileno(), file.fileno())
        with self._place(stage, {**given["env"], **variables}) as environment:
            module = module_of(command, environment)
            parent = self._warm(heavy) if module is not None else None
            if module is not None and parent is not None:
                try:
                    began = partial(self._began, stage)
                    return parent.run(module[0], module[1:], environment, began, output=files)
                except (warm.Lost, OSError) as error:
                    self._parent = None
                    if self._stopping.is_set():
                        return -signal.SIGTERM
                    again = "again " if isinstance(error, warm.Lost) else ""
                    self._say(f"{stage}: started {again}without the warm parent, which has ended")
            process = subprocess.Popen(words, **{**given, **both, "env": environment})
            self._began(stage, process.pid)
            process.communicate()
            return process.returncode

    def stop(self, number: signal.Signals) -> None:
        """Tell all commands to end, on a signal; Ctrl-C reaches them from the terminal."""
        self._stopping.set()
        if number == signal.SIGINT:
            return
        with self._room.lock:
            running = list(self._room.processes.values())
        for process in running:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)

    def _warm(self, heavy: bool) -> warm.WarmParent | None:
        """The parent to fork a stage from, if there is one that has set what params.yaml asks for now."""
        parent = self._parent
        if parent is not None and (heavy or parent.started):
            with suppress(InputError):  # the stage itself reports what is wrong
                return parent if self._compute() == parent.compute else None
        return None

    def _compute(self) -> ComputeSettings:
        """The section `compute` of params.yaml as it is now, parsed only if the file has another text than before."""
        with suppress(OSError):
            text = PARAMS.read_bytes()
            if self._last is None or self._last[0] != text:
                compute = compute_of(PARAMS)
                if PARAMS.read_bytes() != text:
                    return compute  # written in between, so that it is not known of which text it is
                self._last = text, compute
            return self._last[1]
        return compute_of(PARAMS)

    def _began(self, stage: str, process: int) -> None:
        with self._room.lock:
            self._room.processes[stage] = process
        if self._stopping.is_set():  # the signal came just before
            self.stop(signal.SIGTERM)

    @contextmanager
    def _place(self, stage: str, environment: Mapping[str, str]) -> Iterator[dict[str, str]]:
        """The environment with a line of the terminal for the progress bar, where there are several."""
        with self._room.lock:
            place = min(self._places)
            self._places.remove(place)
        try:
            yield {**environment, **({"TQDM_POSITION": str(place)} if self._several else {})}
        finally:
            with self._room.lock:
                self._places.add(place)
                self._room.processes.pop(stage, None)


def compute_of(params: Path) -> ComputeSettings:
    """The section `compute` of a params.yaml.

    Raises:
        InputError: it cannot be read.
    """
    return ComputeSettings.parse(read_yaml(params).get("compute", {}), f"{params}: compute")


def module_of(command: str, environment: Mapping[str, str]) -> list[str] | None:
    """The module of a stage's command and its arguments; None if it is not `python -m tasks.NAME` of this Python."""
    words = shlex.split(command) if PLAIN.fullmatch(command) else []
    if words[:2] != ["python", "-m"] or not words[2:] or not words[2].startswith("tasks.") or words[2] in COLD:
        return None
    python = shutil.which("python", path=environment.get("PATH"))
    if python is None or Path(python).parent != Path(sys.executable).parent:
        return None
    return words[2:]
