"""Kills: at random times, and at chosen operations on files."""

import time
from pathlib import Path
from random import Random

from dev.faults.outcome import Kind, Outcome, settled
from dev.faults.workload import RUN, Project, Running, fault

HALF = '{"read": {}, "wri'
"""A half-written rwlock."""
PAUSES = (0.0, 0.0, 0.5, 2.0)
"""Seconds between a kill and the next command: at once, or as long as a person takes."""


def pace(project: Project) -> float:
    """Seconds of an undisturbed run here and now, as the templates were made."""
    return float((project.folder.parent / "seconds").read_text())


def at_random(project: Project, random: Random, number: int) -> Outcome:
    """Kill the whole process group at any time of a run."""
    running, after = project.start(*RUN), random.uniform(0.2, pace(project))
    time_is_up = time.monotonic() + after
    project.until(lambda: time.monotonic() > time_is_up, running)
    running.kill_group()
    running.wait()
    return _next(project, random, f"the process group after {after:.1f} s")


def _role(project: Project, role: str, random: Random, most: float, running: Running) -> str:
    """Kill a process of a role, some time after it appeared."""
    words = {"dvc": ("juicer.running", "repro"), "stage": ("tasks.sft",), "helper": ("juicer.registry.tracker",)}[role]
    if not project.until(lambda: project.processes(*words), running):
        return f"no {role} appeared"
    after = random.uniform(0.0, most)
    time.sleep(after)
    for process in project.processes(*words):
        process.kill()
    return f"{role} {after:.2f} s after its start"


def dvc(project: Project, random: Random, number: int) -> Outcome:
    """Kill DVC only; its stage has to notice."""
    running = project.start(*RUN)
    hit = _role(project, "dvc", random, 9.0, running)
    running.wait()
    return _next(project, random, hit)


def dvc_at_start(project: Project, random: Random, number: int) -> Outcome:
    """Kill DVC before its stage has looked who its starter is, and run again while the stage may live."""
    running = project.start(*RUN)
    project.until(lambda: project.processes("tasks.sft"), running)
    time.sleep(random.choice([0.0, 0.0, 0.05, 0.2, 0.5]))
    for process in project.processes("juicer.running", "repro"):
        process.kill()
    running.wait()
    time.sleep(random.choice([0.0, 0.3, 1.0, 2.0]))
    return settled(project, "dvc, as its stage began")


def stage(project: Project, random: Random, number: int) -> Outcome:
    """Kill a stage only."""
    running = project.start(*RUN)
    hit = _role(project, "stage", random, 2.5, running)
    running.wait()
    return _next(project, random, hit)


def helper(project: Project, random: Random, number: int) -> Outcome:
    """Kill the helper that writes a live run; the run itself has to end well."""
    project.variables |= {"JUICER_LIVE_SECONDS": "0.1", "JUICER_FAULTS_STEP": "0.15"}
    running = project.start(*RUN)
    hit = _role(project, "helper", random, 6.0, running)
    done = running.wait()
    return settled(project, hit, [f"the run did not survive: {done}"] if done.code else [])


def group_and_helper(project: Project, random: Random, number: int) -> Outcome:
    """Kill the process group while a helper writes: the run in MLflow has to end, and not be there twice."""
    project.variables |= {"JUICER_LIVE_SECONDS": "0.1", "JUICER_FAULTS_STEP": "0.15"}
    running = project.start(*RUN)
    project.until(lambda: project.processes("juicer.registry.tracker"), running)
    after = random.uniform(0.5, 6.0)
    time.sleep(after)
    running.kill_group()
    running.wait()
    return _next(project, random, f"the process group {after:.1f} s after the helper's start")


def _point(project: Project, random: Random, role: str, path: str, most: int, leave: str | None = None) -> Outcome:
    """Kill a process, or its whole group, at one of its operations on the files that `path` matches."""
    hit = project.logs / "hit"
    plan = {"role": role, "path": path, "number": random.randint(1, most), "tree": random.random() < 0.5}
    plan |= {"hit": str(hit)} | ({} if leave is None else {"leave": leave})
    project.call(*RUN, **fault(**plan))
    where = hit.read_text().strip() if hit.exists() else f"not reached: {role} {path} {plan['number']}"
    return _next(project, random, where)


def in_checkpoint(project: Project, random: Random, number: int) -> Outcome:
    """Kill between two operations on checkpoints."""
    return _point(project, random, "stage:sft", r"\.juicer/checkpoints", 100)


def in_publishing(project: Project, random: Random, number: int) -> Outcome:
    """Kill while an output is published, or the leftovers of another run are removed."""
    return _point(project, random, "stage:sft", r"^models/", 7)


def in_commit(project: Project, random: Random, number: int) -> Outcome:
    """Kill DVC while it commits outputs to its caches, of files and of runs."""
    path, most = random.choice([(r"\.dvc/cache/files", 16), (r"\.dvc/cache/runs", 6)])
    return _point(project, random, "dvc", path, most)


def in_lock_file(project: Project, random: Random, number: int) -> Outcome:
    """Kill DVC while it writes dvc.lock: the new file empty or half written, or not renamed yet."""
    text = project.read("dvc.lock")
    return _point(
        project, random, "dvc", r"dvc\.lock(\.new)?( dvc\.lock)?$", 2, ["", text[: len(text) * 2 // 3]][number % 2]
    )


def in_rwlock(project: Project, random: Random, number: int) -> Outcome:
    """Kill DVC while it writes its lock of paths: just opened, or half written."""
    return _point(project, random, "dvc", r"^\.dvc/tmp/rwlock$", 50, ["", HALF][number % 2])


def in_store(project: Project, random: Random, number: int) -> Outcome:
    """Kill `register`, or all, while it makes mlflow.db."""
    _without_store(project)
    running = project.start(*RUN)
    database = project.folder / "mlflow.db"
    begun = project.until(lambda: _made(database), running)
    after = random.uniform(0.0, 9.0)
    time.sleep(after)
    if number % 2:
        running.kill_group()
    else:
        for process in project.processes("tasks.register"):
            process.kill()
    running.wait()
    return _next(project, random, f"{after:.1f} s after mlflow.db was begun" if begun else "no mlflow.db was begun")


def helper_makes_store(project: Project, random: Random, number: int) -> Outcome:
    """Kill the helper while it makes mlflow.db; or let its own limit end it."""
    _without_store(project)
    project.forget("sft")
    project.variables |= {"JUICER_LIVE_SECONDS": "0.1"}
    running = project.start(*RUN)
    project.until(lambda: project.processes("juicer.registry.tracker"), running)
    after = random.uniform(2.0, 9.0)
    if number % 3:
        time.sleep(after)
        for process in project.processes("juicer.registry.tracker"):
            process.kill()
    done = running.wait()
    hit = f"helper after {after:.1f} s" if number % 3 else "the helper's own limit"
    return settled(project, hit, [f"the run did not survive: {done}"] if done.code else [])


def _without_store(project: Project) -> None:
    for path in project.folder.glob("mlflow.db*"):
        path.unlink()


def _made(path: Path) -> bool:
    """Whether a database, or one that is made beside it to be renamed, holds something."""
    return any(each.stat().st_size > 0 for each in path.parent.glob("*mlflow*db*") if each.is_file())


def _next(project: Project, random: Random, hit: str) -> Outcome:
    time.sleep(random.choice(PAUSES))
    return settled(project, hit)


KINDS = [
    Kind("kill: process group", 30, at_random, "both", kill=True),
    Kind("kill: DVC", 20, dvc, kill=True),
    Kind("kill: DVC as a stage begins", 20, dvc_at_start, kill=True),
    Kind("kill: stage", 20, stage, kill=True),
    Kind("kill: helper", 12, helper, kill=True),
    Kind("kill: group beside a helper", 8, group_and_helper, kill=True),
    Kind("kill: in a checkpoint", 25, in_checkpoint, kill=True),
    Kind("kill: in publishing", 14, in_publishing, kill=True),
    Kind("kill: in DVC's commit", 20, in_commit, kill=True),
    Kind("kill: in dvc.lock", 8, in_lock_file, kill=True),
    Kind("kill: in DVC's rwlock", 10, in_rwlock, kill=True),
    Kind("kill: as mlflow.db is made", 16, in_store, "full", kill=True),
    Kind("kill: helper makes mlflow.db", 6, helper_makes_store, "full", kill=True),
]
