"""Who ran what from which commit: git's tags, and the fields in which MLflow's own pages show it."""

import getpass
import os
import re
from collections.abc import Mapping
from pathlib import Path

from juicer.registry.store import without_password
from juicer.runtime.errors import InputError
from juicer.stages.git import changed_files, git, head, is_ancestor

KEPT_WITH_THE_RUN = ("dvc.lock", "params.yaml")
REMOTE = re.compile(r"(https?|ssh|git)://|[^/\s]+@[^/\s]+:")
"""What the address of a repository begins with that others can reach; a folder of this machine is none."""


def git_tags() -> dict[str, str]:
    """The commit, and whether tracked files differ from it, but those that a run keeps itself: they are no code."""
    own = [f":(exclude){path}" for path in KEPT_WITH_THE_RUN]
    try:
        dirty = str(bool(changed_files(".", *own, untracked=False))).lower()
    except InputError:
        dirty = "unknown"
    return {"git_commit": head() or "unknown", "git_dirty": dirty}


def in_history(commit: str) -> bool:
    """Whether a commit led to the one that is checked out, or is on the remote's main branch."""
    return any(is_ancestor(commit, each) for each in ("HEAD", "origin/HEAD"))


def user() -> str:
    """The name of the user who runs this; its number where it has no name, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def checkout_tags(git_tags: Mapping[str, str]) -> dict[str, str]:
    """MLflow's own tags for the user, the commit and the repository: its pages show them as User and Version."""
    tags = {"mlflow.user": user(), "mlflow.source.type": "LOCAL"} | commit_tags(git_tags)
    try:
        branch = git("rev-parse", "--abbrev-ref", "HEAD")
    except InputError:
        return tags
    if branch != "HEAD":
        tags["mlflow.source.git.branch"] = branch
    try:
        address = git("remote", "get-url", "origin")
    except InputError:
        return tags
    if REMOTE.match(address):
        tags["mlflow.source.git.repoURL"] = without_password(address)
    return tags


def commit_tags(git_tags: Mapping[str, str]) -> dict[str, str]:
    """MLflow's own tags for a commit; {} where it is unknown."""
    commit = git_tags.get("git_commit", "unknown")
    if commit == "unknown":
        return {}
    return {"mlflow.source.git.commit": commit, "mlflow.source.git.dirty": git_tags.get("git_dirty", "unknown")}


def source_tag(stage: str) -> dict[str, str]:
    """MLflow's own tag for the program of a stage: its pages show it as Source."""
    program = Path("tasks", f"{stage.partition('@')[0]}.py")
    return {"mlflow.source.name": program.as_posix() if program.is_file() else "dvc.yaml"}
