"""Prefect's server, MLflow's server and a worker on this machine, with the deployments applied. Ctrl-C ends all of it.

The command is `juicer ui`, or `make ui`. Both servers do what they are told, so both are behind flows/gate.py, with a
secret of this checkout: in the printed addresses for a browser, in .juicer/ui/env for programs.
"""

import contextlib
import os
import secrets
import signal
import socket
import sqlite3
import sys
import threading
import time
import webbrowser
from collections import deque
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

import httpx

from flows.form import choices
from flows.gate import HOSTS, SECRET, USER
from juicer.registry.database import prepare
from juicer.runtime.errors import InputError
from juicer.runtime.files import temporary_beside
from juicer.runtime.process_groups import run_in_group, stage_environment

HOST = "127.0.0.1"
LOGS, HOME = Path(".juicer/ui"), Path(".juicer/prefect")
SECRET_FILE, ENVIRONMENT, PAGE = LOGS / "secret", LOGS / "env", LOGS / "open.html"
STORE = "sqlite:///mlflow.db"
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a request to end, and a terminal that was closed."""
DAYS_OF_RUNS, DAYS_OF_EVENTS = 30, 1
"""How long Prefect keeps runs that have ended, with their logs, and its events."""
SECONDS_TO_START = 180.0
SECONDS_TO_END = 40.0
"""More than a stage's own time for its checkpoint (runtime/process_groups.py), so that a flow can end its stages."""


class Service:
    """A program that runs until it is ended; its output goes to a file in .juicer/ui."""

    def __init__(self, name: str, command: list[str], env: dict[str, str]) -> None:
        self.name, self.log = name, LOGS / f"{name}.log"
        self._cancel, self._last = threading.Event(), deque[str](maxlen=5)
        self._thread = threading.Thread(target=self._run, args=(command, env), name=name)
        self._thread.start()

    def _run(self, command: list[str], env: dict[str, str]) -> None:
        with self.log.open("w", encoding="utf-8", buffering=1) as log:

            def line(text: str) -> None:
                log.write(f"{text}\n")
                self._last.append(text)

            run_in_group(command, line, cancel=self._cancel, grace=SECONDS_TO_END, environment=env)

    def check(self) -> None:
        """Raises InputError if the program has ended by itself."""
        if not self._thread.is_alive():
            raise InputError(f"{self.name} ended: {' '.join(self._last)}", where=str(self.log))

    def wait_for(self, address: str) -> None:
        """Wait until the program answers at an address."""
        deadline = time.monotonic() + SECONDS_TO_START
        while time.monotonic() < deadline:
            self.check()
            try:
                httpx.get(address, timeout=5).raise_for_status()
                return
            except httpx.HTTPError:
                time.sleep(0.2)
        raise InputError(f"{self.name} does not answer after {SECONDS_TO_START:.0f} s", where=str(self.log))

    def end(self) -> None:
        """End the program and all that it started."""
        self._cancel.set()
        self._thread.join()


class Form:
    """What the form of `align` offers: the recipes of the folder, and the stages of the active one."""

    def __init__(self) -> None:
        self._stamp, self._offered = self._look(), choices()

    def has_changed(self) -> bool:
        """Whether it offers something else than at the last call."""
        stamp = self._look()
        if stamp == self._stamp:
            return False
        offered = choices()
        changed = offered != self._offered
        self._stamp, self._offered = stamp, offered
        return changed

    def _look(self) -> list[tuple[str, int]]:
        """The files that it depends on, each with the time of its last change."""
        files = [Path("params.yaml"), Path("dvc.yaml"), *sorted(Path("recipes").glob("*.yaml"))]
        return [(str(path), path.stat().st_mtime_ns) for path in files if path.is_file()]


def write_private(path: Path, text: str) -> None:
    """Write a file that nobody else can read, not even for a moment."""
    with temporary_beside(path) as temporary:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        temporary.replace(path)


def secret_of(path: Path) -> str:
    """The secret of this checkout; made when there is none. Delete the file for another one."""
    if not path.is_file() or not path.read_text(encoding="utf-8").strip():
        write_private(path, f"{secrets.token_urlsafe(32)}\n")
    path.chmod(0o600)
    return path.read_text(encoding="utf-8").strip()


def credentials(prefect: str, mlflow: str, secret: str) -> dict[str, str]:
    """Environment variables by which the clients of both servers find them and are let in."""
    return {
        "PREFECT_API_URL": f"{prefect}/api",
        "PREFECT_API_AUTH_STRING": f"{USER}:{secret}",
        "MLFLOW_TRACKING_URI": mlflow,
        "MLFLOW_TRACKING_USERNAME": USER,
        "MLFLOW_TRACKING_PASSWORD": secret,
    }


def behind_gate(address: str, secret: str) -> dict[str, str]:
    """Environment variables of the server at an address: who is let in."""
    return {SECRET: secret, HOSTS: urlsplit(address).netloc}


def variables(prefect: str, mlflow: str, secret: str) -> dict[str, str]:
    """Environment variables of the servers, the worker and the flows, beside those of this process."""
    return (
        stage_environment()
        | credentials(prefect, mlflow, secret)
        | {
            "PREFECT_HOME": str(HOME.resolve()),
            "PREFECT_SERVER_UI_API_URL": f"{prefect}/api",
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": prefect,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            # How long the database keeps what: by default events for a week and runs for ever.
            "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
            "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(DAYS_OF_RUNS * 86400),
            "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": f"P{DAYS_OF_EVENTS}D",
            # By default Prefect keeps the number of held GPUs in its database, but their holders only in memory, which
            # a restart loses.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            # Seven processes that evaluate GenAI applications.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "JUICER_CHECKOUT": str(Path.cwd()),
            "PYTHONPATH": str(Path.cwd()),
        }
    )


def shrink(database: Path) -> None:
    """Make a database smaller if most of it is what Prefect has deleted; SQLite does not by itself."""
    if not database.is_file():
        return
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(database, timeout=1)) as store:
        pages, free = (store.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count"))
        if 2 * free > pages:
            store.execute("VACUUM")


def log_in(address: str, secret: str) -> str:
    """The address that logs a browser in."""
    return f"{address}/?key={secret}"


def open_browser(address: str) -> None:
    """Open a page by way of a file that only this user can read: all users can read the browser's command line."""
    write_private(PAGE, f'<!doctype html><meta http-equiv="refresh" content="0;url={address}">\n')
    webbrowser.open(PAGE.resolve().as_uri())


def serve(port: int, mlflow_port: int, gpus: int | None, browser: bool = False) -> None:
    """Run everything until it is interrupted or one of the programs ends."""
    for name, each in (("--port", port), ("--mlflow-port", mlflow_port)):
        check_free(name, each)
    for folder in (LOGS, HOME):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    prepare(STORE)  # interrupted while it makes the tables, MLflow's server would leave a broken store
    prefect, mlflow = f"http://{HOST}:{port}", f"http://{HOST}:{mlflow_port}"
    secret = secret_of(SECRET_FILE)
    lines = [f"{name}='{value}'\n" for name, value in credentials(prefect, mlflow, secret).items()]
    write_private(ENVIRONMENT, "".join(lines))
    shrink(HOME / "prefect.db")
    env = variables(prefect, mlflow, secret)
    python = [sys.executable, "-m"]
    prefect_server = ["flows.gate", "prefect", "--host", HOST, "--port", str(port)]
    mlflow_server = ["flows.gate", "mlflow", "--host", HOST, "--port", str(mlflow_port), "--workers", "1"]
    worker = ["prefect", "worker", "start", "--pool", "process", "--name", "local"]
    running = list[Service]()
    try:
        running.append(Service("prefect-server", [*python, *prefect_server], env | behind_gate(prefect, secret)))
        mlflow_server += ["--backend-store-uri", STORE]
        running.append(Service("mlflow-server", [*python, *mlflow_server], env | behind_gate(mlflow, secret)))
        running[0].wait_for(f"{prefect}/api/health")
        run_once([*python, "flows.setup", *([] if gpus is None else ["--gpus", str(gpus)])], env)
        run_once([*python, "prefect", "--no-prompt", "deploy", "--all"], env)
        running[1].wait_for(f"{mlflow}/health")
        running.append(Service("worker", [*python, *worker], env))
        print(
            f"Prefect  {log_in(prefect, secret)}\n"
            f"MLflow   {log_in(mlflow, secret)}\n"
            f"Logs     {LOGS}\n"
            f"These addresses log a browser in: keep them to yourself. For commands in another terminal:\n"
            f"  set -a; . {ENVIRONMENT}; set +a\n"
            "Ctrl-C ends all of it.",
            flush=True,
        )
        if browser:
            open_browser(log_in(prefect, secret))
        form = Form()
        while True:
            for service in running:
                service.check()
            if form.has_changed():
                refresh([*python, "flows.form"], env)
            time.sleep(0.5)
    finally:
        for number in INTERRUPTS:  # a second Ctrl-C: the servers still have to be ended
            signal.signal(number, signal.SIG_IGN)
        # The worker first: flows that are being ended still have to tell the servers.
        for service in reversed(running):
            service.end()


def refresh(command: list[str], env: dict[str, str]) -> None:
    """Run a command that writes the form anew; one that fails is a warning: everything else goes on."""
    try:
        run_once(command, env)
    except InputError as error:
        print(f"warning: the form of align is as it was: {error}", file=sys.stderr, flush=True)


def run_once(command: list[str], env: dict[str, str]) -> None:
    """Run a command; InputError with its last lines if it fails."""
    last = deque[str](maxlen=10)
    if run_in_group(command, last.append, environment=env) != 0:
        raise InputError("\n".join(last), where=" ".join(command[2:]))


def check_free(option: str, port: int) -> None:
    """InputError if another program already listens on the port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        if probe.connect_ex((HOST, port)) == 0:
            do = f"end the program that uses it, or choose another port with {option}"
            raise InputError(f"port {port} is in use", where=HOST, do=do)


def interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def run(port: int, mlflow_port: int, gpus: int | None, browser: bool = False) -> None:
    """`serve` until Ctrl-C, a request to end, or the end of the terminal.

    Args:
        port: Prefect's.
        mlflow_port: MLflow's.
        gpus: how many GPUs stages may hold at the same time; None keeps the server's limit.
        browser: whether to open Prefect's page.
    """
    for number in INTERRUPTS:  # also where a shell started this with interrupts ignored
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # but nohup means it
            signal.signal(number, interrupt)
    try:
        serve(port, mlflow_port, gpus, browser)
    except KeyboardInterrupt:
        print("ended")
