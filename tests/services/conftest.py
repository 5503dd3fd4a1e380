"""`make ui` for real: Prefect's server, MLflow's server and a worker, on free ports, in a project of cheap stages.

And a stand-in for a borrowed machine with a GPU, with the kit that goes there.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import httpx
import psutil
import pytest

from tests import bare_machine
from tests.conftest import ROOT
from tests.servers import ask, end
from tests.tiny_graph import environment, make

PATIENCE = 300
"""Seconds after which a test gives up; far more than anything here takes."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(check: Callable[[], Any], what: str) -> Any:
    """Wait for something to become true, and return it."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if value := check():
            return value
        time.sleep(0.2)
    raise AssertionError(f"waited in vain for {what}")


@dataclass
class Services:
    """What a test needs of the running services."""

    folder: Path
    api: str
    mlflow: str
    process: "subprocess.Popen[str]"
    log_in: str
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx.Client(base_url=self.api, timeout=30, auth=self.credentials())

    def credentials(self) -> tuple[str, str]:
        """A name and a password that both servers let in."""
        name, _, password = self.variables()["PREFECT_API_AUTH_STRING"].partition(":")
        return name, password

    def variables(self) -> dict[str, str]:
        """What a shell gets from the file that `juicer ui` names."""
        lines = (self.folder / ".juicer/ui/env").read_text().splitlines()
        return {name: value.strip("'") for name, _, value in (line.partition("=") for line in lines)}

    def request(self, method: str, path: str, **content: Any) -> Any:
        """The server's answer; None where it says nothing."""
        answer = ask(method, path, self.client, **content)
        return answer.json() if answer.content else None

    def post(self, path: str, **body: Any) -> Any:
        return self.request("POST", path, json=body)

    def patch(self, path: str, **body: Any) -> Any:
        return self.request("PATCH", path, json=body)

    def get(self, path: str) -> Any:
        return self.request("GET", path)

    def start(self, deployment: str = "align/align", variables: dict[str, Any] | None = None, **parameters: Any) -> str:
        """Ask for a run of a deployment, with other variables of its work pool; returns the flow run's id."""
        found = self.get(f"/deployments/name/{deployment}")
        asked = {"parameters": parameters, "job_variables": variables or {}}
        return str(self.post(f"/deployments/{found['id']}/create_flow_run", **asked)["id"])

    def state(self, run: str) -> dict[str, Any]:
        return dict(self.get(f"/flow_runs/{run}")["state"])

    def ended(self, run: str) -> dict[str, Any]:
        """Wait until a run has ended; returns its last state."""
        final = {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}
        return dict(until(lambda: (state := self.state(run))["type"] in final and state, f"the end of {run}"))

    def stages(self, run: str) -> dict[str, dict[str, Any]]:
        """The task runs of a flow run by name."""
        found = self.post("/task_runs/filter", flow_runs={"id": {"any_": [run]}})
        return {each["name"]: each for each in found}

    def workers(self, pool: str) -> set[str]:
        """The names of the workers of a pool that are online."""
        found = self.post(f"/work_pools/{pool}/workers/filter", workers={"status": {"any_": ["ONLINE"]}})
        return {each["name"] for each in found}

    def logs(self, run: str) -> list[str]:
        found = self.post("/logs/filter", logs={"flow_run_id": {"any_": [run]}}, sort="TIMESTAMP_ASC")
        return [each["message"] for each in found]

    def artifacts(self, run: str) -> dict[str, Any]:
        found = self.post("/artifacts/filter", flow_runs={"id": {"any_": [run]}})
        return {each["key"]: each["data"] for each in found}

    def processes(self, *words: str) -> list[psutil.Process]:
        """Living processes in the project's folder with one of these words in their command line."""
        found = []
        for process in psutil.process_iter():
            try:
                line = " ".join(process.cmdline())
                if any(word in line for word in words) and Path(process.cwd()) == self.folder:
                    found.append(process)
            except psutil.Error:
                continue
        return found


@contextmanager
def worker(services: Services, pool: str, folder: Path, home: Path, **more: str) -> Iterator[None]:
    """A worker of a pool, of one flow run at a time, in a folder, with a home and more variables of its own.

    The server knows it when the block begins: `align` refuses to send work to a pool without a worker.
    """
    settings = services.variables() | {"HOME": str(home), "PREFECT_WORKER_QUERY_SECONDS": "1"}
    name = f"worker-{time.monotonic_ns()}"
    process = subprocess.Popen(
        [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--name", name, "--limit", "1"],
        cwd=folder, env=environment(folder, JUICER_CHECKOUT=str(folder), **settings, **more), start_new_session=True,
    )  # fmt: skip
    try:
        until(lambda: name in services.workers(pool), f"a worker of {pool}")
        yield
    finally:
        end(process)  # asked to end, it would stay for ever where the tests are run with interrupts ignored


def log_in(output: list[str]) -> str:
    """The address that logs a browser in to Prefect's page, out of what `juicer ui` prints."""
    (line,) = (line for line in output if line.startswith("Prefect "))
    return line.split()[1]


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """The services; when they are interrupted as by an impatient Ctrl-C twice, no process of theirs may be left."""
    folder = make(tmp_path_factory.mktemp("services"))
    port, mlflow_port = free_port(), free_port()
    environ = environment(folder)
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        environ.pop(name, None)
    process = subprocess.Popen(
        [sys.executable, "-m", "juicer", "ui", "--port", str(port), "--mlflow-port", str(mlflow_port)],
        cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    output = []
    while not "".join(output[-1:]).startswith("Ctrl-C"):
        output.append(process.stdout.readline())
        assert output[-1], "".join(output)
    running = Services(
        folder, f"http://127.0.0.1:{port}/api", f"http://127.0.0.1:{mlflow_port}", process, log_in(output)
    )
    assert running.processes("prefect", "mlflow")
    try:
        yield running
    finally:
        running.client.close()
        for _ in range(2):
            os.kill(process.pid, signal.SIGINT)
            time.sleep(0.5)
        code = process.wait(timeout=PATIENCE)
        process.stdout.close()
    assert code == 0
    assert running.processes("prefect", "mlflow", "dvc", "work.py") == []


def no_registry(reason: str) -> NoReturn:
    """What needs pip's package index cannot be tested without; where CI is set, that is a failure."""
    if "CI" in os.environ:
        pytest.fail(f"pip reaches no package index: {reason}", pytrace=False)
    pytest.skip(f"pip reaches no package index: {reason}")


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a stand-in for a borrowed machine with a GPU: no more than that has, and an older transformers.

    Tests share it: install nothing into it but beside it, with pip's --target.
    """
    try:
        return bare_machine.make(tmp_path_factory.mktemp("bare") / "venv")
    except bare_machine.NoRegistryError as error:
        no_registry(str(error))


@pytest.fixture(scope="session")
def gpu_kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What such a machine needs, collected for the stand-in's Python, without the model."""
    out = tmp_path_factory.mktemp("kit") / "kit"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    command = [sys.executable, "-m", "bench.gpu_kit", "--out", str(out), "--python", python]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if "pip download: " in done.stderr:
        no_registry(done.stderr.strip())
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return out
