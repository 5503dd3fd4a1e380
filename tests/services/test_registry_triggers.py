"""A change in the real MLflow server, through the real receiver, starts `evaluate` on the real Prefect server."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from mlflow import MlflowClient

from tests.servers import MlflowServer, ask, end, free_port, start

ROOT = Path(__file__).resolve().parents[2]
LOCAL = {"MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https", "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true"}


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the API of a Prefect server that has our deployment of `evaluate`."""
    folder, port = tmp_path_factory.mktemp("prefect"), free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(folder))
        patch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{port}/api")
        patch.setenv("JUICER_CHECKOUT", str(ROOT))
        command = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        server = start(command, folder, f"http://127.0.0.1:{port}/api/health")
        try:
            for module in (["flows.setup"], ["prefect", "--no-prompt", "deploy", "--name", "evaluate"]):
                command = [sys.executable, "-m", *module]
                done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
                assert done.returncode == 0, done.stdout + done.stderr
            yield f"http://127.0.0.1:{port}/api"
        finally:
            end(server)


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """An MLflow server that may call the loopback interface."""
    server = MlflowServer(tmp_path_factory.mktemp("mlflow"), **LOCAL)
    yield server
    server.kill()


@pytest.fixture(scope="module")
def receiver(prefect: str, mlflow_server: MlflowServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the receiver, which has told MLflow to call it."""
    folder, port = tmp_path_factory.mktemp("receiver"), free_port()
    environment = {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": mlflow_server.uri, "JUICER_WEBHOOK_SECRET": "s"}
    command = ["flows.webhook", "--port", str(port), "--subscribe"]
    process = start(command, folder, f"http://127.0.0.1:{port}/health", **environment)
    yield f"http://127.0.0.1:{port}"
    end(process)


@pytest.fixture
def models(prefect: str) -> Callable[[], list[str]]:
    """What `evaluate` was started for."""

    def models() -> list[str]:
        runs: list[dict[str, Any]] = ask("POST", f"{prefect}/flow_runs/filter", json={}, timeout=60).json()
        return sorted(run["parameters"]["model"] for run in runs)

    return models


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait until something holds; five minutes are for a machine that has much else to do."""
    deadline = time.monotonic() + 300
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.5)


@pytest.mark.slow
def test_a_new_version_and_a_moved_alias_are_evaluated_and_a_forged_call_is_not(
    receiver: str, mlflow_server: MlflowServer, models: Callable[[], list[str]]
) -> None:
    client = MlflowClient(mlflow_server.uri)
    client.create_registered_model("quickstart")
    for _ in range(2):
        client.create_model_version("quickstart", "s3://weights/are/elsewhere")
    wait_until(lambda: len(models()) == 2)
    forged = httpx.post(receiver, json={"entity": "model_version", "action": "created", "data": {}}, timeout=60)
    assert forged.status_code == 401
    client.set_registered_model_alias("quickstart", "champion", "1")
    wait_until(lambda: len(models()) == 3)
    assert models() == ["models:/quickstart/1", "models:/quickstart/1", "models:/quickstart/2"]
