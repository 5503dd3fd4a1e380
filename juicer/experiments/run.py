"""An experiment: a change of the recipe, run in a git worktree of its own and saved as an experiment of DVC.

The worktree is in .juicer/experiments/NAME and goes once the experiment is saved; its report stays there. After an
interruption or a failure all of it stays, with its checkpoints, and the same command goes on there.
"""

import hashlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from juicer.reporting.costs import LEDGER
from juicer.running.durations import DURATIONS
from juicer.runtime.errors import InputError, did_you_mean
from juicer.runtime.files import read_json, replace_text
from juicer.runtime.files import remove as remove_path
from juicer.runtime.yaml_text import parse_yaml
from juicer.settings.base import Settings
from juicer.stages.git import changed_files, commit_of, git, root
from juicer.stages.snapshot import digest, discard, ignored_inputs, make_copy, versioned

FOLDER, SAVING = Path(".juicer/experiments"), Path(".juicer/experiments/.saving")
RECORD = Path(".juicer/experiment.json")
"""In the worktree: what it was made for, written once it is whole."""
PARAMS, LOCK, REPORT = Path("params.yaml"), Path("dvc.lock"), Path("report")
UNTIL = "report"
"""The last stage: an experiment registers no version. `juicer run` does, once it is applied."""
NEVER = str(10**9)
VARIABLES = {"JUICER_LIVE_SECONDS": NEVER, "MLFLOW_TRACKING_URI": ""}
"""Of the run: it shows nothing in MLflow, because nothing of it is registered there."""
SAID = "juicer exp: "
"""How the message of the commit begins, before the words that were changed."""
LONGEST = 60
"""Characters of a name that is made of the changes."""


class Begun(Settings):
    """What a worktree was made for."""

    name: str
    words: list[str]
    """The recipe, if one was given, and the changes."""
    content: str
    """Hash of the commit, the files of the project and the parameters."""


@dataclass(frozen=True)
class Experiment:
    """An experiment that is about to run."""

    name: str
    words: list[str]
    folder: Path
    resumed: bool
    """Whether the folder was there, with what an earlier run had made."""


def name_of(words: Sequence[str], given: str | None) -> str:
    """The name of an experiment: the given one, or the changes themselves.

    Raises:
        InputError: the given name cannot be part of a git reference and a folder's name.
    """
    if given is not None:
        if not _is_name(given):
            do = "use letters, digits and . _ = , + - only, and begin with a letter or digit"
            raise InputError(f"{given[:LONGEST]!r} cannot be the name of an experiment", where="--name", do=do)
        return given
    text = ",".join(word if "=" in word else Path(word).stem.lstrip("-") for word in words)
    plain = re.sub(r"\.\.+", ".", re.sub(r"[^\w.=,+-]+", "-", text, flags=re.ASCII)).strip("-.,+_=")
    if len(plain) > LONGEST or not _is_name(plain):
        plain = f"{plain[: LONGEST - 9].strip('-.,+_=')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}".lstrip("-")
    return plain


def _is_name(name: str) -> bool:
    fits = re.fullmatch(r"[A-Za-z0-9][\w.=,+-]*", name, re.ASCII) and len(name) <= 2 * LONGEST
    return bool(fits) and ".." not in name and not name.endswith((".", ".lock"))


def ref_of(name: str, commit: str) -> str:
    """The git reference under which DVC keeps an experiment of a commit."""
    from dvc.repo.experiments.refs import ExpRefInfo

    return str(ExpRefInfo(commit, name))


@contextmanager
def begun(name: str, words: Sequence[str], params: str, *, force: bool) -> Iterator[Experiment]:
    """The worktree of an experiment, for the block alone; it has to be saved or it stays.

    Args:
        name: of the experiment.
        words: the recipe and the changes, as they were given.
        params: the text of params.yaml there.
        force: whether an experiment of this name may be replaced.

    Raises:
        InputError: the project is not the top of a git checkout with a commit, the experiment exists or runs already,
            or the project was changed while it was copied.
    """
    if root().resolve() != Path.cwd().resolve():
        raise InputError("an experiment needs a project that is a git checkout of its own", where=str(Path.cwd()))
    commit = commit_of("HEAD")
    if commit is None:
        raise InputError("an experiment needs a commit to start from", where=str(Path.cwd()), do="git commit")
    if commit_of(ref_of(name, commit)) and not force:
        do = f"see it: juicer exp; replace it: --force; remove it: juicer exp remove {name}; or name another: --name"
        raise InputError("there is an experiment of this name", where=name, do=do)
    folder = FOLDER / name
    FOLDER.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(FOLDER / f".{name}.running", timeout=0):
            yield _made(Experiment(name, list(words), folder, resumed=False), params, commit)
    except Timeout as error:
        raise InputError("this experiment is running already", where=name, do="wait until it ends") from error


def _made(wanted: Experiment, params: str, commit: str) -> Experiment:
    """The experiment with its worktree: the one that is there, if nothing has changed since."""
    folder = wanted.folder
    files = [path for path in versioned() if path not in (PARAMS, LOCK)]
    content = _content(Path(), files, params, commit)
    if (before := begun_in(folder)) and before.content == content:
        return Experiment(wanted.name, wanted.words, folder, resumed=True)
    make_copy(folder, files, commit)
    if _content(folder, files, params, commit) != content:
        discard(folder)
        raise InputError("the project was changed while it was copied", where=str(Path.cwd()), do="run again")
    tell_costs(folder)
    link_inputs(params, folder)
    replace_text(folder / PARAMS, params)
    record = Begun(name=wanted.name, words=wanted.words, content=content)
    replace_text(folder / RECORD, record.model_dump_json(indent=1) + "\n")
    return wanted


def _content(folder: Path, files: Sequence[Path], params: str, commit: str) -> str:
    return hashlib.sha256(f"{commit}\0{digest(folder, files)}\0{params}".encode()).hexdigest()


def link_inputs(params: str, folder: Path) -> None:
    """Let a worktree find the data and models that git ignores, under the same paths.

    Args:
        params: the text of params.yaml there.
    """
    for path in ignored_inputs(parse_yaml(params, str(PARAMS))):
        place = folder / path
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(path.resolve())


def tell_costs(folder: Path) -> None:
    """Give a worktree what is known here of what stages cost, so that it can say how long a run will take and took."""
    for path in (LEDGER, DURATIONS):
        if path.is_file():
            replace_text(folder / path, path.read_text(encoding="utf-8"))


def begun_in(folder: Path) -> Begun | None:
    """What a worktree was made for; None if it is none of an experiment, or not whole."""
    with suppress(OSError, InputError):
        return Begun.parse(read_json(folder / RECORD), str(folder / RECORD))
    return None


def unfinished() -> list[Begun]:
    """The experiments whose worktrees are still there."""
    return [each for folder in sorted(FOLDER.glob("*")) if (each := begun_in(folder))]


def command(at_a_time: int | None) -> list[str]:
    """The command that runs an experiment in its worktree."""
    many = [] if at_a_time is None else ["--at-a-time", str(at_a_time)]
    return [sys.executable, "-m", "juicer", "run", "--until", UNTIL, *many]


def save(experiment: Experiment, *, force: bool) -> None:
    """Keep what the worktree holds as an experiment of DVC, and remove the worktree but for the report.

    All outputs are in DVC's cache.

    Raises:
        InputError: DVC refuses; the worktree stays.
    """
    # From a message DVC would make a name of its own. What git does not know is said by DVC and not saved.
    words = ["exp", "save", "--name", experiment.name, "--message", SAID + shlex.join(experiment.words)]
    with _alone():
        dvc([*words, *(["--force"] if force else [])], experiment.folder)
    report, kept = experiment.folder / REPORT, FOLDER / f".{experiment.name}.report"
    remove_path(kept)
    if report.is_dir():
        report.rename(kept)
    discard(experiment.folder)
    if kept.is_dir():
        experiment.folder.mkdir()
        kept.rename(report)


def apply(name: str) -> None:
    """Make the workspace what an experiment is: params.yaml, dvc.lock, code and outputs.

    Raises:
        InputError: there is no such experiment, it starts from another commit, whose code would come with it, or it
            would overwrite changes of code that are not committed.
    """
    baseline, commit = _commits_of(name)
    if baseline != commit_of("HEAD"):
        do = f"check that out first: git checkout {baseline[:10]}; or run the experiment again from here"
        raise InputError(f"it starts from another commit, {baseline[:10]}", where=name, do=do)
    mine = changed_files(f":(exclude){PARAMS}", f":(exclude){LOCK}", untracked=False)
    if other := [path for path in mine if _differs(path, commit)]:
        what = f"changes that are not committed would be overwritten: {', '.join(other[:3])}"
        raise InputError(what, where=name, do="commit or stash them")
    with _alone():
        dvc(["exp", "apply", name], Path())


def remove(names: Sequence[str]) -> None:
    """Remove experiments, finished or not. Their outputs stay in DVC's cache until `dvc gc`.

    Raises:
        InputError: there is none of that name, or it is running.
    """
    for name in names:
        folder = FOLDER / name
        # What is no name could lead out of the folder of experiments.
        known = begun_in(folder) if _is_name(name) else None
        if known is None or _exists(name):
            _commits_of(name)
            with _alone():
                dvc(["exp", "remove", name], Path())
        if _is_name(name) and folder.exists():
            try:
                with FileLock(FOLDER / f".{name}.running", timeout=0):
                    discard(folder)
            except Timeout as error:
                raise InputError("this experiment is running", where=name, do="end it first: Ctrl-C") from error


def dvc(words: Sequence[str], folder: Path) -> None:
    """Run DVC in a folder; what it prints is shown if it fails only.

    Raises:
        InputError: DVC refuses; says what it said.
    """
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")] or done.stderr.splitlines()
        what = " ".join(" ".join(said).removeprefix("ERROR: ").split()) or f"exit code {done.returncode}"
        raise InputError(what, where=f"dvc {' '.join(words[:2])}")


@contextmanager
def _alone() -> Iterator[None]:
    """Write DVC's references of experiments, which all worktrees have in common, one at a time."""
    SAVING.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(SAVING):
        yield


def saved(*, everywhere: bool = False) -> dict[str, list[tuple[str, str]]]:
    """The experiments that DVC keeps: by the commit that they start from, names and commits.

    Args:
        everywhere: of all commits, not only the current one.
    """
    from dvc.repo import Repo

    with Repo() as repo:
        found = repo.experiments.ls(all_commits=everywhere)
    return {baseline: [(str(name), str(commit)) for name, commit in each] for baseline, each in found.items()}


def _exists(name: str) -> bool:
    return any(name == known for each in saved(everywhere=True).values() for known, _ in each)


def _commits_of(name: str) -> tuple[str, str]:
    """The commit that an experiment starts from, and its own. Of several of a name, that of the current commit.

    Raises:
        InputError: there is no such experiment; names the nearest.
    """
    everywhere, here = saved(everywhere=True), commit_of("HEAD")
    found = dict[str, tuple[str, str]]()
    for baseline in sorted(everywhere, key=lambda each: each == here):
        found |= {known: (baseline, commit) for known, commit in everywhere[baseline]}
    if name not in found:
        raise InputError("no such experiment", where=name, do=did_you_mean(name, found) or "see: juicer exp --all")
    return found[name]


def _differs(path: str, commit: str) -> bool:
    """Whether a file of the workspace is another one in a commit."""
    try:
        return git("hash-object", "--", path) != git("rev-parse", "--verify", "--quiet", f"{commit}:{path}")
    except InputError:  # one of the two does not exist
        return True
