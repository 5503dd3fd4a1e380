"""Copies of the project, one for each variant and seed, that share one DVC cache.

A stage that two of them have in common (a download, or the SFT of a seed that two variants start from) is run once and
restored by DVC elsewhere. What the recipe reads and git ignores, such as a folder of weights, is linked, not copied.
"""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from juicer.recipe.activation import dump, load
from juicer.recipe.graph import Graph
from juicer.recipe.schema import Recipe
from juicer.runtime.errors import InputError, did_you_mean
from juicer.runtime.files import read_yaml, remove, replace_text
from juicer.runtime.yaml_text import parse_yaml
from juicer.settings.claim import ClaimSettings
from juicer.stages.dvc_files import LOCK
from juicer.stages.pipeline import declared_stages
from juicer.stages.snapshot import versioned

PARAMS = Path("params.yaml")
LEFT_OUT = ("bench", "dev", "docker", "docs", "tests")
"""Folders of the project that no run needs."""
VOTES = "votes"
"""The folder of people's votes."""
CODE = ("juicer", "tasks", "flows", "recipes")
"""Folders in which a file that is gone from the project must not stay."""
NOT_KEPT = "keep.up_to_gb=0"
"""A claim registers no version to restore, so it copies no inputs into DVC."""
MARK, COPIED = Path(".juicer/claim-finished"), Path(".juicer/claim-code")
"""In a copy: the code and parameters that it was finished with, and the code that it was copied from."""


@dataclass(frozen=True)
class Job:
    """One variant at one seed, of one method where several are compared."""

    variant: str
    seed: int
    folder: Path
    """The copy of the project that it runs in."""
    recipe: Recipe
    graph: Graph = field(repr=False)
    method: str | None = None
    """The method or control that it is for; None where the whole recipe is repeated."""
    turn: int = 0
    """It starts after the jobs of the same variant and seed that have a lower one."""
    params: str = field(init=False, repr=False)
    """The text of params.yaml."""

    def __post_init__(self) -> None:
        # The comparison itself changes nothing of a run, so that another list of seeds does not either.
        alone = self.recipe.model_copy(update={"claim": ClaimSettings(), "methods": None})
        object.__setattr__(self, "params", dump(alone, self.graph))

    @property
    def name(self) -> str:
        """How the job is called in messages."""
        return ", ".join([self.variant, *([self.method] if self.method else []), f"seed {self.seed}"])

    @property
    def log(self) -> Path:
        """What the run prints goes there."""
        return self.folder.with_name(f"{self.folder.name}.log")

    def is_up_to_date(self, code: str) -> bool:
        """Whether it has finished with this code and these parameters."""
        return self._mark == self.mark(code)

    @property
    def is_measured(self) -> bool:
        """Whether it has finished with these parameters, with whatever code."""
        # Not by params.yaml: a run with `rounds: auto` changes it, and a new plan changes it before its run begins.
        return self._mark.partition("\n")[2] == self.mark("").partition("\n")[2]

    def mark(self, code: str) -> str:
        """What is written into a copy that has finished with this code: the code, and a digest of the parameters."""
        return f"{code}\n{hashlib.sha256(self.params.encode()).hexdigest()}\n"

    @property
    def _mark(self) -> str:
        mark = self.folder / MARK
        return mark.read_text(encoding="utf-8") if mark.is_file() else ""


class NotYet(InputError):
    """A job cannot be run before others have ended."""


@dataclass(frozen=True)
class Plan:
    """What a claim runs."""

    command: ClassVar[str] = "claim"
    """The command of juicer that runs it."""

    path: Path
    """The recipe's file."""
    recipe: Recipe
    variants: dict[str, list[str]]
    seeds: list[int]
    work: Path
    jobs: list[Job]

    def settled(self, job: Job) -> Job:
        """The job as it is run, once those before it have ended.

        Raises:
            NotYet: it depends on others that have not finished.
            InputError: what it depends on is damaged.
        """
        return job


def plan(
    path: Path,
    overrides: Sequence[str],
    seeds: Sequence[int],
    variants: Sequence[str],
    work: Path | None,
    *,
    tiny: bool = False,
) -> Plan:
    """Check every run of a claim, before the first one starts.

    Args:
        path: the recipe's file.
        overrides: changes of it, for all variants.
        seeds: empty means those of the recipe.
        variants: names; empty means all.
        work: where the runs are; None means .juicer/claim/RECIPE.
        tiny: whether the recipe is scaled down first.

    Raises:
        InputError: a variant is unknown, a seed is negative, or a variant has nothing to compare.
    """
    check_overrides(overrides)
    recipe, _ = load(path, overrides, tiny=tiny)
    wanted = chosen(variants, recipe.claim.variants, "variant", path)
    numbers = seeds_of(seeds, recipe.claim.seeds)
    folder = folder_of(work or Path(".juicer/claim", recipe.name))
    jobs = []
    for name, words in wanted.items():
        where = f"{path}: claim.variants.{name}" if words else str(path)
        for seed in numbers:
            whole, graph = loaded(path, [*overrides, *words], seed, where, tiny=tiny)
            _check(whole, where)
            jobs.append(Job(name, seed, folder / name / f"seed-{seed}", whole, graph))
    return Plan(path, recipe, wanted, numbers, folder, jobs)


def check_overrides(overrides: Sequence[str]) -> None:
    """Refuse a seed among the changes of the command line.

    Raises:
        InputError: there is one.
    """
    if any(word.partition("=")[0] == "seed" for word in overrides):
        raise InputError("every seed is a run of its own here", where="seed=...", do="name the seeds: --seeds 0 1 2")


def folder_of(work: Path) -> Path:
    """The folder of the runs, as an absolute path.

    Raises:
        InputError: it cannot be one.
    """
    folder = Path(os.path.normpath(work.absolute()))
    if folder.exists() and not folder.is_dir():
        raise InputError("this is a file, but the runs need a folder", where=f"--work {work}", do="name another one")
    if Path.cwd().is_relative_to(folder):
        what = "the runs are copies of the project, which cannot be in a folder that holds it"
        raise InputError(what, where=f"--work {work}", do="name another one")
    return folder


def chosen(names: Sequence[str], known: Mapping[str, list[str]], kind: str, path: Path) -> dict[str, list[str]]:
    """Those of the `known` that are named; all if none is.

    Args:
        kind: what they are, for an error.

    Raises:
        InputError: a name is not known.
    """
    for name in names:
        if name not in known:
            raise InputError(f"the recipe has no {kind} {name!r}", where=str(path), do=did_you_mean(name, known))
    return {name: words for name, words in known.items() if not names or name in names}


def seeds_of(given: Sequence[int], own: Sequence[int]) -> list[int]:
    """The seeds of the command line, or else the recipe's `own`.

    Raises:
        InputError: a seed is negative.
    """
    if negative := [seed for seed in given if seed < 0]:
        raise InputError(f"a seed cannot be negative: {negative[0]}", where="--seeds", do="choose 0 or above")
    return list(dict.fromkeys(given)) or list(own)


def loaded(path: Path, words: Sequence[str], seed: int, where: str, *, tiny: bool) -> tuple[Recipe, Graph]:
    """The recipe of a job.

    Raises:
        InputError: the recipe refuses it; names `where`.
    """
    try:
        return load(path, [*words, f"seed={seed}", NOT_KEPT], tiny=tiny, repeated=False)
    except InputError as error:
        raise InputError(error.what, where=where, do=error.do) from error


def _check(recipe: Recipe, where: str) -> None:
    if not recipe.irft.rounds and not recipe.rft.rounds:
        what = "irft.rounds and rft.rounds are both 0, so there is no method to compare"
        raise InputError(what, where=where, do="set one of them above 0")
    if not recipe.sft_matched.enabled:
        what = "sft_matched.enabled is false, so there is nothing to compare the methods with"
        raise InputError(what, where=where, do="set it to true")


def files(work: Path) -> list[Path]:
    """The files of the project that a run needs.

    Args:
        work: the folder of the claim, which may lie in the project where git does not ignore it.

    Raises:
        InputError: the project is no git checkout.
    """
    needed = [path for path in versioned() if path.parts[0] not in LEFT_OUT and path not in (LOCK, PARAMS)]
    # Votes are on the workspace's responses. Their folder stays, because a stage depends on it.
    needed = [path for path in needed if path.parts[0] != VOTES or path.suffix != ".jsonl"]
    return [path for path in needed if not path.absolute().is_relative_to(work)]


def digest_of(paths: Iterable[Path]) -> str:
    """A name for the content of files of the project."""
    found = hashlib.sha256()
    for path in paths:
        content = str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
        found.update(f"{path}\0{len(content)}\0".encode() + content)
    return found.hexdigest()


def prepare(job: Job, paths: Sequence[Path], code: str, work: Path) -> None:
    """Make the copy of a job, or bring the code of one that is there up to date.

    Results and checkpoints in it stay, and so do the parameters of its last run until the next one begins.

    Args:
        paths: the files to copy.
        code: their `digest_of`.
        work: the folder of the claim, with the cache.

    Raises:
        InputError: an input of the recipe cannot be linked.
    """
    folder = job.folder
    copied = folder / COPIED
    if not copied.is_file() or copied.read_text(encoding="utf-8") != code:
        remove(copied)
        for name in CODE:
            remove(folder / name)
        for path in paths:
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            remove(target)
            shutil.copy2(path, target, follow_symlinks=False)
        if not (folder / ".git").exists():
            # Of its own: DVC would otherwise take the whole folder for one that the project's git ignores.
            subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
        replace_text(folder / ".dvc/config.local", f'[cache]\n    dir = "{work / "cache"}"\n')
        replace_text(copied, code)
    for name in _inputs(job):
        _link(name, folder, work)


def begin(job: Job) -> None:
    """Take the mark of its last run from a copy, and give it the parameters of the next one."""
    remove(job.folder / MARK)
    params = job.folder / PARAMS
    if not params.is_file() or params.read_text(encoding="utf-8") != job.params:
        replace_text(params, job.params)


def _inputs(job: Job) -> list[str]:
    """The paths that stages read and no stage makes."""
    stages = declared_stages(parse_yaml(job.params, str(PARAMS)), job.folder / "dvc.yaml").values()
    made = {Path(path) for stage in stages for path in stage.outputs}
    read = {path for stage in stages for path in stage.inputs}
    # A job has parameters of its own, which `begin` writes.
    return sorted(path for path in read - {str(PARAMS)} if not made & {Path(path), *Path(path).parents})


def _link(name: str, folder: Path, work: Path) -> None:
    """Let a copy find an input of the project under the same relative path."""
    source, place = Path.cwd() / name, Path(os.path.normpath(folder / name))
    if Path(name).is_absolute() or place.is_symlink() or place.exists() or not source.exists():
        return
    if not place.is_relative_to(work):
        raise InputError("a copy of the project would not find this input", where=name, do="name it by its whole path")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(source.resolve(), target_is_directory=source.is_dir())


def finish(job: Job, code: str) -> None:
    """Mark a job as finished, and remove from its copy the models and data that the cache has too."""
    for stage in declared_stages(read_yaml(job.folder / PARAMS), job.folder / "dvc.yaml").values():
        for path in stage.outputs:
            if Path(path).parts[0] in ("models", "data"):
                remove(job.folder / path)
    replace_text(job.folder / MARK, job.mark(code))
