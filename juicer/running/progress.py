"""What `juicer run` shows while it works: "stage 7 of 35", elapsed and expected time, and how far the stages are.

A stage writes its output to .juicer/logs/STAGE.log, and how far it is to a file beside it (`juicer.stages.live`). Both
are followed from here, so a stage goes on whatever becomes of the terminal, and its log can be read afterwards.
"""

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal, Protocol

from juicer.running.durations import remaining
from juicer.stages.live import PROGRESS, Done, read_done

LOGS = Path(".juicer/logs")
HEARTBEAT = 120.0
"""Seconds after which a stage at work is mentioned again where there are no bars."""
POLL = 0.25
"""Seconds between two looks at the logs of the running stages."""
LAST = 15
"""Lines of a failed stage's output that are repeated where output is not passed on."""

How = Literal["ran", "unchanged", "restored", "failed", "stopped"]
Kind = Literal["bars", "lines", "quiet"]
KINDS: tuple[Kind, ...] = ("bars", "lines", "quiet")
Estimate = Callable[[Collection[str]], Mapping[str, float | None]]
"""The seconds that each of some pending stages is expected to take, None where that is not known."""


def kind_of(output: IO[str] | None) -> Kind:
    """How progress is shown there: bars in a terminal, lines elsewhere."""
    terminal = output is not None and output.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    return "bars" if terminal else "lines"


def log_of(stage: str) -> Path:
    """The file with the output of a stage's last attempt, in the folder of the project."""
    return LOGS / f"{stage.replace('/', '_').replace(':', '_')}.log"


# --- words ---------------------------------------------------------------------------------------------------------


def took(seconds: float) -> str:
    """A measured time: "41 s", "2 min 5 s", "1 h 4 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    hours, minutes = divmod(round(whole / 60), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def about(seconds: float) -> str:
    """An expected time, no more exact than it is known: "40 s", "4 min", "2.5 h"."""
    if seconds < 57.5:
        return f"{max(5, 5 * round(seconds / 5))} s"
    if seconds < 90 * 60:
        return f"{max(1, round(seconds / 60))} min"
    return f"{seconds / 3600:.1f}".removesuffix(".0") + " h"


def time_left(seconds: float, unknown: int) -> str:
    """How long a run still takes.

    Args:
        seconds: what the stages of known work take.
        unknown: how many stages of unknown work there are beside them.
    """
    if unknown:
        return f"at least {about(seconds)} left" if seconds >= 1 else ""
    return f"about {about(seconds)} left" if seconds >= 1 else "nearly done"


def announced(forecasts: Mapping[str, str], seconds: float, unknown: int) -> str:
    """What a run is going to do.

    Args:
        forecasts: "will run", "restored" or "unchanged", by the stage.
        seconds: as for `time_left`.
        unknown: as for `time_left`.
    """
    words = {"will run": "to run", "restored": "to be restored", "unchanged": "unchanged"}
    counts = {word: sum(each == forecast for each in forecasts.values()) for forecast, word in words.items()}
    stages = f"{len(forecasts)} stage{'' if len(forecasts) == 1 else 's'}"
    said = f"{stages}: " + ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    if not counts["to run"]:
        return said
    if not unknown:
        return f"{said}; expected to take about {about(seconds)}"
    if seconds < 1:
        return f"{said}; how long that takes is not known, because nothing of it has run here like this"
    has = "stage has" if unknown == 1 else "stages have"
    return f"{said}; expected to take at least {about(seconds)}, because {unknown} {has} not run here like this"


# --- the run -------------------------------------------------------------------------------------------------------


@dataclass
class Running:
    """A stage at work."""

    number: int
    log: Path
    begun: float
    expected: float | None
    at: Done | None = None
    """How far it is, if it says so."""
    said: float = 0.0
    """When it was mentioned last."""
    read: int = 0
    """Bytes of its log that have been passed on."""
    rest: bytes = b""
    """The beginning of a line."""
    lines: list[str] = field(default_factory=list)
    """The last lines."""


class View(Protocol):
    """Where progress is shown."""

    heartbeats: bool
    """Whether stages at work are mentioned again; otherwise they are drawn."""
    talks: bool
    """Whether more than failures is shown."""

    def say(self, line: str, *, error: bool = False) -> None:
        """Print a line."""
        ...

    def draw(self, head: str, ended: int, stages: int, rows: Sequence["Row"]) -> None:
        """Show the run as it is now: `ended` of its `stages` are up to date or have failed."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was."""
        ...


@dataclass(frozen=True)
class Row:
    """A stage at work, as it is drawn."""

    stage: str
    at: Done | None
    note: str


class Run:
    """Follows a run of stages. Its methods may be called from several threads."""

    def __init__(
        self,
        order: Sequence[str],
        needs: Mapping[str, Sequence[str]],
        forecasts: Mapping[str, str],
        estimate: Estimate,
        view: View,
        at_a_time: int = 1,
        fits: Callable[[str, Sequence[str]], bool] = lambda stage, running: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Follow the stages of `order`, which are begun `at_a_time`, each after those that it `needs`.

        Args:
            fits: whether a stage has a place beside others, as far as that can be told in advance.
        """
        self._fits = fits
        self._order, self._needs, self._forecasts = order, needs, forecasts
        self._estimate, self._view, self._at_a_time, self._clock = estimate, view, at_a_time, clock
        self._lock = threading.RLock()
        self._begun, self._said = clock(), clock()
        self._running = dict[str, Running]()
        self._ended = dict[str, How]()
        self._quiet = list[str]()
        """Unchanged stages that no line has told of."""
        self._stopping = self._lost = False
        self._expected = dict(estimate(self._pending()))
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def announce(self) -> None:
        """Say what there is to do, and begin to follow it."""
        self._say(announced({name: self._forecasts.get(name, "will run") for name in self._order}, *self._left()))
        self._thread.start()

    @contextmanager
    def command(self, stage: str) -> Iterator[tuple[IO[bytes], dict[str, str]]]:
        """Run the command of a stage in the block.

        Yields:
            The file for its output, and variables for its environment.
        """
        log = log_of(stage).absolute()
        done = log.with_suffix(".json")
        log.parent.mkdir(parents=True, exist_ok=True)
        done.unlink(missing_ok=True)
        with log.open("wb") as output:
            self._start(stage, log)
            try:
                yield output, {PROGRESS: str(done)}
            finally:
                with self._lock:
                    self._read(self._running[stage], last=True)
                done.unlink(missing_ok=True)

    def stop(self) -> None:
        """The run has been told to end: stages that fail from now on were stopped."""
        self._stopping = True

    def ended(self, stage: str, how: How) -> None:
        """A stage is up to date, or has failed."""
        with self._lock:
            running = self._running.pop(stage, None)
            self._ended[stage] = "stopped" if how == "failed" and self._stopping else how
            if None in self._expected.values() or how == "failed":
                self._expected = dict(self._estimate(self._pending()))
            if running is not None:
                self._tell_end(stage, running, self._ended[stage])
            elif how == "unchanged":
                self._quiet.append(stage)
            elif how == "restored":
                self._say(f"stage {len(self._ended)} of {len(self._order)}: {stage} restored from DVC's cache")
            elif not self._stopping:
                self._say(f"stage {len(self._ended)} of {len(self._order)}: {stage} failed before it began", error=True)
            self._draw()

    def say(self, line: str, *, error: bool = False) -> None:
        """Print a line beside those of the stages."""
        with self._lock:
            self._say(line, error=error)

    def close(self) -> None:
        """Say how it went, as far as the stages do not."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()
        with self._lock:
            self._tell_unchanged()
            counts = {how: list(self._ended.values()).count(how) for how in ("ran", "restored", "unchanged")}
            up_to_date = sum(counts.values())
            whole = "all" if up_to_date == len(self._order) else f"{up_to_date} of"
            listed = ", ".join(f"{count} {how}" for how, count in counts.items() if count)
            line = f"{whole} {len(self._order)} stages up to date after {took(self._clock() - self._begun)}"
            self._say(f"{line} ({listed})" if listed else line)
            self._view.close()

    def poll(self) -> None:
        """Pass on what the stages at work have printed, and show how far they are."""
        with self._lock:
            now = self._clock()
            for stage, running in self._running.items():
                self._read(running)
                running.at = read_done(running.log.with_suffix(".json")) or running.at
                if self._view.heartbeats and now - max(running.said, self._said) >= HEARTBEAT:
                    running.said = now
                    at = "" if running.at is None else f", at {running.at}"
                    line = f"at work for {took(now - running.begun)}{at}{self._of_expected(running)}"
                    self._say(f"{self._named(stage, running)} {line}; {self._times()}", mentions=False)
            self._draw()

    def _follow(self) -> None:
        while not self._over.wait(POLL):
            self.poll()

    def _pending(self) -> set[str]:
        run = {name for name in self._order if self._forecasts.get(name, "will run") == "will run"}
        return run - self._ended.keys()

    def _left(self) -> tuple[float, int]:
        """Seconds of known work, and the number of stages of unknown work."""
        now, pending = self._clock(), self._pending()
        known = {name: seconds for name in pending if (seconds := self._expected.get(name)) is not None}
        for name, running in self._running.items():
            if name in known:
                known[name] -= now - running.begun
        # One that takes longer than expected may go on for long.
        known = {name: seconds for name, seconds in known.items() if seconds > 0}
        seconds = remaining(self._order, self._needs, known, self._at_a_time, list(self._running), self._fits)
        return seconds, len(pending) - len(known)

    def _times(self) -> str:
        left = time_left(*self._left())
        return f"{took(self._clock() - self._begun)} elapsed{', ' if left else ''}{left}"

    def _of_expected(self, running: Running) -> str:
        return "" if running.expected is None else f" (about {about(running.expected)} expected)"

    def _named(self, stage: str, running: Running) -> str:
        return f"stage {running.number} of {len(self._order)}: {stage}"

    def _start(self, stage: str, log: Path) -> None:
        with self._lock:
            self._tell_unchanged()
            number = len(self._ended) + len(self._running) + 1
            running = Running(number, log, self._clock(), self._expected.get(stage))
            self._running[stage] = running
            expected = "" if running.expected is None else f", about {about(running.expected)} expected"
            if self._view.heartbeats:
                self._say(f"{self._named(stage, running)} started{expected}; {self._times()}")
            self._draw()

    def _tell_end(self, stage: str, running: Running, how: How) -> None:
        seconds, name = took(self._clock() - running.begun), self._named(stage, running)
        if how == "failed":
            if not self._view.talks:
                for line in running.lines:
                    self._say(line, error=True)
            self._say(f"{name} failed after {seconds}; its output: {running.log}", error=True)
        elif how == "stopped":
            self._say(f"{name} stopped after {seconds}; its output: {running.log}", error=True)
        elif self._view.heartbeats:
            self._say(f"{name} done in {seconds}")

    def _tell_unchanged(self) -> None:
        names, self._quiet = self._quiet, []
        if names and len(names) < len(self._order):
            more = f" and {len(names) - 6} more" if len(names) > 7 else ""
            self._say(f"unchanged: {', '.join(names[:6] if more else names)}{more}")

    def _read(self, running: Running, *, last: bool = False) -> None:
        """Pass on the whole lines that a log has got since; the rest of it too if it is the `last` time."""
        with suppress(OSError), running.log.open("rb") as log:
            log.seek(running.read)
            found = log.read()
            running.read += len(found)
            *lines, running.rest = (running.rest + found).split(b"\n")
            if last and running.rest:
                lines.append(running.rest)
                running.rest = b""
            for each in lines:
                # What a bar of a library has overwritten is not worth a line.
                line = each.decode("utf-8", "replace").rstrip("\r").rpartition("\r")[2]
                running.lines = [*running.lines, line][-LAST:]
                if self._view.talks:
                    self._say(line, error=line.startswith("error: "))

    def _say(self, line: str, *, error: bool = False, mentions: bool = True) -> None:
        if self._lost or not (error or self._view.talks):
            return
        if mentions:
            self._said = self._clock()
        try:
            self._view.say(line, error=error)
        except (OSError, ValueError):
            self._lost = True  # the terminal is gone; the stages go on, and their logs are kept

    def _draw(self) -> None:
        if self._lost or self._view.heartbeats:
            return
        now = self._clock()
        rows = [
            Row(stage, each.at, f"{took(now - each.begun)}{self._of_expected(each)}")
            for stage, each in self._running.items()
        ]
        number = min(len(self._order), len(self._ended) + max(1, len(self._running)))
        head = f"stage {number} of {len(self._order)}"
        try:
            self._view.draw(f"{head}, {self._times()}", len(self._ended), len(self._order), rows)
        except (OSError, ValueError):
            self._lost = True


# --- where it is shown ---------------------------------------------------------------------------------------------


class Lines:
    """Plain lines: for files, pipes and logs."""

    heartbeats = True

    def __init__(self, *, talks: bool = True) -> None:
        """Print to this process's standard output and standard error, or failures only if it does not talk."""
        self.talks = talks

    def say(self, line: str, *, error: bool = False) -> None:
        """Print a line, in one piece."""
        file = sys.stderr if error else sys.stdout
        file.write(f"{line}\n")
        file.flush()

    def draw(self, head: str, ended: int, stages: int, rows: Sequence[Row]) -> None:
        """Lines are not drawn."""

    def close(self) -> None:
        """Nothing is left to be done."""


class Bars:
    """Bars below the lines, in a terminal: the run's, and one for each stage at work."""

    heartbeats = False
    talks = True

    def __init__(self) -> None:
        """Draw on this process's terminal."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskID, TextColumn

        self._console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=min(30, max(8, shutil.get_terminal_size().columns // 4))),
            TextColumn("{task.fields[note]}", markup=False),
            console=self._console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._stages = dict[str, TaskID]()
        self._whole = self._bars.add_task("", total=None, note="")
        self._bars.start()

    def say(self, line: str, *, error: bool = False) -> None:
        """Print a line above the bars."""
        self._console.print(line, style="red" if error else "", soft_wrap=True)

    def draw(self, head: str, ended: int, stages: int, rows: Sequence[Row]) -> None:
        """Draw all bars anew."""
        self._bars.update(self._whole, description="all", completed=ended, total=stages, note=head)
        for stage in self._stages.keys() - {row.stage for row in rows}:
            self._bars.remove_task(self._stages.pop(stage))
        for row in rows:
            if row.stage not in self._stages:
                self._stages[row.stage] = self._bars.add_task(row.stage, total=None, note="")
            at = "" if row.at is None else f"{row.at}, "
            done, total = (None, None) if row.at is None else (row.at.done, row.at.total)
            self._bars.update(self._stages[row.stage], completed=done, total=total, note=f"{at}{row.note}")

    def close(self) -> None:
        """Remove the bars."""
        self._bars.stop()


def view_of(kind: Kind) -> View:
    """The view of a kind."""
    return Bars() if kind == "bars" else Lines(talks=kind == "lines")
