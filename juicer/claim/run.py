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

from juicer.claim.comparing import CONTROL, Seed, chosen_models, compare, points, primary
from juicer.claim.copies import MARK, PARAMS, Job, Plan, digest_of, files, finish, prepare
from juicer.claim.measures import SCORES
from juicer.claim.results import Claim, Samples, Versions
from juicer.evaluation.results import EvaluatedModel
from juicer.recipe.graph import reported
from juicer.reporting.costs import gather
from juicer.runtime.errors import InputError
from juicer.runtime.files import read_yaml, remove, value_at
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
        InputError: another claim works in the folder, or an input cannot be found from there.
    """
    plan.work.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(plan.work / ".lock", timeout=0):
            return _run(plan, at_a_time, say)
    except Timeout as error:
        what = "another claim is working in this folder"
        raise InputError(
            what, where=str(plan.work), do="wait until it ends, or choose another: --work FOLDER"
        ) from error


def _run(plan: Plan, at_a_time: int, say: Say) -> list[Job]:
    paths = files(plan.work)
    code = digest_of(paths)
    waiting = [job for job in plan.jobs if not job.is_up_to_date(code)]
    if done := len(plan.jobs) - len(waiting):
        say(f"{done} of {len(plan.jobs)} runs have finished before")
    # All copies first: the project may be edited while they run.
    for job in waiting:
        prepare(job, paths, code, plan.work)
    queue = _Queue(waiting)
    started, failed, cancel = time.monotonic(), list[Job](), threading.Event()
    total = len(plan.jobs)

    def work() -> None:
        while not cancel.is_set() and (job := queue.next()) is not None:
            number = plan.jobs.index(job) + 1
            say(f"[{number}/{total}] {job.name}: started; its output: {job.log}")
            began = time.monotonic()
            try:
                problem = _carry_out(job, code, cancel)
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


class _Queue:
    """Jobs that wait, for several threads."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._waiting, self._running, self._lock = list(jobs), list[int](), threading.Lock()

    def next(self) -> Job | None:
        """The first job whose seed is not at work, else the first; None if none waits."""
        with self._lock:
            if not self._waiting:
                return None
            job = next((each for each in self._waiting if each.seed not in self._running), self._waiting[0])
            self._waiting.remove(job)
            self._running.append(job.seed)
            return job

    def ended(self, job: Job) -> None:
        """Another job of the same seed may begin."""
        with self._lock:
            self._running.remove(job.seed)


def _carry_out(job: Job, code: str, cancel: threading.Event) -> str | None:
    """Run a job in its copy. Returns why it failed, None if it did not."""
    remove(job.folder / MARK)
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
    names = reported(value_at(read_yaml(job.folder / PARAMS), "graph"))
    models = {name: EvaluatedModel.read(job.folder / f"evaluation/models/{name}.json") for name in names}
    if CONTROL not in models:
        raise InputError(f"there is no {CONTROL}, with which all are compared", where=str(job.folder))
    return Seed(job.seed, models)


def collect(plan: Plan, samples: int) -> Claim:
    """What the finished jobs found, in one document.

    Args:
        samples: most responses of each model to show.

    Raises:
        InputError: no job has finished.
    """
    finished = [job for job in plan.jobs if job.finished]
    if not finished:
        raise InputError("no seed has finished", where=str(plan.work), do=f"run them: juicer claim {plan.path}")
    found = [(job, read(job)) for job in finished]
    variants = {
        name: seeds for name in plan.variants if (seeds := [seed for job, seed in found if job.variant == name])
    }
    everywhere = [seed for seeds in variants.values() for seed in seeds]
    metrics = primary(everywhere)
    score = next((key for key in SCORES if key in metrics), None)
    code = digest_of(files(plan.work))
    return Claim(
        recipe=plan.recipe.name,
        variants={name: plan.variants[name] for name in variants},
        seeds={name: [each.seed for each in seeds] for name, seeds in variants.items()},
        planned=list(plan.seeds),
        seconds={name: [_seconds(job) for job in finished if job.variant == name] for name in variants},
        processor=processor(),
        versions=Versions(
            juicer=head(),
            changed=bool(changed_files(":(exclude)dvc.lock", ":(exclude)params.yaml"))
            or not all(job.is_up_to_date(code) for job in finished),
            python=platform.python_version(),
            torch=importlib.metadata.version("torch"),
            transformers=importlib.metadata.version("transformers"),
        ),
        primary=metrics,
        instruments={
            name: trusted
            for name, seeds in variants.items()
            if (trusted := next((each.instruments for each in seeds[0].models.values() if each.instruments), None))
        },
        compared=compare(variants, metrics),
        points=points(variants, ["gap", *([score] if score else [])]),
        samples_seed=everywhere[0].seed,
        samples={name: _samples(seeds[:1], samples) for name, seeds in variants.items()},
    )


def _samples(first: Sequence[Seed], most: int) -> list[Samples]:
    found: Mapping[str, EvaluatedModel] = {
        name: models[0] for name, _, chosen, models in chosen_models(first) if chosen != "last"
    }
    samples = {name: model.samples[:most] for name, model in found.items()}
    return [
        Samples(name=name, samples=shown, judged=found[name].held_out_judged[: len(shown)])
        for name, shown in samples.items()
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
