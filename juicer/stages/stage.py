"""What every stage does around its work: arguments, validated parameters, one-line errors, atomic outputs, costs.

A stage module has `arguments(parser)` and `run(stage) -> str`, and ends in `main(run, arguments, __doc__)`.
"""

import argparse
import atexit
import gc
import json
import os
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psutil
from filelock import FileLock

from juicer.recipe.checks import validate
from juicer.recipe.graph import ABSENT
from juicer.runtime import determinism
from juicer.runtime.command import guarded, print_line
from juicer.runtime.context import Observer, Tracking, WorkContext, no_progress
from juicer.runtime.devices import Card, card_in_use, highest, in_words, peak_memory
from juicer.runtime.errors import InputError
from juicer.runtime.files import read_yaml, remove, temporary_beside, value_at
from juicer.runtime.process_groups import WARM
from juicer.runtime.processes import SINGLE_PROCESS
from juicer.settings.base import Settings
from juicer.settings.compute import ComputeSettings
from juicer.settings.tracking import TrackingSettings
from juicer.stages import attempts, finished, recorded, workspace
from juicer.stages.cancellation import Cancellation, check_started, end_with, starters
from juicer.stages.checkpoint import Checkpoint, checkpoints_of, discard_checkpoints, key_of, remove_checkpoints
from juicer.stages.costs import COSTS, StageCost
from juicer.stages.dvc_files import DvcLock, keep_lock
from juicer.stages.gpus import take_gpus
from juicer.stages.hashes import md5_of
from juicer.stages.live import Live
from juicer.stages.pipeline import Meta, declared, declared_of
from juicer.stages.planned import compared
from juicer.stages.reading import Watch, check_made
from juicer.stages.speed import Speed
from juicer.stages.words import reference, resolved, stage_named
from juicer.training.trackers import FOLDER, Curves, check_trackers, prepared

if TYPE_CHECKING:
    from juicer.runtime.memo import CheckpointedMemo

S = TypeVar("S", bound=Settings)
READING = "JUICER_READING"
"""Environment variable with the digest of what a stage has read, for the processes that it starts."""
AGAIN = "run it again"
WORK = "work"
"""The piece of work of a stage that has but one."""


class Stage:
    """One run of one stage: its arguments and the parameters that it is allowed to read."""

    def __init__(self, name: str, arguments: argparse.Namespace) -> None:
        self.name = name
        self.arguments = arguments
        self._params = read_yaml(arguments.params)
        validate(self._params, str(arguments.params))
        self._costs: dict[str, float] = {}
        self._facts: dict[str, float | str] = {}
        self._begun = time.perf_counter()
        self._md5s: dict[str, str] = {}
        """md5 of each published output, by its path."""
        self._read: dict[str, Any] = {}
        self._key: str | None = None
        self.cancellation = Cancellation()
        self.processes = SINGLE_PROCESS
        """The processes of this stage."""
        self.is_main = True
        """Whether this is the process that publishes, records and reports."""
        self.gpus: list[FileLock] = []
        """The lock on the GPU of a single-process stage, held until the stage ends."""
        self.peaks: list[dict[str, float]] = []
        """Peak device memory of each process."""
        self.cards: list[Card | None] = []
        """The GPU of each process of several."""
        self.meta = declared().get(name.partition("@")[0])
        """What dvc.yaml declares about this stage; None if dvc.yaml has no such stage."""
        self.live = Live(self.meta is not None and self.meta.run is not None)
        self.speed = Speed()
        self._watch: Watch | None = None
        """Watches what the stage reads; only under DVC, which records it."""

    def read(self, key: str, settings: type[S]) -> S:
        """The parameters under the dotted `key`, typed. dvc.yaml lists the same key for this stage."""
        return settings.parse(self.value(key), f"{self.arguments.params}: {key}")

    def read_optional(self, key: str, settings: type[S]) -> S | None:
        """As `read`, of a section that a recipe may leave out."""
        return None if self.value(key) is None else self.read(key, settings)

    def value(self, key: str) -> Any:
        """The plain value under the dotted `key`. dvc.yaml lists the same key for this stage."""
        value = self._read[key] = value_at(self._params, key)
        return value

    def took(self, values: Mapping[str, Any]) -> None:
        """Count the values that stand in the command line among the parameters that the stage has read.

        Raises:
            InputError: params.yaml has another value by now.
        """
        for key, value in values.items():
            if self.value(key) != value:
                what = f"{key} changed from {value!r} to {self.value(key)!r} while the stage started"
                raise InputError(what, where=str(self.arguments.params), do="run the stage again")

    @contextmanager
    def checkpoint(self, part: str = WORK) -> Iterator[Checkpoint]:
        """The checkpoint from which the work in the block resumes; a cancelled stage ends after its next save.

        Read all parameters of the work before the first of these blocks, because they are part of the checkpoint's key.
        Several processes save together, after the same step.
        """
        self.live.part = "" if part == WORK else part
        with self.cancellation.held():
            # Machines may or may not share a disk.
            own = part if not self.processes.machine else f"{part}-machine-{self.processes.machine}"
            yield Checkpoint(self._checkpoints() / own, self.cancellation, self.processes)

    @contextmanager
    def memo(self, part: str = WORK) -> Iterator["CheckpointedMemo"]:
        """As `checkpoint`, for work in pieces whose results are saved; each process saves its own."""
        from juicer.runtime.memo import CheckpointedMemo

        self.live.part = "" if part == WORK else part
        own = part if self.processes.world_size == 1 else f"{part}-{self.processes.rank}"
        with self.cancellation.held():
            yield CheckpointedMemo(Checkpoint(self._checkpoints() / own, self.cancellation))

    def _checkpoints(self) -> Path:
        if self._key is None:
            self._key = key_of(self.arguments, self._read)
            if self.processes.is_local_main:
                discard_checkpoints(self.name, self._key)
        return checkpoints_of(self.name, self._key)

    @contextmanager
    def progress(self, total: int, unit: str, part: str = WORK) -> Iterator[Callable[[int], None]]:
        """Show a progress bar; yields a function to call with the number of units just done."""
        from tqdm import tqdm

        self.live.part = "" if part == WORK else part
        name, done = self.name if part == WORK else f"{self.name} {part}", 0
        with tqdm(total=total, desc=name, unit=unit, disable=None) as bar:

            def update(units: int) -> None:
                nonlocal done
                done += units
                self.live.progress(done, total)
                bar.update(units)

            yield update

    @property
    def context(self) -> WorkContext:
        """The context of work that is neither resumed nor shown: this stage's processes and its live run in MLflow."""
        return WorkContext(self.processes, observers=(self.live,))

    @contextmanager
    def training(
        self, peak_share: float | None, part: str = WORK, *, steps: int | None = None, resumable: bool = True
    ) -> Iterator[WorkContext]:
        """The context of training: with a checkpoint, and the speed of training among the costs.

        Args:
            peak_share: of one device, as `juicer.training.utilisation.peak_share` gives it.
            part: name of this training, of several in one stage.
            steps: total of the progress bar; None where the trainer shows its own.
            resumable: whether the training can resume from a checkpoint; see `checkpoint`.
        """
        self.speed.begin(None if peak_share is None else peak_share / self.processes.world_size)
        with ExitStack() as opened:
            tracking = opened.enter_context(self._tracking(part))
            observers: tuple[Observer, ...] = (self.live, self.speed)
            if tracking.report_to and steps and self.is_main:
                curves = Curves(tracking.report_to, str(tracking.run_name), {"stage": self.name, "steps": steps})
                opened.callback(curves.close)
                observers = (*observers, curves)
            yield WorkContext(
                self.processes,
                progress=opened.enter_context(self.progress(steps, "step", part)) if steps else no_progress,
                steps=self.live.progress,
                checkpoint=opened.enter_context(self.checkpoint(part)) if resumable else None,
                note=self.note,
                observers=observers,
                tracking=tracking,
            )

    @contextmanager
    def _tracking(self, part: str) -> Iterator[Tracking]:
        """The trackers beside MLflow, ready for one training.

        They are no parameter of the stage: they do not change what it makes, so they are no part of a key either.
        """
        where = f"{self.arguments.params}: tracking"
        report_to = TrackingSettings.parse(self._params.get("tracking") or {}, where).report_to
        check_trackers(report_to)
        recipe, folder = str(self._params.get("name", "")), FOLDER / self.name
        if report_to:
            # A resumed training goes on in its folder; one with other parameters has its own.
            key = self._key or key_of(self.arguments, self._read)
            folder = FOLDER / recipe / self.name / key[:8] / ("" if part == WORK else part)
        with prepared(report_to, recipe, folder):
            yield Tracking(tuple(report_to), f"{self.name}{'' if part == WORK else f' {part}'}" if report_to else None)

    @contextmanager
    def batches(self, total: int, unit: str, part: str = WORK) -> Iterator[WorkContext]:
        """The context of work in batches, whose results are kept for a resumed run: sampling and scoring.

        Args:
            total: units of the progress bar.
            unit: what is counted.
            part: name of this work, of several in one stage.
        """
        with self.progress(total, unit, part) as progress, self.memo(part) as memo:
            yield WorkContext(self.processes, memo=memo, progress=progress, note=self.note, observers=(self.live,))

    @contextmanager
    def publish(self, path: Path) -> Iterator[Path]:
        """Yield a temporary sibling of `path` to write to; it replaces `path` by a rename unless the block fails.

        Of several processes, only the main one publishes what it has written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.processes.is_local_main:
            _remove_leftovers(path.parent, f".{path.name}.", ".tmp")
        with temporary_beside(path) as temporary:
            yield temporary
            if not self.is_main:
                return
            with self.cancellation.held():
                self.check_unchanged(temporary)
                remove(path)
                temporary.replace(path)
            self._md5s[str(path)] = md5_of(path, remember=True)

    def take_gpu(self) -> None:
        """Take a GPU, where there are any, as the stage's only process; waiting for one costs no time of the stage."""
        asked = time.perf_counter()
        self.gpus = take_gpus()
        self._begun += time.perf_counter() - asked

    def watch(self) -> None:
        """Fix what the stage reads, as dvc.yaml declares it, and watch it until the output is published.

        Raises:
            InputError: an input is missing or damaged, or one of several processes read something else.
        """
        declared = declared_of(self.name, self._params)
        if stage_named(os.environ.get("DVC_STAGE", "")) != self.name or declared is None:
            return  # started by hand, and not recorded by DVC
        self._watch = Watch.begin(self.name, declared, self.arguments.params, self._params)
        check_made(self._watch.reading.inputs, DvcLock.read_beside_dvc())
        keep_lock()
        digest = self._watch.reading.digest()
        # Processes that the stage starts have to read what it has read.
        if "LOCAL_RANK" not in os.environ:
            os.environ[READING] = digest
        elif os.environ.get(READING, digest) != digest:
            raise InputError("parameters, inputs or code changed while the stage started", where=self.name, do=AGAIN)
        if os.environ.get("RANK", "0") == "0":
            self._watch.follow()
            self.live.reading = self._watch.reading

    def restore_finished(self) -> str | None:
        """Publish what an earlier run made of the same, if it is kept; returns what was done, in words."""
        declared = declared_of(self.name, self._params)
        if self._watch is None or declared is None or len(declared.outputs) != 1:
            return None
        kept = finished.find(self.name, self._watch.reading.digest())
        if kept is None:
            return None
        with self.publish(Path(declared.outputs[0])) as out:
            kept.output.rename(out)
        COSTS.mkdir(parents=True, exist_ok=True)
        kept.costs.replace(COSTS / f"{self.name}.json")
        remove(kept.folder)
        return "published what an earlier run had made before its parameters, inputs or code were changed back"

    def check_unchanged(self, output: Path | None = None) -> None:
        """Raise InputError if what the stage has read is not there any more.

        Args:
            output: finished output, which is kept for the time when all is as before.
        """
        if self._watch is None or not (change := self._watch.change()).what:
            return
        what, do = f"changed while the stage ran: {', '.join(change.what)}", AGAIN
        if change.doubtful:
            # Work that may have been done with something else must not be resumed under the old key.
            remove_checkpoints(self.name)
            what += "; its work is discarded, because it may have been done with either"
        elif output is not None:
            kept = finished.keep(self.name, self._watch.reading.digest(), output)
            self._md5s = {str(output): md5_of(kept.output, remember=True)}
            kept.costs.write_text(json.dumps(self._cost().as_json()) + "\n", encoding="utf-8")
            what += "; its output is kept"
            do = "change that back and run again to have it at once, or run again as it is now"
        raise InputError(what, where=self.name, do=do)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A temporary folder, removed at the end."""
        folder = Path(".juicer/scratch") / f"{self.name}-{os.getpid()}"
        if self.processes.is_local_main:
            _remove_leftovers(folder.parent, f"{self.name}-")
        remove(folder)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            yield folder
        finally:
            remove(folder)

    def record(self, **costs: float) -> None:
        """Add to the costs of this stage (tokens, steps, rows); seconds and memory are recorded automatically."""
        for name, value in costs.items():
            self._costs[name] = self._costs.get(name, 0) + value

    def note(self, **facts: float | str) -> None:
        """Keep how the work was done, by name, among the costs of this stage; the last of several counts."""
        self._facts |= facts

    def depend(self, name: str, value: str) -> None:
        """Make something beside arguments, parameters and code part of the key of this stage's checkpoints.

        Call it before the first of them.
        """
        self._read[name] = value

    def end_watch(self) -> None:
        """Stop looking at what the stage has read; `check_unchanged` still compares it."""
        if self._watch is not None:
            self._watch.end()

    def save_reading(self) -> None:
        """Keep what the stage read until it is known that DVC recorded the same (juicer/stages/recorded.py)."""
        self.end_watch()
        if self._watch is not None:
            recorded.expect(self._watch.reading, self._md5s)

    def write_costs(self) -> None:
        """Write the costs to a file that DVC does not track, because timings differ from run to run."""
        cost = self._cost()
        COSTS.mkdir(parents=True, exist_ok=True)
        (COSTS / f"{self.name}.json").write_text(json.dumps(cost.as_json()) + "\n")

    def seconds(self) -> float:
        """How long the stage has run so far."""
        return time.perf_counter() - self._begun

    def _cost(self) -> StageCost:
        used = resource.getrusage(resource.RUSAGE_SELF)
        cards = [card for card in self.cards or [card_in_use()] if card is not None]
        on_gpu: dict[str, str | bool] = {}
        if cards:
            on_gpu = {"device": in_words(cards), "deterministic": determinism.is_on()}
        peaks = highest([*self.peaks, peak_memory()])
        return StageCost.create(
            self.name,
            self._costs,
            seconds=round(self.seconds(), 3),
            cpu_seconds=round(used.ru_utime + used.ru_stime, 3),
            peak_memory_mb=round(used.ru_maxrss / 1024, 1),
            ended=round(time.time(), 3),
            **self._facts,
            **on_gpu,
            **peaks,
            **compared(self.name, peaks, {card.name for card in cards}),
            **({"output_md5": next(iter(self._md5s.values()))} if len(self._md5s) == 1 else {}),
            **self.speed.costs(),
        )


def optional_path(text: str) -> Path | None:
    """Parse an argument for an optional input: None for ABSENT, which dvc.yaml passes for an input that is missing."""
    return None if text == ABSENT else Path(text)


def main(run: Callable[[Stage], str], arguments: Callable[[argparse.ArgumentParser], None], doc: str | None) -> None:
    """Run a stage from the command line and exit with its exit code."""
    start(followed(run), arguments, doc)


def start(
    run: Callable[[Stage], str],
    arguments: Callable[[argparse.ArgumentParser], None],
    doc: str | None,
    *,
    launches: bool = False,
) -> None:
    """As `main`, but `run` itself decides whether the stage shows up in MLflow while it runs.

    Args:
        launches: whether `run` starts as many processes as the recipe says; otherwise the stage is one process.
    """
    module = sys.modules["__main__"].__spec__
    name = module.name.removeprefix("tasks.") if module else "stage"
    common = argparse.ArgumentParser(prog=f"python -m tasks.{name}", add_help=False, allow_abbrev=False)
    common.add_argument("--params", type=Path, default=Path("params.yaml"), help="recipe, default params.yaml")
    common.add_argument(
        "--stage",
        default=stage_named(os.environ.get("DVC_STAGE", name)),
        help="the stage's name in dvc.yaml, with its key, under which costs are recorded; DVC gives it in DVC_STAGE",
    )
    common.add_argument("--dry-run", action="store_true", help="validate parameters and inputs, then stop")
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser = argparse.ArgumentParser(
        prog=common.prog,
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        parents=[common],
    )
    arguments(parser)
    taken: dict[str, Any] = {}
    given = parser.parse_args(_words(common.parse_known_args()[0], taken))
    # Imports create millions of objects and no garbage; with the default thresholds the collector takes a quarter of
    # the start-up time.
    gc.set_threshold(100_000, 20, 50)
    code = _attempted(lambda: _run(run, given, taken, launches), given)
    if module and module.name in sys.orig_argv:
        # Everything is written. An ordinary interpreter shutdown would unload the libraries for a second or more.
        # (A process that was started for something else, such as a test, exits in the ordinary way.)
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _words(given: argparse.Namespace, taken: dict[str, Any]) -> Sequence[str]:
    """The words of the command line with the values of params.yaml that they stand for.

    Exits in one line if they stand for nothing, or params.yaml is invalid.

    Args:
        given: the options that every stage has.
        taken: receives each value by its key.
    """
    words = sys.argv[1:]

    def resolve() -> None:
        nonlocal words
        if any(reference(word, given.stage) for word in words):
            params = read_yaml(given.params)
            validate(params, str(given.params))
        else:
            params = {}

        def value(key: str) -> Any:
            taken[key] = value_at(params, key)
            return taken[key]

        words = resolved(words, given.stage, value)

    lines = list[str]()
    if code := guarded(resolve, debug=given.debug, name=given.stage, report=lines.append):
        if not given.dry_run and "TORCHELASTIC_ERROR_FILE" not in os.environ:
            attempts.finish(attempts.begin(given.stage), code, " ".join(lines))
        sys.exit(code)
    return words


def _attempted(work: Callable[[], None], given: argparse.Namespace) -> int:
    """Run `work` and return its exit code; the attempt is recorded for `juicer status`."""
    if given.dry_run or "TORCHELASTIC_ERROR_FILE" in os.environ:  # the process that started this one records it
        return guarded(work, debug=given.debug, name=given.stage)
    lines, attempt = list[str](), attempts.begin(given.stage)
    code = guarded(work, debug=given.debug, name=given.stage, report=lines.append)
    attempts.finish(attempt, code, " ".join(lines))
    return code


def followed(run: Callable[[Stage], str]) -> Callable[[Stage], str]:
    """`run`, as a live run in MLflow."""

    @wraps(run)
    def run_live(stage: Stage) -> str:
        with stage.live.following():
            return run(stage)

    return run_live


def _run(run: Callable[[Stage], str], given: argparse.Namespace, taken: Mapping[str, Any], launches: bool) -> None:
    stage = Stage(given.stage, given)
    stage.took(taken)
    if given.dry_run:
        missing = [
            str(path)
            for name, path in vars(given).items()
            if isinstance(path, Path) and name not in ("out", "params") and not path.exists()
        ]
        if missing:
            raise InputError(f"missing inputs: {', '.join(missing)}", where=given.stage, do="run dvc repro")
        print(f"{given.stage}: the parameters are valid and the inputs exist")
        return
    stage.cancellation.install()
    end_with(starters())
    check_started()
    with workspace.share(), attempts.alone(given.stage):
        stage.watch()
        if "LOCAL_RANK" not in os.environ and (restored := stage.restore_finished()):
            print_line(f"{given.stage}: {restored}")
            return
        compute = stage.read("compute", ComputeSettings)
        set_environment(compute)
        if wants_one_gpu(compute, launches, stage.meta):
            stage.take_gpu()
        if compute.deterministic and uses_gpus(compute, stage.meta):
            determinism.begin()
        with determinism.refusals_told():
            result = run(stage)
        if stage.processes.is_local_main:
            remove_checkpoints(stage.name)
        if not stage.is_main:
            return
        stage.write_costs()
        stage.check_unchanged()
        stage.save_reading()
    print_line(f"{given.stage}: {result} [{stage.seconds():.1f} s]")


def set_environment(compute: ComputeSettings) -> None:
    """Set the number and policy of threads and silence libraries; call it before torch and transformers are imported.

    OpenMP threads that spin while they wait take up to five times the CPU time when other processes share the cores.

    Raises:
        InputError: this process has its libraries from a warm parent with another number of threads.
    """
    if os.environ.get(WARM, str(compute.threads)) != str(compute.threads):
        raise InputError("compute.threads changed while the stage started", where="params.yaml", do=AGAIN)
    os.environ["OMP_NUM_THREADS"] = str(compute.threads)
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:  # the name before torch 2.9, which is still read
        # Batches of varying lengths fragment memory in blocks of fixed size until a large allocation fails.
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    if compute.deterministic and compute.device != "cpu":
        determinism.set_variables()
    if compute.device == "cpu" or not Path("/dev/nvidiactl").exists():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # otherwise DeepSpeed warns in every stage that there is no GPU
    # Deprecations concern developers, not users; the tests turn them into errors.
    warnings.simplefilter("ignore", FutureWarning)


def wants_one_gpu(compute: ComputeSettings, launches: bool, meta: Meta | None = None) -> bool:
    """Whether this is the only process of a stage that uses a GPU; those of several are taken by what launches them."""
    several = launches and compute.processes > 1
    return uses_gpus(compute, meta) and not several and "LOCAL_RANK" not in os.environ


def uses_gpus(compute: ComputeSettings, meta: Meta | None = None) -> bool:
    """Whether a stage computes on GPUs where there are any; one of which dvc.yaml says nothing may."""
    return compute.device != "cpu" and (meta is None or meta.gpus is not None)


def _remove_leftovers(folder: Path, before: str, after: str = "") -> None:
    """Remove what killed runs left in `folder`: names that contain the id of a process that no longer exists."""
    for path in folder.iterdir() if folder.is_dir() else []:
        number = path.name.removeprefix(before).removesuffix(after)
        if path.name == f"{before}{number}{after}" and number.isdigit() and not psutil.pid_exists(int(number)):
            remove(path)
