"""The stages of dvc.yaml and what will become of each: read from DVC's own index, never written twice."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil

from juicer.registry.records import PARAMS
from juicer.runtime.files import read_yaml, replace_text
from juicer.runtime.libraries import require
from juicer.stages.pipeline import Meta, dvc_errors, meta_of, stages_of, unknown_stage

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc.stage import Stage

Forecast = Literal["unchanged", "restored", "will run"]
"""Sources that tell, as inputs of a stage, what it does with GPUs."""


@dataclass(frozen=True)
class PlannedStage:
    """A stage, the stages that it waits for, and what is expected of it."""

    name: str
    needs: tuple[str, ...]
    """Stages of the plan that make its inputs."""
    forecast: Forecast
    """`will run` also for a stage behind one that will run: whether its inputs change is not known yet."""
    certain: bool
    """Whether it is unchanged and stays so whatever the others do; then DVC need not be asked again."""
    gpus: int
    """How many GPUs the stage wants where there are any."""
    inputs_from: tuple[str, ...]
    """All stages that make its inputs, those outside the plan included."""
    portable: bool
    """Whether DVC's run cache can hold its result, so that another machine can make it."""


def plan(*, from_stage: str = "", until_stage: str = "", force: bool = False) -> list[PlannedStage]:
    """The stages of the working directory in the order in which `dvc repro` would take them, each with its forecast.

    Runs and changes nothing.

    Args:
        from_stage: leave out all but this stage and those behind it.
        until_stage: leave out all but this stage and those before it.
            Both also take the name of a `foreach` for all of its stages: `evaluate` for `evaluate@sft` and so on.

    Raises:
        InputError: an unknown stage, a dvc.yaml that DVC refuses, or another DVC command at work on the same files.
    """
    with reading() as repo:
        from dvc.repo.reproduce import get_active_graph, plan_repro

        graph = get_active_graph(repo.index.graph)
        stages = plan_repro(graph, stages_of(repo))
        chosen = _chosen(stages, graph, from_stage, until_stage)
        fate, planned = _Fate(repo, force), []
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
                        gpus=_gpus(meta_of(stage.addressing, stage.meta)),
                        inputs_from=tuple(each.addressing for each in graph.successors(stage)),
                        portable=bool(stage.deps and stage.outs) and not stage.always_changed,
                    )
                )
        return planned


@contextmanager
def reading() -> "Iterator[Repo]":
    """DVC's repository of the working directory, locked; what DVC refuses becomes an InputError."""
    require("dvc")
    from dvc.repo import Repo

    with dvc_errors(), Repo(_wait_for_lock=True) as repo, repo.lock:
        _mend(repo)
        yield repo


def free_locks() -> None:
    """Undo what a DVC that was killed may have left: the system frees its locks, but not its list of files in use."""
    from dvc.repo import Repo

    with dvc_errors(), Repo() as repo:
        _mend(repo)


def _mend(repo: "Repo") -> None:
    """Take from the list of files in use what no living DVC has noted, or all of it if it is not whole.

    DVC writes it in place, and refuses to go on with a half. It asks of a process that has noted a file only whether
    there is one of that number: what was noted in a container that was killed may have the number of anything here.
    """
    from dvc.lock import make_lock
    from dvc.rwlock import RWLOCK_FILE, RWLOCK_LOCK, SCHEMA, Invalid

    folder = Path(str(repo.tmp_dir))
    hard = repo.config["core"].get("hardlink_lock", False)
    with make_lock(str(folder / RWLOCK_LOCK), tmp_dir=str(folder), hardlink_lock=hard, wait=True):
        file = folder / RWLOCK_FILE
        try:
            noted = SCHEMA(json.loads(file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return
        except (ValueError, Invalid):
            file.unlink()
            return
        is_alive = cache(_is_alive)
        write = {path: by for path, by in noted["write"].items() if is_alive(**by)}
        read = {path: [each for each in by if is_alive(**each)] for path, by in noted["read"].items()}
        alive = {"write": write, "read": {path: by for path, by in read.items() if by}}
        if alive != noted:
            replace_text(file, json.dumps(alive))


def _is_alive(pid: int, cmd: str) -> bool:
    """Whether the DVC command that has noted a file may still run, under whatever number it has here."""
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
        except psutil.AccessDenied:
            command = ["dvc"]  # nobody can tell
        except psutil.NoSuchProcess:
            continue
        any_dvc = process.pid == pid and any(Path(word).name == "dvc" for word in command)
        if any_dvc or _is_command(command, cmd):
            return True
    return False


def _is_command(command: Sequence[str], noted: str) -> bool:
    """Whether a command line is of what was noted: sys.argv, where a module that was run with -m is its file."""
    runs, said = " ".join(command).split(), noted.split()
    while runs and said and runs[-1] == said[-1]:
        runs.pop()
        said.pop()
    if not (runs and said):
        return not said
    program = Path(said[-1])
    name = program.parent.name if program.name == "__main__.py" else program.stem
    return Path(runs[-1]).name.rpartition(".")[2] == name


class _Fate:
    """Walks the stages in order and tells what DVC will do with each, as far as that can be known beforehand."""

    def __init__(self, repo: "Repo", force: bool) -> None:
        self.repo, self.force = repo, force
        self.changing: dict[str, Output | None] = {}
        """Outputs that will not stay as they are: what will be restored, None where nobody knows yet."""

    def of(self, stage: "Stage") -> Forecast:
        outputs: dict[str, Output | None] = dict.fromkeys(out.fs_path for out in stage.outs)
        forecast: Forecast = "will run"
        as_locked = None if self.force or stage.always_changed else self._expect_inputs(stage)
        if as_locked and not any(out.status() for out in stage.outs):
            return "unchanged"
        if as_locked is not None and (restored := self._restored(stage, as_locked)):
            forecast, outputs = "restored", {out.fs_path: out for out in restored}
        self.changing |= outputs
        return forecast

    def producer(self, dep: "Output") -> str | None:
        """The changing output that an input is, or lies in."""
        return next((path for path in self.changing if self.repo.fs.isin_or_eq(dep.fs_path, path)), None)

    def _expect_inputs(self, stage: "Stage") -> bool | None:
        """Give each input the content that it will have; says whether all is as in dvc.lock, None if nobody knows."""
        from dvc_data.hashfile.meta import Meta

        as_locked = not stage.changed_stage()
        for dep in stage.deps:
            path = self.producer(dep)
            made = self.changing[path] if path else None
            content = made.get_obj(filter_info=dep.fs_path) if made else None
            if content is None and (path or not dep.exists):
                return None
            expected = content.hash_info if content else dep.get_hash()
            as_locked = as_locked and expected == dep.hash_info
            dep.hash_info = expected
            dep.meta = Meta()  # it holds the md5 of dvc.lock too, by which DVC would look into its run cache
        return as_locked

    def _restored(self, stage: "Stage", as_locked: bool) -> "list[Output] | None":
        """Outputs that DVC has in its cache for these inputs, by dvc.lock or else by its run cache."""
        from dvc.stage.cache import _get_cache_hash
        from dvc.stage.serialize import to_single_stage_lockfile

        cache, entry = self.repo.stage_cache, to_single_stage_lockfile(stage)
        if not (as_locked and all(out.hash_info for out in stage.outs)):
            key = _get_cache_hash(entry, key=True)
            runs = sorted(Path(cache._get_cache_dir(key)).glob("*"), key=lambda path: path.stat().st_mtime)
            entry = cache._load_cache(key, runs[-1].name) if runs else None
        if entry is None or not stage.outs:
            return None
        cached = cache._create_stage(entry, wdir=stage.wdir)
        return list(cached.outs) if cached.outs_cached() else None


def gpus_of_processes() -> int:
    """How many GPUs the active recipe asks for: one for each process, none where it computes on CPUs."""
    compute = read_yaml(Path(PARAMS)).get("compute", {})
    return 0 if compute.get("device") == "cpu" else int(compute.get("processes", 1))


def _gpus(meta: Meta) -> int:
    if meta.gpus is None:
        return 0
    return gpus_of_processes() if meta.gpus == "per process" else min(meta.gpus, gpus_of_processes())


def _chosen(stages: "Sequence[Stage]", graph: Any, from_stage: str, until_stage: str) -> "set[Stage]":
    import networkx

    chosen = set(stages)
    # In DVC's graph an edge leads from a stage to what it needs.
    for name, reach in ((from_stage, networkx.ancestors), (until_stage, networkx.descendants)):
        if name:
            named = [stage for stage in stages if name in (stage.addressing, stage.addressing.partition("@")[0])]
            if not named:
                raise unknown_stage(name, [stage.addressing for stage in stages])
            chosen &= set(named).union(*(reach(graph, stage) for stage in named))
    return chosen
