"""Write one run in MLflow while its stage runs: the helper process that juicer/stages/live.py starts and talks to.

It is told what the stage has read, then the stage's events, one JSON object per line, and measures the stage's
processes. It is a process of its own, so that neither MLflow's import nor a slow server delays the stage, and so that
the run of a killed stage ends KILLED.
"""

import argparse
import csv
import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from juicer.registry.database import locked
from juicer.registry.ensure import experiment_of
from juicer.registry.provenance import checkout_tags, git_tags, source_tag
from juicer.registry.records import ATTEMPT, PARAMS, attempt_of, in_words
from juicer.registry.store import connect, log_params, log_points, project_uri
from juicer.runtime.errors import InputError
from juicer.runtime.files import read_yaml
from juicer.settings.models import RegisterSettings
from juicer.stages.reading import Reading

if TYPE_CHECKING:
    from mlflow import MlflowClient

PROCESS = "juicer.process"
"""Tag of a run: host and process id of its stage."""
INTERVAL = 5.0
"""Seconds between two requests to MLflow, and between two measurements of the processes."""
LIMIT = 6.0
"""Seconds after which the helper exits when its stage has ended."""
MOST = 100_000
"""Maximum number of points kept while the server cannot be reached."""
GPU = {
    "utilization.gpu": "utilization_percentage",
    "memory.used": "memory_usage_megabytes",
    "power.draw": "power_usage_watts",
}
"""Columns of nvidia-smi, and what MLflow calls them."""


@dataclass(frozen=True)
class Opening:
    """What is known about a run when its stage starts."""

    attempt: str
    """Hash of the stage's inputs; `register` computes the same from dvc.lock once the stage has finished."""
    experiment: str
    tags: dict[str, str]
    params: dict[str, str]


def opening(reading: Reading) -> Opening:
    """What a run is opened with: what its stage has read, whatever is there by now."""
    params = read_yaml(Path(PARAMS))
    settings = RegisterSettings.parse(params.get("register") or {}, f"{PARAMS}: register")
    of_git = git_tags()
    tags = {"recipe": params["name"], "stage": reading.stage.partition("@")[0], **of_git, **checkout_tags(of_git)}
    tags |= source_tag(reading.stage)
    attempt = attempt_of(reading.stage, reading.inputs, reading.params)
    return Opening(attempt, settings.experiment or params["name"], tags, in_words(reading.params))


class Inbox:
    """The stage's messages, read by a thread until the stage has ended."""

    def __init__(self, lines: Any) -> None:
        self._lines = lines
        self._messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def take(self, seconds: float) -> list[dict[str, Any]]:
        """The messages of the next `seconds`, or fewer if the stage ends; the message of its end comes last."""
        deadline, taken = time.monotonic() + seconds, list[dict[str, Any]]()
        while not (taken and "status" in taken[-1]):
            try:
                taken.append(self._messages.get(timeout=max(0.0, deadline - time.monotonic())))
            except queue.Empty:
                break
        return taken

    def _read(self) -> None:
        for line in self._lines:
            message = json.loads(line)
            self._messages.put(message)
            if "status" in message:
                break
        else:
            # The stage was killed before it could report its end.
            self._messages.put({"status": "KILLED", "why": "", "at": time.time()})
        threading.Timer(LIMIT, os._exit, (1,)).start()


class Meter:
    """Measures a tree of processes and the machine's GPUs."""

    def __init__(self, process: int) -> None:
        self._root, self._cpu, self._at = process, dict[int, float](), time.monotonic()
        self._nvidia = shutil.which("nvidia-smi")
        self.sample()

    def sample(self) -> dict[str, float]:
        """Utilisation in per cent of one core since the last call, memory in MB, and per GPU nvidia-smi's figures."""
        now, used, memory, cpu = time.monotonic(), 0.0, 0, dict[int, float]()
        for process in self._tree():
            try:
                times = process.cpu_times()
                cpu[process.pid] = times.user + times.system
                memory += process.memory_info().rss
            except psutil.Error:
                continue
            used += cpu[process.pid] - self._cpu.get(process.pid, 0.0 if self._cpu else cpu[process.pid])
        share = 100 * used / max(now - self._at, 1e-3)
        self._cpu, self._at = cpu, now
        found = {"cpu_utilization_percentage": share, "system_memory_usage_megabytes": memory / 2**20}
        return {f"system/{name}": value for name, value in (found | self._gpus()).items()} if cpu else {}

    def _tree(self) -> list[psutil.Process]:
        try:
            root = psutil.Process(self._root)
            return [root, *(each for each in root.children(recursive=True) if each.pid != os.getpid())]
        except psutil.Error:
            return []

    def _gpus(self) -> dict[str, float]:
        if self._nvidia is None:
            return {}
        command = [self._nvidia, f"--query-gpu=index,{','.join(GPU)}", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=INTERVAL, check=True)
        except (OSError, subprocess.SubprocessError):
            self._nvidia = None
            return {}
        found = {}
        for index, *values in csv.reader(done.stdout.splitlines(), skipinitialspace=True):
            for name, value in zip(GPU.values(), values, strict=True):
                if re.fullmatch(r"[\d.]+", value):  # else "[N/A]"
                    found[f"gpu_{index}_{name}"] = float(value)
        return found


class Writer:
    """Writes a run; holds the points that are not yet in it."""

    def __init__(self, opening: Opening, stage: str, process: int) -> None:
        self._opening, self._stage = opening, stage
        self._process = f"{socket.gethostname()}:{process}"
        self._meter = Meter(process)
        self._points: list[tuple[str, float, float, int]] = []
        """Name, value, seconds since the epoch, step."""
        self._written: dict[str, set[int]] | None = None
        """Of a resumed run, the steps that its curves already have."""
        self._run = ""
        """Its id, once there is one."""
        self._tokens, self._since = 0.0, time.time()
        self._started = _begin(process)

    def open(self, client: "MlflowClient") -> bool:
        """Resume the stage's run, or create one; False if there is nothing to write."""
        experiment = experiment_of(client, self._opening.experiment)
        found = client.search_runs(
            [experiment], f"tags.`{ATTEMPT}` = '{self._opening.attempt}'", order_by=["attributes.start_time DESC"]
        )
        tags = {**self._opening.tags, PROCESS: self._process}
        if any(run.info.status == "FINISHED" for run in found):
            return False  # the same inputs were processed before, and the run records that
        owner = found[0].data.tags.get(PROCESS, "") if found else ""
        # If it names this process, an earlier attempt created the run and the response was lost.
        if found and found[0].info.status == "RUNNING" and owner != self._process and _lives(owner):
            return False
        if found:
            self._run, self._written = found[0].info.run_id, {}
            self._started = found[0].info.start_time / 1000
            client.update_run(self._run, "RUNNING")
            for key, value in tags.items():
                client.set_tag(self._run, key, value)
        else:
            tags[ATTEMPT] = self._opening.attempt
            begun = int(1000 * self._started)
            self._run = client.create_run(experiment, begun, tags=tags, run_name=self._stage).info.run_id
        log_params(client, self._run, self._opening.params)
        return True

    def note(self, message: dict[str, Any]) -> None:
        """Queue the points of a message of the stage."""
        part, at = message.get("part", ""), message["at"]
        if "curves" in message:
            prefix = f"{part}/train/" if part else "train/"
            self._points += [(prefix + name, value, at, message["step"]) for name, value in message["curves"].items()]
        if "tokens" in message:
            self._tokens += message["tokens"]
        if "total" in message:
            share = 100 * message["done"] / max(message["total"], 1)
            self._points.append((f"progress/{part or 'work'}", share, at, message["done"]))

    def measure(self) -> None:
        """Measure the processes, and the tokens per second since the last measurement."""
        now = time.time()
        figures = self._meter.sample()
        if self._tokens and now - self._since > 1:  # a pause lowers the next value
            figures["speed/response_tokens_per_second"] = self._tokens / (now - self._since)
            self._tokens, self._since = 0.0, now
        self._points += [(name, value, now, int(now - self._started)) for name, value in figures.items()]
        del self._points[:-MOST]

    def send(self, client: "MlflowClient") -> None:
        """Write the points; if that fails, they are kept."""
        log_points(client, self._run, [each for each in self._points if self._lacks(client, *each)])
        self._points.clear()

    def end(self, client: "MlflowClient", status: str, why: str) -> None:
        """Record how the stage ended."""
        if why:
            client.set_tag(self._run, "error", why)
        client.set_terminated(self._run, status)

    def _lacks(self, client: "MlflowClient", name: str, value: float, at: float, step: int) -> bool:
        """Whether a curve lacks a point at a step. A resumed stage repeats the steps after its last checkpoint."""
        if self._written is None or "train/" not in name:
            return True
        if name not in self._written:
            self._written[name] = {point.step for point in client.get_metric_history(self._run, name)}
        return step not in self._written[name]


def _begin(process: int) -> float:
    """When the process of a stage began, in seconds since the epoch; the helper is started later."""
    try:
        return float(psutil.Process(process).create_time())
    except psutil.Error:
        return time.time()


def _lives(process: str) -> bool:
    """Whether the stage of a run is still running on this machine."""
    host, _, number = process.rpartition(":")
    return host == socket.gethostname() and number.isdigit() and psutil.pid_exists(int(number))


def track(reading: Reading, process: int, inbox: Inbox) -> None:
    """Write until the stage has ended. If the server cannot be reached, it warns once and retries."""
    stage, uri, begun = reading.stage, project_uri(), opening(reading)
    with locked(uri), connect(uri):
        pass  # import MLflow and create the tables of a new SQLite file now, because both take seconds
    writer = Writer(begun, stage, process)
    status, opened, warned = "", False, False
    while not status:
        said = inbox.take(INTERVAL if opened or warned else 0.0)
        for message in said:
            writer.note(message)
        status = said[-1].get("status", "") if said else ""
        if status == "FINISHED" and not opened:
            return  # it finished before there was a run; `register` records it
        writer.measure()
        try:
            with connect(uri) as client:
                opened = opened or writer.open(client)
                if not opened:
                    return
                writer.send(client)
                if status:
                    writer.end(client, status, said[-1]["why"])
        except InputError as error:
            if not warned:
                warn(stage, str(error))
            warned = True


def warn(stage: str, what: str) -> None:
    print(f"warning: {stage} is not shown in MLflow while it runs: {what}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m juicer.registry.tracker", description=__doc__)
    parser.add_argument("--process", type=int, required=True, help="id of the process to measure, with its children")
    given = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends when the stage does, to record how that ended
    os.nice(10)
    # Few retries: the next request sends the same points.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    reading = Reading.model_validate_json(sys.stdin.readline())
    inbox = Inbox(sys.stdin)
    try:
        track(reading, given.process, inbox)
    except Exception as error:
        # No process waits for this one, so any error becomes one line.
        what = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        warn(reading.stage, what)


if __name__ == "__main__":
    main()
