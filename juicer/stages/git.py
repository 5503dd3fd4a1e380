"""The few questions that Juicer asks git, by the git command: a checkout may have hooks, filters and credentials."""

import subprocess
from pathlib import Path

from juicer.runtime.errors import InputError


def git(*arguments: str, cwd: Path | None = None) -> str:
    """Run git; returns what it prints, without the last line break.

    Raises:
        InputError: git is not installed or fails; says which command and what git said.
    """
    where = f"git {arguments[0]}"
    try:
        done = subprocess.run(["git", *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    except OSError as error:
        raise InputError("git cannot be run", where=where, do="install git") from error
    if done.returncode:
        raise InputError(" ".join(done.stderr.split()) or f"exit code {done.returncode}", where=where)
    return done.stdout.rstrip("\n")


def root() -> Path:
    """The top folder of the checkout around the working directory.

    Raises:
        InputError: there is no checkout.
    """
    return Path(git("rev-parse", "--show-toplevel"))


def head() -> str | None:
    """The commit that is checked out, None outside git and before the first commit."""
    try:
        return git("rev-parse", "--verify", "--quiet", "HEAD")
    except InputError:
        return None


def commit_of(name: str) -> str | None:
    """The full hash of a commit that this repository has, None if it has no such commit."""
    try:
        return git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    except InputError:
        return None


def changed_files(*patterns: str, untracked: bool = True) -> list[str]:
    """Paths of the files with changes that are not committed.

    Args:
        patterns: git's pathspecs, such as `:(exclude)dvc.lock`; none means all files.
        untracked: also files that git does not know.

    Raises:
        InputError: the working directory is in no checkout.
    """
    files = "--untracked-files=normal" if untracked else "--untracked-files=no"
    return [line[3:] for line in git("status", "--porcelain", files, "--", *patterns).splitlines()]


def is_ancestor(commit: str, of: str) -> bool:
    """Whether a commit led to another one; False if this repository lacks either."""
    try:
        git("merge-base", "--is-ancestor", commit, of)
    except InputError:
        return False
    return True
