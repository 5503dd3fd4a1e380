"""What the tests start by a fork behaves as if it had been started."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests import python

PROGRAM = """
import os, signal, sys
from pathlib import Path
import juicer

print(__name__, sys.argv, Path.cwd(), sys.path[:2], juicer.TEXT, os.environ["GIVEN"], sys.stdin.read())
print(signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), sorted(os.listdir("/proc/self/fd"))[:3])
sys.exit(os.environ["GIVEN"])
"""


def test_a_forked_program_prints_and_ends_as_one_that_was_started(tmp_path: Path) -> None:
    for name, text in (("program.py", PROGRAM), ("juicer.py", "TEXT = 'the code that is there'")):
        (tmp_path / name).write_text(text)
    environment = python.environment(tmp_path, GIVEN="words")
    command = [sys.executable, "-m", "program", "a", "b c"]
    expected = subprocess.run(
        command, cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    forked = python.run(tmp_path, "program", "a", "b c", environment=environment, check=False)
    assert "the code that is there" in expected.stdout
    places = str(tmp_path / "program.py")
    shown = [(done.returncode, done.stdout.replace(places, "program"), done.stderr) for done in (expected, forked)]
    assert shown[1] == shown[0]
    with pytest.raises(AssertionError, match="words"):
        python.run(tmp_path, "program", environment=environment)
