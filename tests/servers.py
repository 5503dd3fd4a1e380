"""Real servers on the loopback interface, on ports of their own, that can be killed and started again."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_for(address: str, process: "subprocess.Popen[bytes]", seconds: float = 300) -> None:
    """Wait until something answers at `address`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server ended"
        try:
            if httpx.get(address, timeout=2).is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise TimeoutError(address)


def ask(method: str, address: str, client: httpx.Client | None = None, **content: Any) -> httpx.Response:
    """What a Prefect server answers. On a busy machine SQLite is locked now and then; all clients repeat on a 503."""
    deadline = time.monotonic() + 300
    request = client.request if client is not None else httpx.request
    while (answer := request(method, address, **content)).status_code == 503 and time.monotonic() < deadline:
        time.sleep(0.2)
    answer.raise_for_status()
    return answer


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and all that it started, at once."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def start(command: list[str], folder: Path, address: str, **environment: str) -> "subprocess.Popen[bytes]":
    """Start `python -m command` in `folder`, and wait until `address` answers; what it prints goes to a log there."""
    with (folder / f"{command[0]}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=folder,
            env={**os.environ, **environment},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_for(address, process)
    except BaseException:
        end(process)
        raise
    return process


class MlflowServer:
    """MLflow over SQLite in `folder`."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder, self.environment, self.port = folder, environment, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        stores = ["--backend-store-uri", f"sqlite:///{self.folder}/store.db"]
        stores += ["--artifacts-destination", str(self.folder / "artifacts")]
        self.process = start([*command, *stores], self.folder, f"{self.uri}/health", **self.environment)

    def kill(self) -> None:
        """Kill it, as a power cut would."""
        end(self.process)
