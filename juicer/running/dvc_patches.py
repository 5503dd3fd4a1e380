"""What `python -m juicer.running` does otherwise than `python -m dvc`, by replacing a few functions of DVC.

- dvc.lock: one entry is written instead of the whole file, by an atomic rename, with the same bytes (`lock_text`).
- params.yaml: parsed once for each text that it has, instead of seven times for each stage (`parameters`).
- `dvc repro`: independent stages run at the same time (`scheduler`), and start warm (`commands`).
- Where progress is shown (`progress`), it takes the place of DVC's messages; warnings and errors stay.

All of DVC's own work stays DVC's and is done by one thread at a time; while a stage's command runs, DVC's lock of the
repository is free, as it is under `dvc repro`.
"""

import io
import logging
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial, partialmethod
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from juicer.running import durations, lock_text, warm
from juicer.running.capacity import Needs, Room, default_at_a_time, gpus_here, size_of
from juicer.running.commands import PARAMS, Commands, compute_of
from juicer.running.durations import Duration, Job
from juicer.running.forecast import Forecaster
from juicer.running.loading import Collected, FileSystems, Subgraphs
from juicer.running.parameters import ParsedOnce
from juicer.running.progress import Kind, Run, view_of
from juicer.running.scheduler import Outcome, Work, run
from juicer.runtime.command import print_line
from juicer.runtime.errors import InputError
from juicer.runtime.libraries import require
from juicer.settings.compute import ComputeSettings
from juicer.stages import finished
from juicer.stages.checkpoint import FOLDER as CHECKPOINTS
from juicer.stages.pipeline import meta_of, stages_of
from juicer.stages.planned import is_planned

if TYPE_CHECKING:
    from dvc.dependency import Dependency
    from dvc.dvcfile import Lockfile
    from dvc.repo import Repo
    from dvc.stage import Stage

Reproduce = Callable[..., "list[Stage]"]


def install(at_a_time: int | None, show: Kind | None = None) -> None:
    """Replace the functions, in this process and for good.

    Args:
        at_a_time: stages of `dvc repro` at the same time; None decides by the machine.
        show: how progress is shown in place of DVC's messages; None leaves those as they are.
    """
    require("dvc")
    import dvc.dependency.param
    import dvc.dvcfile
    import dvc.output
    import dvc.progress
    import dvc.repo.reproduce as reproduce
    import dvc_data.callbacks

    dvc.dependency.param.read_param_file = ParsedOnce(dvc.dependency.param.read_param_file)
    dvc.dvcfile.Lockfile.dump_stages = by_entry(dvc.dvcfile.Lockfile.dump_stages)
    dvc.output.get_cloud_fs = FileSystems(dvc.output.get_cloud_fs)
    reproduce.collect_stages = Collected(reproduce.collect_stages)
    reproduce.get_subgraph = Subgraphs(reproduce.get_subgraph)
    if show is not None:
        for bars in (dvc.progress.Tqdm, dvc_data.callbacks.Tqdm):
            # They would draw over the run's own.
            bars.__init__ = partialmethod(bars.__init__, disable=True)  # type: ignore[method-assign]
    reproduce._reproduce = partial(_reproduce, reproduce._reproduce, at_a_time, show)


def by_entry(original: Callable[..., None]) -> Callable[..., None]:
    """`Lockfile.dump_stages` that writes the entries of the given stages only, and leaves what it cannot do to DVC."""
    known = lock_text.Known()

    def dump_stages(self: "Lockfile", stages: "Sequence[Stage]", **options: Any) -> None:
        if not stages:
            return
        try:
            entries = _entries(stages, options)
            changed = write_entries(Path(self.path), entries, lambda line: _say(line, self.relpath), known)
        except (lock_text.NotPlain, UnicodeDecodeError):
            # Not where writing failed: DVC empties the file before it writes, and a full disk would keep it so.
            original(self, stages, **options)
            return
        if changed:
            self.repo.scm_context.track_file(self.relpath)

    return dump_stages


def _entries(stages: "Sequence[Stage]", options: Mapping[str, Any]) -> dict[str, Any]:
    from dvc.stage import serialize

    found = dict[str, Any]()
    for stage in stages:
        found |= serialize.to_lockfile(stage, **options)
    return found


def _say(line: str, path: str) -> None:
    from dvc.dvcfile import logger

    logger.info(line, path)


def write_entries(
    path: Path, entries: Mapping[str, Any], say: Callable[[str], object], known: lock_text.Known | None = None
) -> bool:
    """Write the entries of some stages into a dvc.lock, as DVC does; returns whether one of them differs.

    Args:
        entries: by the stage's name, as DVC makes them.
        say: called with DVC's messages.
        known: the blocks of the file as it was written last.

    Raises:
        NotPlain: only DVC can do it; nothing was written.
    """
    from dvc.utils.serialize._yaml import _get_yaml

    if path.is_symlink():
        raise lock_text.NotPlain
    exists = path.exists()
    before = path.read_text(encoding="utf-8") if exists else ""
    known = known or lock_text.Known()
    blocks = known.blocks_of(before)
    written = {name: lock_text.block_of(name, entry, _get_yaml()) for name, entry in entries.items()}
    changed = any(name not in blocks or lock_text.entry_of(blocks[name]) != entries[name] for name in written)
    if not blocks:
        say("Generating lock file '%s'")
    if changed:
        say("Updating lock file '%s'")
    together = {**blocks, **written}
    after = lock_text.joined(together.values())
    if after != before:
        lock_text.replace_lock(path, after)
        known.remember(after, together)
    return changed


def _reproduce(
    original: Reproduce,
    at_a_time: int | None,
    show: Kind | None,
    stages: "list[Stage]",
    graph: Any = None,
    force_downstream: bool = False,
    on_error: str = "fail",
    force: bool = False,
    **given: Any,
) -> "list[Stage]":
    """`dvc.repo.reproduce._reproduce`: its ordinary case side by side, and every other case by DVC."""
    rare = force_downstream or on_error != "fail" or given.get("dry") or given.get("interactive")
    if graph is None or rare or not stages or "repro_fn" in given:
        return original(stages, graph, force_downstream, on_error, force, **given)
    from dvc.repo.reproduce import _raise_error, logger

    by_name = {stage.addressing: stage for stage in stages}
    outcome = _side_by_side(by_name, graph, at_a_time, {**given, "force": force}, show)
    for name, error in list(outcome.failed.items())[1:]:
        logger.error("failed to reproduce '%s': %s", name, error)
    for name, error in outcome.failed.items():
        _raise_error(error, by_name[name])
    if outcome.told is not None:
        raise KeyboardInterrupt
    return [stage for stage in outcome.results.values() if stage is not None]


def _side_by_side(
    by_name: "Mapping[str, Stage]",
    graph: Any,
    at_a_time: int | None,
    given: Mapping[str, Any],
    show: Kind | None = None,
) -> Outcome:
    """Bring the stages up to date, several at a time."""
    repo = next(iter(by_name.values())).repo
    try:
        compute = compute_of(PARAMS)
        several = at_a_time or default_at_a_time(compute)
    except InputError:  # a project without a recipe; if there is a mistake, the first stage says so
        compute, several = ComputeSettings(), at_a_time or 1
    needs = {
        name: [each.addressing for each in graph.successors(stage) if each.addressing in by_name]
        for name, stage in by_name.items()
    }
    # As dvc.lock has them now: once a stage runs, they are those that it reads.
    before = {name: sum(dep.meta.size or 0 for dep in _files(stage)) for name, stage in by_name.items()}
    gpus = gpus_here(compute)
    room = Room(lambda name: _needs_of(by_name[name], compute.processes, before[name]), gpus)
    parent = warm.WarmParent(compute, Path(repo.root_dir)) if warm.possible(compute) and len(by_name) > 1 else None
    jobs = {name: _job_of(stage, needs[name]) for name, stage in by_name.items()}
    wanted = {name: meta_of(name, stage.meta).gpus_of(compute.processes) for name, stage in by_name.items()}

    def has_gpus(stage: str, running: Sequence[str]) -> bool:
        return not gpus or sum(wanted[each] for each in [*running, stage]) <= gpus

    shown = None if show is None else _shown(show, list(jobs.values()), several, has_gpus, force=bool(given["force"]))
    commands = Commands(room, several, parent, print_line if shown is None else shown.say)
    turns = Turns(repo)
    light = {name for name, stage in by_name.items() if meta_of(name, stage.meta).gpus is None}
    work = Work(list(by_name), needs, light)
    try:
        with (
            _replaced(turns, commands, jobs, shown),
            _messages_of_dvc(shown),
            lock_text.order_of_lock(work.order, Path(repo.root_dir, "dvc.lock"), Path(repo.root_dir, lock_text.ORDER)),
            turns.others(),
        ):
            if shown is not None:
                shown.announce()
            do = partial(_bring_up_to_date, by_name, graph, turns, given, shown)

            def stop(number: signal.Signals) -> None:
                if shown is not None:
                    shown.stop()
                commands.stop(number)

            return run(work, do, at_a_time=several, fits=room.fits, stop=stop)
    finally:
        if parent is not None:
            parent.close()
        if shown is not None:
            shown.close()


def _bring_up_to_date(
    by_name: "Mapping[str, Stage]",
    graph: Any,
    turns: "Turns",
    given: Mapping[str, Any],
    shown: Run | None,
    name: str,
) -> "Stage | None":
    from dvc.repo.reproduce import _reproduce_stage, logger

    stage = by_name[name]
    with turns.own(stage):
        if turns.reproduced:
            logger.info("")  # a line between stages, as DVC has it
        turns.ran = False
        try:
            made: Stage | None = _reproduce_stage(stage, upstream=list(graph.successors(stage)), **given)
        except BaseException:
            if shown is not None:
                shown.ended(name, "failed")
            raise
        if shown is not None:
            shown.ended(name, "unchanged" if made is None else "ran" if turns.ran else "restored")
        turns.reproduced = made is not None
        return made


def _job_of(stage: "Stage", needs: Sequence[str]) -> Job:
    from dvc.dependency.param import ParamsDependency

    values = dict[str, Any]()
    for dep in stage.deps:
        if isinstance(dep, ParamsDependency):
            values |= dep.read_params()
    work = durations.work_of(str(stage.cmd), values)
    return Job(stage.addressing, work, tuple(str(dep.fs_path) for dep in _files(stage)), tuple(needs))


def _shown(
    show: Kind, jobs: Sequence[Job], several: int, has_gpus: Callable[[str, Sequence[str]], bool], *, force: bool
) -> Run:
    """What shows the run of these stages."""
    forecasts, known = _forecasts({job.stage for job in jobs}, force=force), durations.read()
    planned = dict[str, float]()

    def estimate(pending: Collection[str]) -> Mapping[str, float | None]:
        found = durations.expected(jobs, pending, known, Sizes())
        return {stage: planned.get(stage) if seconds is None else seconds for stage, seconds in found.items()}

    pending = {job.stage for job in jobs if forecasts.get(job.stage, "will run") == "will run"}
    if pending and warm.DRIVER.exists() and (None in estimate(pending).values() or not is_planned()):
        # It imports torch, so it is a process of its own, which nobody waits for. It writes the planned memory too.
        threading.Thread(target=lambda: planned.update(durations.planned()), daemon=True).start()

    needs = {job.stage: job.needs for job in jobs}
    return Run(list(needs), needs, forecasts, estimate, view_of(show), several, has_gpus)


def _forecasts(stages: Collection[str], *, force: bool) -> dict[str, str]:
    """What will happen to each of some stages; {} if that cannot be told, as where DVC is going to fail."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.repo.reproduce import get_active_graph, plan_repro

    try:
        # A repository of its own, because forecasting changes DVC's objects.
        with Repo() as repo:
            fate = Forecaster(repo, force)
            planned = plan_repro(get_active_graph(repo.index.graph), list(stages_of(repo)))
            return {each.addressing: fate.of(each) for each in planned if each.addressing in stages}
    except (DvcException, InputError, OSError):
        return {}


class Sizes:
    """Bytes of files and folders, each measured once."""

    def __init__(self) -> None:
        self._known = dict[str, int | None]()

    def __call__(self, path: str) -> int | None:
        """Bytes of a file or of all files in a folder; None if there is none."""
        if path not in self._known:
            self._known[path] = int(size_of(Path(path))) if Path(path).exists() else None
        return self._known[path]


def _output_of(stage: str, shown: Run | None) -> "AbstractContextManager[tuple[IO[bytes], dict[str, str]] | None]":
    """Where the output of a stage goes, and variables for its environment; None where the run is not shown."""
    return nullcontext() if shown is None else shown.command(stage)


@contextmanager
def _messages_of_dvc(shown: Run | None) -> Iterator[None]:
    """In the block, DVC's warnings and errors go where the run is shown; its other messages are left out for good."""
    if shown is None:
        yield
        return
    from dvc.ui import ui

    told = shown

    class Lines(io.StringIO):
        def write(self, text: str) -> int:
            for line in text.splitlines():
                told.say(line, error=True)
            return len(text)

    loggers = [logging.getLogger(name) for name in ("dvc", "dvc_objects", "dvc_data")]
    for logger in loggers:
        logger.setLevel(logging.WARNING)  # which switches DVC's own bars off, too
    ui._enabled = False
    handlers = {
        handler
        for logger in loggers
        for handler in logger.handlers
        if isinstance(handler, logging.StreamHandler) and handler.level == logging.WARNING
    }
    before = {handler: handler.setStream(Lines()) for handler in handlers}
    try:
        yield
    finally:
        for handler, stream in before.items():
            handler.setStream(stream)


def _needs_of(stage: "Stage", processes: int, before: float) -> Needs:
    meta = meta_of(stage.addressing, stage.meta)
    gpus = None if meta.gpus is None else meta.gpus_of(processes)
    inputs = [Path(dep.fs_path) for dep in _files(stage)]
    return Needs.of(stage.addressing, inputs, gpus, trains=meta.run == "training", before=before)


def _files(stage: "Stage") -> "list[Dependency]":
    from dvc.dependency.param import ParamsDependency

    return [dep for dep in stage.deps if not isinstance(dep, ParamsDependency)]


class Turns:
    """Lets one thread at a time do DVC's work, with DVC's lock of the repository.

    DVC itself lets go of that lock while a command runs; then another thread may have its turn.
    """

    def __init__(self, repo: "Repo") -> None:
        self._repo = repo
        self._turn = threading.Lock()
        self._mine = threading.local()
        self.reproduced = False
        """Whether the last stage was reproduced, so that a line has to stand before the next one."""

    @property
    def ran(self) -> bool:
        """Whether the command of this thread's stage was run."""
        return bool(getattr(self._mine, "ran", False))

    @ran.setter
    def ran(self, value: bool) -> None:
        self._mine.ran = value

    @property
    def stage(self) -> "Stage":
        """The stage of this thread."""
        stage: Stage = self._mine.stage
        return stage

    @contextmanager
    def others(self) -> Iterator[None]:
        """Let other threads have their turns, from a thread that has the repository's lock."""
        self._repo.lock.unlock()
        try:
            yield
        finally:
            self._repo.lock.lock()

    @contextmanager
    def own(self, stage: "Stage") -> Iterator[None]:
        """A turn to work on a stage."""
        self._mine.stage = stage
        with self._turn, self._repo.lock:
            yield

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let others have their turns while a command runs. DVC has let go of the repository's lock already."""
        self._turn.release()
        try:
            yield
        finally:
            self._turn.acquire()


@contextmanager
def _replaced(turns: Turns, commands: Commands, jobs: Mapping[str, Job], shown: Run | None) -> Iterator[None]:
    """DVC runs commands by `commands`, and notes each file in use under the name of the stage that uses it.

    How long each command takes is kept (`durations`), and it is `shown` if progress is.
    """
    import dvc.rwlock
    import dvc.stage.run as running
    from dvc.stage.exceptions import StageCmdFailedError

    def run_command(executable: str | None, command: str, **given: Any) -> None:
        stage = turns.stage
        name, turns.ran = stage.addressing, True
        heavy = meta_of(name, stage.meta).gpus is not None
        # What goes on where it stopped, or is there already, takes less than all of it.
        whole = not (CHECKPOINTS / name).exists() and not (finished.FOLDER / name).exists()
        sizes, begun = [Sizes()(path) or 0 for path in jobs[name].inputs], time.monotonic()
        with turns.paused(), _output_of(name, shown) as output:
            code = commands.run(name, heavy, command, running._make_cmd(executable, command), given, output)
        if code:
            raise StageCmdFailedError(command, code)
        if whole:
            seconds = round(time.monotonic() - begun, 1)
            durations.keep(Duration(stage=name, work=jobs[name].work, sizes=tuple(sizes), seconds=seconds))

    def rwlock(folder: str, files: Any, command: str, *rest: Any) -> Any:
        # Without a name of its own, the first of two stages that read a file would free it for both.
        return noted(folder, files, f"{command} ({turns.stage.addressing})", *rest)

    noted, ran = dvc.rwlock.rwlock, running._run
    dvc.rwlock.rwlock, running._run = rwlock, run_command
    try:
        yield
    finally:
        dvc.rwlock.rwlock, running._run = noted, ran
