"""A change is tried in a forked process: the module is imported as changed, and its tests are run until one fails."""

import contextlib
import gc
import importlib
import importlib.machinery
import importlib.util
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Literal

from tqdm import tqdm

from dev.mutants.changes import Change

Ended = Literal["killed", "timed out", "survived"]
FORK = multiprocessing.get_context("fork")
OWN = re.compile(r"(juicer|tasks|tests|bench|dev)\b(?!\.(runtime|settings|data|models)\b)")
"""Modules that each trial imports by itself: all of ours but those in rooms below the changed ones."""
GREEN, RED, BROKEN = 0, 1, 2
"""pytest's codes: all passed, a test failed, a test module could not be imported."""


class Changed(importlib.machinery.SourceFileLoader):
    """Finds and loads one module as changed."""

    def __init__(self, root: Path, change: Change) -> None:
        super().__init__(change.module.removesuffix(".py").replace("/", "."), str(root / change.module))
        self.changed = change.code

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> Any:
        """The module's specification; None for any other module."""
        return importlib.util.spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def get_code(self, fullname: str) -> CodeType:
        """The changed code, whatever is in the file."""
        return self.changed


def run_tests(root: Path, tests: Sequence[str], change: Change | None) -> int:
    """Run unit tests, in this process and until one fails; returns pytest's code."""
    import pytest

    if change is not None:
        sys.meta_path.insert(0, Changed(root, change))
    files = [str(root / f"tests/unit/test_{name.partition(':')[0]}.py") for name in tests]
    chosen = [f"-k={words}" for name in tests if (words := name.partition(":")[2])]
    with tempfile.TemporaryDirectory(prefix="juicer-mutants-") as work:
        # In place of those of pyproject.toml, of which one is xdist's; plugins are not loaded here.
        options = "addopts=--strict-markers --import-mode=importlib"
        plain = ["-x", "-q", "-o", options, "-p", "no:cacheprovider", "--tb=no", f"--basetemp={work}/tests"]
        return int(pytest.main([*plain, *chosen, f"--rootdir={root}", *files]))


def _trial(work: Callable[[], Any], told: Connection) -> None:
    """A process: does the work in silence, and tells the result."""
    os.setpgid(0, 0)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    told.send(work())
    told.close()
    os._exit(0)


def _start(work: Callable[[], Any]) -> tuple[BaseProcess, Connection]:
    heard, told = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_trial, args=(work, told))
    process.start()
    told.close()
    return process, heard


def _alone(work: Callable[[], Any]) -> Any:
    """The result of some work in a process of its own."""
    process, heard = _start(work)
    result = heard.recv()
    process.join()
    return result


def preload(root: Path, tests: Sequence[str]) -> None:
    """Import the libraries that these tests import, so that no trial has to."""

    def names() -> list[str]:
        run_tests(root, tests, None)
        return [name for name in sys.modules if not OWN.match(name)]

    os.chdir(root)
    sys.path.insert(0, str(root))
    os.environ |= {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in _alone(names):
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    gc.freeze()  # pytest collects garbage twice, and a fork copies what a collection touches


def baseline(root: Path, tests: Sequence[str]) -> float:
    """Seconds that the tests take without a change.

    Raises:
        SystemExit: they fail without a change.
    """
    begun = time.monotonic()
    if (code := _alone(lambda: run_tests(root, tests, None))) != GREEN:
        raise SystemExit(f"error: the tests fail without a change, with code {code}: {', '.join(tests)}")
    return time.monotonic() - begun


def run_all(root: Path, changes: Iterable[Change], tests: Sequence[str], usual: float, jobs: int) -> list[Ended]:
    """Try every change, `jobs` at the same time; returns how each ended, in their order.

    Args:
        usual: seconds that the tests take without a change; a trial may take ten times as many, and ten more.
    """
    waiting, limit = list(enumerate(changes)), 10 + 10 * usual
    ends: dict[int, Ended] = {}
    running: dict[Connection, tuple[int, BaseProcess, float]] = {}
    shown = tqdm(total=len(waiting), unit="change", disable=None)
    while waiting or running:
        while waiting and len(running) < jobs:
            place, change = waiting.pop(0)
            process, heard = _start(lambda change=change: run_tests(root, tests, change))  # type: ignore[misc]
            running[heard] = (place, process, time.monotonic() + limit)
        ready = wait(list(running), timeout=1)
        for heard, (place, process, end) in list(running.items()):
            if heard not in ready and time.monotonic() < end:
                continue
            ends[place] = _end_of(heard) if heard in ready else "timed out"
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid or 0, signal.SIGKILL)
            process.join()
            heard.close()
            del running[heard]
            shown.update()
    shown.close()
    return [ends[place] for place in sorted(ends)]


def _end_of(heard: Connection) -> Ended:
    try:
        code = heard.recv()
    except EOFError:  # the process is gone: a change may break the interpreter itself
        return "killed"
    if code not in (GREEN, RED, BROKEN):
        raise SystemExit(f"error: pytest ended with code {code}")
    return "survived" if code == GREEN else "killed"
