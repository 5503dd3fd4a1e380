"""What DVC will do with each stage (leave it unchanged, restore it, run it), predicted from DVC's own index."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from ruamel.yaml import YAML

from juicer.registry.records import PARAMS
from juicer.running.forecast import Forecast, Forecaster
from juicer.running.parameters import parsed_once
from juicer.runtime.files import read_yaml, replace_text
from juicer.runtime.libraries import require
from juicer.stages import code
from juicer.stages.pipeline import dvc_errors, meta_of, stages_of, unknown_stage
from juicer.stages.workspace import DVC_IN_USE, is_dvc

if TYPE_CHECKING:
    from dvc.fs import LocalFileSystem
    from dvc.repo import Repo
    from dvc.stage import Stage


@dataclass(frozen=True)
class PlannedStage:
    """A stage, the stages on which it depends, and what DVC will do with it."""

    name: str
    needs: tuple[str, ...]
    """Stages of this plan that make its inputs."""
    forecast: Forecast
    """A stage downstream of one that will run is `will run` too, because its inputs may change."""
    certain: bool
    """Whether it is unchanged and no other stage can change that, so that DVC need not be asked again."""
    gpus: int
    """Number of GPUs that the stage uses on a machine with GPUs."""
    inputs_from: tuple[str, ...]
    """All stages that make its inputs, including those outside this plan."""
    portable: bool
    """Whether DVC's run cache can hold its result, so that it can run on another machine."""


def plan(
    *, from_stage: str = "", until_stage: str = "", force: bool = False, params: str | None = None
) -> list[PlannedStage]:
    """The stages of the working directory in the order of `dvc repro`, each with its forecast.

    It changes nothing, and neither waits for a run nor disturbs one.

    Args:
        from_stage: only this stage and those that depend on it.
        until_stage: only this stage and those on which it depends.
            Both also accept the name of a `foreach` for all of its stages: `evaluate` for `evaluate@sft` and so on.
        force: forecast `will run` for every stage.
        params: the content of params.yaml to plan with, in place of what is there.

    Raises:
        InputError: an unknown stage, a dvc.yaml that DVC rejects, or another DVC command that uses the same files.
    """
    with looking(params) as repo:
        from dvc.repo.reproduce import get_active_graph, plan_repro

        graph = get_active_graph(repo.index.graph)
        stages = plan_repro(graph, stages_of(repo))
        chosen = _chosen(stages, graph, from_stage, until_stage)
        fate, planned = Forecaster(repo, force), []
        values = read_yaml(Path(PARAMS)) if params is None else YAML(typ="safe").load(params)
        for stage in stages:
            if stage in chosen:
                needs = tuple(each.addressing for each in graph.successors(stage) if each in chosen)
                undisturbed = not any(fate.producer(dep) for dep in stage.deps)
                forecast = fate.of(stage)
                planned.append(
                    PlannedStage(
                        name=stage.addressing,
                        needs=needs,
                        forecast=forecast,
                        certain=forecast == "unchanged" and undisturbed,
                        gpus=meta_of(stage.addressing, stage.meta).gpus_of(gpus_of_processes(values)),
                        inputs_from=tuple(each.addressing for each in graph.successors(stage)),
                        portable=bool(stage.deps and stage.outs)
                        and not stage.always_changed
                        and stage.addressing != code.STAGE,
                    )
                )
        return planned


@contextmanager
def looking(params: str | None = None) -> "Iterator[Repo]":
    """DVC's repository of the working directory, to read only; a DVC error becomes an InputError.

    Args:
        params: the content that params.yaml is to have for DVC, in place of what is there.
    """
    require("dvc")
    from dvc.lock import LockError
    from dvc.repo import Repo

    mend_in_use()
    disk = None if params is None else with_params(params)
    with parsed_once(), dvc_errors(), Repo(fs=disk) as repo, ExitStack() as locked:
        with suppress(LockError):  # somebody else's command has it, perhaps for long; it writes dvc.lock only
            locked.enter_context(repo.lock)
        yield repo


def with_params(text: str) -> "LocalFileSystem":
    """The disk as DVC sees it, but with another content of params.yaml."""
    from dvc.fs import LocalFileSystem

    path = str(Path(PARAMS).absolute())

    class WithParams(LocalFileSystem):  # type: ignore[misc]
        def open(self, given: Any, mode: str = "r", **options: Any) -> Any:
            if str(Path(given).absolute()) != path:
                return super().open(given, mode, **options)
            return io.BytesIO(text.encode()) if "b" in mode else io.StringIO(text)

        def exists(self, given: Any, *arguments: Any, **options: Any) -> Any:
            if isinstance(given, str | Path) and str(Path(given).absolute()) == path:
                return True
            return super().exists(given, *arguments, **options)

    return WithParams()


@contextmanager
def reading() -> "Iterator[Repo]":
    """DVC's repository of the working directory, locked; a DVC error becomes an InputError."""
    require("dvc")
    from dvc.repo import Repo

    with dvc_errors(), Repo(_wait_for_lock=True) as repo, repo.lock:
        _repair(repo)
        yield repo


def mend_in_use() -> None:
    """Mend DVC's list of files in use if a command that was killed left something there."""
    try:
        listed = json.loads(DVC_IN_USE.read_text(encoding="utf-8"))
        idle = listed == {} or listed == {"write": {}, "read": {}}
    except FileNotFoundError:
        return
    except (OSError, ValueError):
        idle = False
    if not idle:
        repair_locks()


def repair_locks() -> None:
    """Clean up after a DVC command that was killed: the system frees its locks, but not its list of files in use."""
    from dvc.repo import Repo

    with dvc_errors(), Repo() as repo:
        _repair(repo)


def _repair(repo: "Repo") -> None:
    """Remove entries of dead DVC processes from the list of files in use, or the whole list if it is damaged.

    DVC writes the list in place and refuses to work with a damaged one. It checks only whether a process with the
    recorded id exists: an entry from a killed container may have the id of an unrelated process here.
    """
    from dvc.lock import make_lock
    from dvc.rwlock import RWLOCK_FILE, RWLOCK_LOCK, SCHEMA, Invalid

    folder = Path(str(repo.tmp_dir))
    hard = repo.config["core"].get("hardlink_lock", False)
    with make_lock(str(folder / RWLOCK_LOCK), tmp_dir=str(folder), hardlink_lock=hard, wait=True):
        file = folder / RWLOCK_FILE
        try:
            recorded = SCHEMA(json.loads(file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return
        except (ValueError, Invalid):
            file.unlink()
            return
        is_alive = cache(_is_alive)
        write = {path: by for path, by in recorded["write"].items() if is_alive(**by)}
        read = {path: [each for each in by if is_alive(**each)] for path, by in recorded["read"].items()}
        alive = {"write": write, "read": {path: by for path, by in read.items() if by}}
        if alive != recorded:
            replace_text(file, json.dumps(alive))


def _is_alive(pid: int, cmd: str) -> bool:
    """Whether the DVC command that recorded a file may still be running, under any process id."""
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
        except psutil.AccessDenied:
            command = ["dvc"]  # it may be DVC
        except psutil.NoSuchProcess:
            continue
        if _works_elsewhere(process.pid):
            continue
        if (process.pid == pid and is_dvc(command)) or _is_command(command, cmd):
            return True
    return False


def _works_elsewhere(process: int) -> bool:
    """Whether a process that sees the same files as this one works in another project."""
    here = Path("/proc/self")
    there = here.with_name(str(process))
    try:
        same_files = (there / "ns/mnt").readlink() == (here / "ns/mnt").readlink()
        return same_files and not (there / "cwd").readlink().is_relative_to(Path.cwd())
    except OSError:  # it has ended, belongs to another user, or this is not Linux
        return False


def _is_command(command: Sequence[str], recorded: str) -> bool:
    """Whether a command line matches a recorded sys.argv, in which a module run with -m appears as its file."""
    runs, said = " ".join(command).split(), recorded.split()
    while runs and said and runs[-1] == said[-1]:
        runs.pop()
        said.pop()
    if not (runs and said):
        return not said
    program = Path(said[-1])
    name = program.parent.name if program.name == "__main__.py" else program.stem
    return Path(runs[-1]).name.rpartition(".")[2] == name


def gpus_of_processes(params: Mapping[str, Any] | None = None) -> int:
    """Number of GPUs of a recipe, the active one if none is given: one per process, none on CPUs."""
    compute = (read_yaml(Path(PARAMS)) if params is None else params).get("compute", {})
    return 0 if compute.get("device") == "cpu" else int(compute.get("processes", 1))


def _chosen(stages: "Sequence[Stage]", graph: Any, from_stage: str, until_stage: str) -> "set[Stage]":
    import networkx

    chosen = set(stages)
    # In DVC's graph an edge leads from a stage to its dependency.
    for name, related in ((from_stage, networkx.ancestors), (until_stage, networkx.descendants)):
        if name:
            named = [stage for stage in stages if name in (stage.addressing, stage.addressing.partition("@")[0])]
            if not named:
                raise unknown_stage(name, [stage.addressing for stage in stages])
            chosen &= set(named).union(*(related(graph, stage) for stage in named))
    # Without it an edit would go unnoticed, because the stages depend on the lists that it makes.
    return chosen | {stage for stage in stages if stage.addressing == code.STAGE}
