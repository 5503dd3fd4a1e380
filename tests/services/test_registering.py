"""Registering with one MLflow server from several checkouts adds what is missing once."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from mlflow import MlflowClient

from juicer.registry.aliases import Aliases
from juicer.runtime.errors import InputError
from tests.servers import MlflowServer
from tests.shared import copied
from tests.small_pipeline import ROOT, register

REGISTER = """
import sys, time
from pathlib import Path
import mlflow
from tests.small_pipeline import register
print("ready", flush=True)
sys.stdin.readline()
print(register(Path()))
"""


def test_two_checkouts_that_register_at_once_add_every_run_and_version_once(
    small_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        copied(small_pipeline, tmp_path / name)
    server = MlflowServer(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [
        subprocess.Popen([sys.executable, "-c", REGISTER], cwd=tmp_path / name, env=environment, **pipes)
        for name in ("a", "b")
    ]
    try:
        for process in both:
            assert process.stdout.readline() == "ready\n"
        for process in both:
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [process.communicate()[0] for process in both]
        assert [process.returncode for process in both] == [0, 0]
        assert sorted(text.partition("(")[2] for text in said) == [
            "0 runs and 0 versions are new)\n", "8 runs and 3 versions are new)\n",
        ]  # fmt: skip
        client = MlflowClient(server.uri)
        runs = Counter(run.info.run_name for run in client.search_runs(["1"]))
        assert (len(runs), set(runs.values())) == (8 + 1, {1}), "with the pipeline run"
        assert len(client.search_model_versions("name='quickstart'")) == 3

        monkeypatch.chdir(tmp_path / "a")
        monkeypatch.setattr("juicer.registry.aliases.PATIENCE", 0.1)
        with Aliases(client, "quickstart").locked():
            assert "(0 runs and 0 versions are new)" in register(Path()), "who adds nothing waits for nobody"
            client.delete_registered_model_alias("quickstart", "challenger")
            with pytest.raises(InputError, match="--unlock quickstart"):
                register(Path())
    finally:
        for process in both:
            process.kill()
        server.kill()
