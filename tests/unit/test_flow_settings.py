"""What Prefect is told before it is imported."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

ASK = "import flows.server as s; print(s.get_current_settings().server.ephemeral.startup_timeout_seconds)"


@pytest.mark.parametrize(("given", "seconds"), [({}, "120"), ({"SECONDS": "7"}, "7")])
def test_a_server_for_the_time_of_a_run_may_start_slowly_unless_told_otherwise(given, seconds):
    name = "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_"
    environ = {key: value for key, value in os.environ.items() if not key.startswith(name)}
    environ |= {name + key: value for key, value in given.items()}
    done = subprocess.run(
        [sys.executable, "-c", ASK], cwd=ROOT, env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == seconds
