"""Runs a recipe for every variant and seed, some at a time, and collects what each one found."""

import importlib.metadata
import math
import platform
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TextIO

from filelock import FileLock, Timeout

from juicer.claim.comparing import CONTROL, ENTRANTS, Entrants, Seed, chosen_models, compare, points, primary
from juicer.claim.copies import MARK, PARAMS, Job, NotYet, Plan, begin, digest_of, files, finish, prepare
from juicer.claim.measures import SCORES
from juicer.claim.results import Claim, Samples, Versions
from juicer.evaluation.results import EvaluatedModel, Instruments
from juicer.recipe.graph import reported
from juicer.reporting.costs import gather
from juicer.runtime.errors import InputError
from juicer.runtime.files import read_yaml, replace_text, value_at
from juicer.runtime.process_groups import run_in_group, stage_environment
from juicer.stages.git import changed_files, head

COMMAND = (sys.executable, "-m", "juicer", "run", "--until", "report")
NEVER = str(10**9)
"""Seconds after which a run would be shown in MLflow: a claim shows none there."""
LAST = 400
"""Longest part of a log's last line that a message repeats."""
Say = Callable[[str], object]


def run(plan: Plan, at_a_time: int, say: Say) -> list[Job]:
    """Run what has not finished yet; returns the jobs that failed.

    A failed job does not stop the others. Ctrl-C (KeyboardInterrupt) ends all of them within seconds; finished stages
    and checkpoints stay.

    Args:
        at_a_time: jobs at the same time. Jobs of the same seed share their first stages, so they go one after the other
            while there is another seed.
        say: told what begins, ends and fails, a line each.

    Raises:
        InputError: another command works in the folder, or an input cannot be found from there.
    """
    plan.work.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(plan.work / ".lock", timeout=0):
            return _run(plan, at_a_time, say)
    except Timeout as error:
        what = f"another juicer {plan.command} is working in this folder"
        raise InputError(
            what, where=str(plan.work), do="wait until it ends, or choose another: --work FOLDER"
        ) from error


def _run(plan: Plan, at_a_time: int, say: Say) -> list[Job]:
    paths = files(plan.work)
    code = digest_of(paths)
    waiting = [job for job in plan.jobs if not is_up_to_date(plan, job, code)]
    if done := len(plan.jobs) - len(waiting):
        say(f"{done} of {len(plan.jobs)} runs have finished before")
    # All copies first: the project may be edited while they run.
    for job in waiting:
        prepare(_settled(plan, job) or job, paths, code, plan.work)
    queue = _Queue(waiting, cancel := threading.Event())
    started, failed = time.monotonic(), list[Job]()
    total = len(plan.jobs)

    def work() -> None:
        while not cancel.is_set() and (job := queue.next()) is not None:
            number = plan.jobs.index(job) + 1
            began = time.monotonic()
            try:
                now = plan.settled(job)
                if now.is_up_to_date(code):
                    say(f"[{number}/{total}] {job.name}: has finished before")
                    continue
                # What has ended since may have changed its parameters.
                prepare(now, paths, code, plan.work)
                say(f"[{number}/{total}] {job.name}: started; its output: {job.log}")
                problem = _carry_out(now, code, cancel)
            except InputError as error:
                replace_text(job.log, f"{error}\n")
                problem = error.what
            finally:
                queue.ended(job)
            if cancel.is_set():
                return
            took = f"after {duration(time.monotonic() - began)}, {duration(time.monotonic() - started)} in all"
            if problem is None:
                say(f"[{number}/{total}] {job.name}: finished {took}")
            else:
                failed.append(job)
                say(f"[{number}/{total}] {job.name}: failed {took}; see {job.log}: {problem}")

    with ThreadPoolExecutor(max(1, min(at_a_time, len(waiting)))) as pool:
        workers = [pool.submit(work) for _ in range(min(at_a_time, len(waiting)))]
        try:
            while wait(workers, timeout=0.5).not_done:
                continue
        finally:
            cancel.set()
    for worker in workers:
        worker.result()
    return [job for job in plan.jobs if job in failed]


def is_up_to_date(plan: Plan, job: Job, code: str) -> bool:
    """Whether a job has finished with this code and its parameters, and the jobs that these depend on have too."""
    now = _settled(plan, job)
    if now is None or not now.is_up_to_date(code):
        return False
    return now is job or all(is_up_to_date(plan, each, code) for each in plan.jobs if _follows(job, each))


def _settled(plan: Plan, job: Job) -> Job | None:
    """The job as it would be run now; None where that is not known yet."""
    try:
        return plan.settled(job)
    except NotYet:
        return None


def _follows(job: Job, other: Job) -> bool:
    """Whether a job waits for another one."""
    return other.turn < job.turn and (other.variant, other.seed) == (job.variant, job.seed)


class _Queue:
    """Jobs that wait, for several threads."""

    def __init__(self, jobs: Sequence[Job], cancel: threading.Event) -> None:
        self._waiting, self._running, self._cancel = list(jobs), list[Job](), cancel
        self._changed = threading.Condition()

    def next(self) -> Job | None:
        """The first job that may start whose seed is not at work, else the first one; None if none waits any more.

        Waits while all that are left follow jobs at work.
        """
        with self._changed:
            while self._waiting and not self._cancel.is_set():
                left = [*self._waiting, *self._running]
                free = [job for job in self._waiting if not any(_follows(job, other) for other in left)]
                if free:
                    seeds = {job.seed for job in self._running}
                    job = next((each for each in free if each.seed not in seeds), free[0])
                    self._waiting.remove(job)
                    self._running.append(job)
                    return job
                self._changed.wait(0.5)
            return None

    def ended(self, job: Job) -> None:
        """Those that follow the job may start."""
        with self._changed:
            self._running.remove(job)
            self._changed.notify_all()


def _carry_out(job: Job, code: str, cancel: threading.Event) -> str | None:
    """Run a job in its copy. Returns why it failed, None if it did not."""
    begin(job)
    last = ""
    with job.log.open("w", encoding="utf-8") as log:

        def line(text: str) -> None:
            nonlocal last
            last = text.strip() or last
            _write(log, text)

        environment = {**stage_environment(), "JUICER_LIVE_SECONDS": NEVER, "MLFLOW_TRACKING_URI": ""}
        exit_code = run_in_group(COMMAND, line, cancel=cancel, folder=job.folder, environment=environment)
    if exit_code:
        return last[-LAST:] or f"exit code {exit_code}"
    finish(job, code)
    return None


def _write(log: TextIO, text: str) -> None:
    log.write(f"{text}\n")
    log.flush()


def duration(seconds: float) -> str:
    """A time in words, for example "1 h 05 min"."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"


def read(job: Job) -> Seed:
    """What a finished job found.

    Raises:
        InputError: one of its files is missing or damaged; names it.
    """
    models = models_of(job)
    if CONTROL not in models:
        raise InputError(f"there is no {CONTROL}, with which all are compared", where=str(job.folder))
    return Seed(job.seed, models, criteria=job.recipe.choice.criteria)


def models_of(job: Job, *, discarded: bool = False) -> dict[str, EvaluatedModel]:
    """The evaluations of a finished job, by name, in the order of the recipe.

    Args:
        job: a finished one.
        discarded: whether the rounds that `rounds: auto` tried and discarded are among them.

    Raises:
        InputError: one of the files is missing or damaged; names it.
    """
    graph = value_at(read_yaml(job.folder / PARAMS), "graph")
    names = list(graph["models"]) if discarded else reported(graph)
    try:
        return {name: EvaluatedModel.read(job.folder / f"evaluation/models/{name}.json") for name in names}
    except InputError as error:
        do = f"remove {job.folder / MARK}, so that the run is done again, and repeat the command"
        raise InputError(error.what, where=error.where, do=do) from error


def collect(plan: Plan, samples: int) -> Claim:
    """What the finished jobs found, in one document.

    Args:
        samples: most responses of each model to show.

    Raises:
        InputError: no job has finished.
    """
    finished = [job for job in plan.jobs if job.is_measured]
    if not finished:
        raise InputError(
            "no seed has finished", where=str(plan.work), do=f"run them: juicer {plan.command} {plan.path}"
        )
    found = [(job, read(job)) for job in finished]
    variants = {
        name: seeds for name in plan.variants if (seeds := [seed for job, seed in found if job.variant == name])
    }
    everywhere = [seed for seeds in variants.values() for seed in seeds]
    metrics = primary(everywhere)
    score = next((key for key in SCORES if key in metrics), None)
    return Claim(
        recipe=plan.recipe.name,
        variants={name: plan.variants[name] for name in variants},
        seeds={name: [each.seed for each in seeds] for name, seeds in variants.items()},
        planned=list(plan.seeds),
        seconds={name: [_seconds(job) for job in finished if job.variant == name] for name in variants},
        processor=processor(),
        versions=versions(finished, digest_of(files(plan.work))),
        primary=metrics,
        instruments=instruments(variants),
        compared=compare(variants, metrics),
        points=points(variants, ["gap", *([score] if score else [])]),
        samples_seed=everywhere[0].seed,
        samples={name: samples_of(seeds[:1], samples) for name, seeds in variants.items()},
    )


def versions(jobs: Sequence[Job], code: str) -> Versions:
    """What the figures of finished jobs were computed with."""
    return Versions(
        juicer=head(),
        changed=bool(changed_files(":(exclude)dvc.lock", ":(exclude)params.yaml"))
        or not all(job.is_up_to_date(code) for job in jobs),
        python=platform.python_version(),
        torch=importlib.metadata.version("torch"),
        transformers=importlib.metadata.version("transformers"),
    )


def instruments(variants: Mapping[str, Sequence[Seed]]) -> dict[str, Instruments]:
    """How far the scorer and the judge of each variant can be trusted, at its first seed."""
    return {
        name: trusted
        for name, seeds in variants.items()
        if (trusted := next((each.instruments for each in seeds[0].models.values() if each.instruments), None))
    }


def samples_of(first: Sequence[Seed], most: int, entrants: Entrants = ENTRANTS) -> list[Samples]:
    """At most so many responses of each model that is compared, of one seed."""
    found = {each.name: each.models[0] for each in chosen_models(first, entrants) if each.chosen != "last"}
    return [
        Samples(name=name, samples=model.samples[:most], judged=model.held_out_judged[: len(model.samples[:most])])
        for name, model in found.items()
    ]


def _seconds(job: Job) -> float | None:
    known = [row.cost.seconds for row in gather(job.folder) if row.cost is not None and row.cost.seconds is not None]
    return round(math.fsum(known), 1) if known else None


def processor() -> str:
    """The name of the processor, without anything else about the machine."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.machine()
