"""The tests of a changed module run as dev.mutants runs them: by pytest without its plugins."""

import os
import subprocess
import sys
from pathlib import Path

from dev.mutants.trials import GREEN

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from pathlib import Path
from dev.mutants.trials import run_tests
sys.exit(run_tests(Path.cwd(), ["errors"], None))
"""


def test_the_tests_run_without_the_plugins_of_pytest() -> None:
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == GREEN, done.stdout + done.stderr
    assert " passed" in done.stdout
