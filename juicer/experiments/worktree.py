"""A folder of its own for a recipe: a git worktree with a branch, which uses the project's DVC cache.

dvc.yaml, params.yaml and the paths of models and report are those of one recipe at a time, so two recipes need two
folders. A git worktree is one that costs only its outputs: the history is shared, and DVC's cache and its cache of runs
are the project's own.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from juicer.experiments.run import LOCK, PARAMS, link_inputs, tell_costs
from juicer.recipe.activation import dump, load
from juicer.recipe.origin import texts_of
from juicer.runtime.errors import InputError
from juicer.runtime.files import replace_text
from juicer.stages.git import changed_files, commit_of, git, root
from juicer.stages.snapshot import discard, share_cache


def folder_for(recipe: Path) -> Path:
    """Where a recipe's folder is by default: beside the project, named after both."""
    here = Path.cwd()
    return here.parent / f"{here.name}-{recipe.stem}"


def make(recipe: Path, overrides: Sequence[str], folder: Path, *, tiny: bool) -> list[str]:
    """Make a folder with a branch of its own for a recipe, and activate the recipe there.

    Args:
        recipe: a file of the project.
        overrides: `key=value`, as for `juicer use`.
        folder: to make; it must not exist.

    Returns:
        What was done and what to do next, a line each.

    Raises:
        InputError: the recipe is not valid, the folder or the branch exists, or the project is no git checkout of its
            own. Nothing was made.
    """
    if root().resolve() != Path.cwd().resolve():
        raise InputError("a worktree needs a project that is a git checkout of its own", where=str(Path.cwd()))
    if folder.exists():
        raise InputError("there is something already", where=str(folder), do="name another folder: --folder")
    commit, branch = commit_of("HEAD"), folder.name
    if commit is None:
        raise InputError("a worktree needs a commit to start from", where=str(Path.cwd()), do="git commit")
    if commit_of(f"refs/heads/{branch}"):
        do = f"name another folder: --folder; or use it: git worktree add {folder} {branch}"
        raise InputError(f"there is a branch {branch!r} already", where=str(folder), do=do)
    whole, graph = load(recipe, overrides, tiny=tiny)
    git("worktree", "add", "--quiet", "-b", branch, str(folder), commit)
    try:
        if recipe != PARAMS:
            for path, text in texts_of(recipe).items():
                replace_text(folder / path, text)
        share_cache(folder)
        tell_costs(folder)
        link_inputs(dump(whole, graph), folder)
        _activate(recipe, overrides, folder, tiny=tiny)
    except BaseException:
        discard(folder)
        git("branch", "--quiet", "-D", branch)
        raise
    said = [f"{folder}: branch {branch}, recipe {whole.name!r}, with the DVC cache of {Path.cwd()}"]
    own = {str(PARAMS), str(LOCK), *texts_of(recipe)}
    if left := [path for path in changed_files() if path not in own]:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        said.append(f"it has the last commit; what is not committed stays here: {', '.join(left[:3])}{more}")
    return [*said, f"Next: cd {folder} && juicer run", f"To remove it: git worktree remove --force {folder}"]


def _activate(recipe: Path, overrides: Sequence[str], folder: Path, *, tiny: bool) -> None:
    """Activate a recipe in another folder, with the code that is there."""
    if recipe == PARAMS:
        replace_text(folder / PARAMS, PARAMS.read_text(encoding="utf-8"))
    words = ["use", str(recipe), *overrides, *(["--tiny"] if tiny else [])]
    done = subprocess.run(
        [sys.executable, "-m", "juicer", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise InputError(" ".join(done.stderr.split()).removeprefix("error: "), where=str(folder))
