"""One folder, one writer: the lock that runs, activations and flows take before they change anything in a project.

The system frees it however its holder ends. A `dvc repro` that a user starts by hand does not take it, but its stages
share it, so that nobody else begins beside them.
"""

import fcntl
import json
import os
import shlex
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from juicer.runtime.errors import InputError
from juicer.runtime.files import replace_text

LOCK, HOLDER = Path(".juicer/workspace.lock"), Path(".juicer/workspace.json")
DVC_IN_USE = Path(".dvc/tmp/rwlock")
"""DVC's list of the files that its running commands read and write."""
TOKEN = "JUICER_WORKSPACE"  # noqa: S105 - the name of an environment variable
"""Environment variable by which the processes that a holder starts are known to belong to it."""
SECONDS = 0.5
"""Seconds between two attempts to get the lock."""
LOOKING = 3.0
"""Seconds within which a waiting command certainly lets go of the lock, to look again later."""
REMIND = 600.0
"""Seconds after which a waiting command says again for whom it waits."""


class Holder(BaseModel):
    """Who works in the folder."""

    model_config = ConfigDict(frozen=True)

    process: int
    command: str
    since: str
    token: str

    def __str__(self) -> str:
        return f"{self.command} (process {self.process}, since {self.since})"


class Held:
    """The lock, as its holder has it."""

    def __init__(self, file: int | None, token: str) -> None:
        self.files = () if file is None else (file,)
        """File descriptors for a child process (`pass_fds`) that keeps the lock if this process is killed."""
        self.environment = {TOKEN: token}
        """Environment variables for child processes."""


def holder() -> Holder | None:
    """Who holds the folder, or held it when it was killed."""
    try:
        return Holder.model_validate_json(HOLDER.read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None


def belongs_to_holder() -> bool:
    """Whether this process was started by the one that holds the folder."""
    who, token = holder(), os.environ.get(TOKEN)
    return token is not None and who is not None and who.token == token and not _free()


@contextmanager
def hold(*, wait: bool = False, say: Callable[[str], object] = print) -> Iterator[Held]:
    """Work in the folder alone. A process that the holder started works in it too.

    Args:
        wait: wait for the holder rather than refuse; `say` is told for whom.

    Raises:
        InputError: somebody else works in the folder; names it.
    """
    if belongs_to_holder():
        yield Held(None, os.environ[TOKEN])
        return
    file = _open()
    try:
        _acquire(file, wait, say)
        token = uuid.uuid4().hex
        me = Holder(process=os.getpid(), command=_command(), since=time.strftime("%Y-%m-%d %H:%M:%S"), token=token)
        replace_text(HOLDER, me.model_dump_json() + "\n")
        before = os.environ.get(TOKEN)
        os.environ[TOKEN] = token
        try:
            yield Held(file, token)
        finally:
            HOLDER.unlink(missing_ok=True)
            os.environ.pop(TOKEN)
            if before is not None:
                os.environ[TOKEN] = before
    finally:
        os.close(file)


@contextmanager
def share() -> Iterator[None]:
    """Run a stage in the folder, beside other stages only. One that DVC did not start changes nothing of the project.

    Raises:
        InputError: a command that did not start this stage works in the folder.
    """
    if "DVC_STAGE" not in os.environ or belongs_to_holder():
        yield
        return
    file = _open()
    try:
        deadline = time.monotonic() + LOOKING
        while not _lock(file, fcntl.LOCK_SH):  # a command that waits for its turn has it for moments only
            if time.monotonic() > deadline:
                raise in_use(str(holder() or "another command"))
            time.sleep(SECONDS / 5)
        yield
    finally:
        os.close(file)


def in_use(who: str) -> InputError:
    """The error for a folder in which somebody else works."""
    return InputError(f"{who} is working in this folder", where=str(Path.cwd()), do="wait until it ends, or end it")


def _acquire(file: int, wait: bool, say: Callable[[str], object]) -> None:
    told = 0.0
    while (who := _other(file)) is not None:
        if not wait:
            raise in_use(who)
        if time.monotonic() - told > REMIND or not told:
            told = time.monotonic()
            say(f"waiting for {who}, which is working in this folder")
        time.sleep(SECONDS)


def _other(file: int) -> str | None:
    """Take the lock; who has it if that fails."""
    if not _lock(file, fcntl.LOCK_EX):
        if (who := holder()) is None:
            return "a stage that dvc repro started"
        return str(who) if psutil.pid_exists(who.process) else f"what {who} had started before it was killed"
    if (command := running_dvc()) is None:
        return None
    fcntl.flock(file, fcntl.LOCK_UN)  # its next stage has to be able to start
    return command


def dvc_processes() -> set[int]:
    """The numbers of the DVC processes that use files of the project, according to DVC; some may have ended.

    None are known if a DVC command was killed while it wrote its list.

    Raises:
        FileNotFoundError: DVC has made no list here.
    """
    try:
        listed = json.loads(DVC_IN_USE.read_text(encoding="utf-8"))
        users = [*listed["write"].values(), *(user for users in listed["read"].values() for user in users)]
        return {int(user["pid"]) for user in users}
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()


def running_dvc() -> str | None:
    """A living DVC command that was started by hand and uses files of the project; None if there is none."""
    try:
        numbers = dvc_processes()
    except FileNotFoundError:
        return None
    for number in sorted(numbers):
        try:
            words = psutil.Process(number).cmdline()
        except psutil.Error:
            continue
        if is_dvc(words):
            return f"dvc (process {number})"
    return None


def is_dvc(words: Sequence[str]) -> bool:
    """Whether a command line is one of DVC's, or of the project's own way to run DVC (juicer/running)."""
    return any(Path(word).name in ("dvc", "juicer.running") for word in words)


def _open() -> int:
    LOCK.parent.mkdir(exist_ok=True)
    return os.open(LOCK, os.O_RDWR | os.O_CREAT, 0o644)


def _lock(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _free() -> bool:
    file = _open()
    try:
        return _lock(file, fcntl.LOCK_EX)
    finally:
        os.close(file)


def _command() -> str:
    """This process's command in a few words: `juicer run`, `python -m flows.align`."""
    name, *rest = sys.orig_argv
    words = [Path(rest[0]).name, *rest[1:]] if rest and not rest[0].startswith("-") else [Path(name).name, *rest]
    return shlex.join(words)[:100]
