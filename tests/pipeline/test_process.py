"""A command and all that it starts, as one tree: streamed, cancelled, and nothing left behind."""

import signal
import sys
import threading
import time

import pytest

from juicer.runtime.process_groups import GROUP, members, run_in_group

# A child that prints what it is told to when it is asked to end, and a grandchild in a session of its own that waits.
TREE = """
import signal, subprocess, sys, time
started = subprocess.Popen([sys.executable, "-c", "import time; print('grandchild', flush=True); time.sleep(600)"],
                           start_new_session=True)
def end(*_):
    print("checkpointed", flush=True)
    sys.exit(3)
signal.signal(signal.SIGTERM, end)
print("child", flush=True)
while True:
    time.sleep(0.05)
"""
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
ORPHAN = """
import subprocess, sys
started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("done", flush=True)
"""


class Watched:
    """Collects lines, remembers the mark of the tree, and sets an event when an expected line has come."""

    def __init__(self, *awaited: str) -> None:
        self.lines: list[str] = []
        self.awaited = set(awaited)
        self.cancel = threading.Event()

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        if self.awaited and self.awaited <= set(self.lines):
            self.cancel.set()


@pytest.fixture
def groups(monkeypatch):
    """The marks of the trees that were started, so that their survivors can be counted."""
    marks: list[str] = []
    popen = __import__("subprocess").Popen

    def recording(*arguments, **options):
        marks.append(options["env"][GROUP])
        return popen(*arguments, **options)

    monkeypatch.setattr("juicer.runtime.process_groups.subprocess.Popen", recording)
    return marks


def test_output_is_handed_on_in_order_and_the_exit_code_is_the_commands(groups):
    watched = Watched()
    code = "import sys; [print(i) for i in range(500)]; print('last', file=sys.stderr); sys.exit(4)"
    assert run_in_group([sys.executable, "-c", code], watched) == 4
    assert watched.lines[:500] == [str(number) for number in range(500)]
    assert "last" in watched.lines
    assert members(groups[0]) == []


def test_a_cancelled_tree_may_finish_its_checkpoint_and_leaves_nobody(groups):
    watched = Watched("child", "grandchild")
    assert run_in_group([sys.executable, "-c", TREE], watched, cancel=watched.cancel) == 3
    assert watched.lines[-1] == "checkpointed"
    assert members(groups[0]) == []


def test_what_ignores_the_request_is_killed_when_the_grace_is_over(groups):
    watched = Watched("deaf")
    assert run_in_group([sys.executable, "-c", DEAF], watched, cancel=watched.cancel, grace=0.5) == -signal.SIGKILL
    assert members(groups[0]) == []


def test_an_exception_of_the_caller_ends_the_tree_and_comes_through(groups):
    class Cancelled(BaseException):
        pass

    def stop(line: str) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        run_in_group([sys.executable, "-c", TREE], stop)
    assert len(groups) == 1
    assert members(groups[0]) == []


def test_what_outlives_the_command_is_ended_with_it(groups):
    watched = Watched()
    assert run_in_group([sys.executable, "-c", ORPHAN], watched) == 0
    assert watched.lines == ["done"]
    assert members(groups[0]) == []


def test_a_running_tree_is_found_by_its_mark(groups):
    watched = Watched("grandchild")
    seen: list[int] = []

    def count(line: str) -> None:
        watched(line)
        if watched.cancel.is_set() and not seen:
            time.sleep(0.1)
            seen.append(len(members(groups[0])))

    run_in_group([sys.executable, "-c", TREE], count, cancel=watched.cancel)
    assert seen == [2]
