"""A run in MLflow grows while its stage runs, ends as the stage did, and is the one that `register` knows."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from juicer.registry.ensure import KEY, ensure
from juicer.registry.records import collect
from juicer.registry.tracker import Meter, Opening, Writer
from juicer.reporting.contract import Summary
from tests import python

# MLflow's own use of SQLAlchemy; nothing we could mend.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

ROOT = Path(__file__).resolve().parents[2]
SUMMARY = Path("metrics/summary.json")
SUMMARISED = {"recipe": "quickstart", "seed": 0, "control": "sft", "models": [], "champion": {"name": "sft"}}
STAGE = '''
"""A stage that takes a step whenever a file says so."""
import os, time
from pathlib import Path
from juicer.runtime.errors import InputError
from juicer.runtime.files import write_json
from juicer.stages.launch import main

def arguments(parser):
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path)

def run(stage):
    stage.value("seed")
    Path("pid").write_text(str(os.getpid()))
    with stage.training(None, steps=3, resumable=False) as context:
        for step in (1, 2, 3):
            context.emit_metrics(step, loss=1 / step)
            context.emit_tokens(100)
            context.progress(1)
            while step == 2 and not Path("go").exists():
                time.sleep(0.05)
                if Path("broken").exists():
                    raise InputError("the loss is nan")
    with stage.publish(stage.arguments.out) as out:
        out.mkdir()
        curves = {"loss": {"step": [1, 2, 3], "value": [1.0, 0.5, 1 / 3]}}
        counts = {"stage": "sft", "steps": 3, "response_tokens": 300}
        write_json(out / "training.json", {**counts, "curves": curves, "facts": {"accuracy": 0.75}})
    return "done"

if __name__ == "__main__":
    main(run, arguments, __doc__)
'''
GRAPH = """
stages:
  curate:
    cmd: mkdir -p data/curated && cp source data/curated/train
    deps: [source]
    outs: [data/curated]
  sft:
    cmd: python -m tasks.sft --data ${graph.curated} --out models/sft
    deps: ["${graph.curated}", tasks/sft.py, source]
    params: [seed, compute, sft]
    meta: {run: training}
    outs: [models/sft]
  report:
    cmd: mkdir -p metrics && cp summary metrics/summary.json
    deps: [summary, models/sft]
    outs: [metrics/summary.json]
"""
Start = Callable[..., "subprocess.Popen[str]"]
PATIENCE = 300
"""Seconds after which a test gives up waiting for what will never happen."""


@pytest.fixture
def small(project: Path, empty_store: Path) -> Path:
    """A project whose `sft` waits for a file, and does nothing else; curate has run."""
    shutil.copy(empty_store, project / "mlflow.db")
    (project / "tasks/sft.py").write_text(STAGE)
    (project / "dvc.yaml").write_text(GRAPH)
    (project / "source").write_text("text")
    (project / "summary").write_text(json.dumps(SUMMARISED))
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("\ngraph:\n", "\ngraph:\n  curated: data/curated\n"))
    # The validation would refuse this graph.
    (project / "juicer/recipe/checks.py").write_text("def validate(values, where):\n    pass\n")
    subprocess.run(["git", "init", "-q"], check=True)
    dvc("repro", "-q", "curate")
    return project


def dvc(*arguments: str) -> None:
    python.run(Path.cwd(), "dvc", *arguments, environment=python.environment(Path.cwd()))


@pytest.fixture
def start(small: Path) -> Iterator[Start]:
    """Starts `dvc repro sft` there, its run opened at once."""
    processes = []

    def start(**more: str) -> "subprocess.Popen[str]":
        environment = python.environment(small, JUICER_LIVE_SECONDS="0", **more)
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "dvc", "repro", "sft"],
                cwd=small, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
        )  # fmt: skip
        return processes[-1]

    yield start
    for process in processes:
        process.terminate()  # the stage ends with it
        with process:
            pass


def until(check: Callable[[], Any], process: "subprocess.Popen[str]") -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (found := check()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found


def runs(folder: Path) -> list[Run]:
    """The runs of stages, without the pipeline run that they get as their parent."""
    found = MlflowClient(f"sqlite:///{folder}/mlflow.db").search_runs(["1"])
    return [run for run in found if run.data.tags["stage"] != "pipeline"]


def steps(folder: Path, run: Run, name: str) -> list[int]:
    history = MlflowClient(f"sqlite:///{folder}/mlflow.db").get_metric_history(run.info.run_id, name)
    return [point.step for point in history]


def grown(folder: Path) -> Callable[[], bool]:
    """Whether there is one run, which is at work on its second step and has been measured."""

    def check() -> bool:
        found = [run for run in runs(folder) if run.info.status == "RUNNING"]
        return bool(found) and {"train/loss", "system/cpu_utilization_percentage"} <= set(found[0].data.metrics)

    return check


def registered(folder: Path) -> str:
    records = collect(Summary.read(folder / SUMMARY), SUMMARY, Path("dvc.lock"), "quickstart")
    return ensure(records, f"sqlite:///{folder}/mlflow.db", "quickstart", "quickstart")


def test_a_run_ends_as_its_stage_did_goes_on_when_that_does_and_is_registered_once(small: Path, start: Start) -> None:
    stage = start()
    until(grown(small), stage)
    os.kill(int((small / "pid").read_text()), signal.SIGTERM)
    stage.wait()
    (killed,) = runs(small)
    assert killed.info.start_time < killed.info.end_time
    assert killed.data.tags["mlflow.source.name"] == "tasks/sft.py"
    assert (killed.info.status, killed.info.run_name) == ("KILLED", "sft")
    assert killed.data.params["seed"] == "0"
    assert killed.data.metrics["system/system_memory_usage_megabytes"] > 1
    assert (steps(small, killed, "train/loss"), killed.data.metrics["progress/work"]) == (
        [1, 2],
        pytest.approx(200 / 3),
    )

    stage = start()
    until(grown(small), stage)
    os.kill(int((small / "pid").read_text()), signal.SIGKILL)
    stage.wait()
    stage = start()
    until(grown(small), stage)
    (small / "broken").touch()
    stage.wait()
    (small / "broken").unlink()
    (failed,) = runs(small)
    assert (failed.info.run_id, failed.info.status) == (killed.info.run_id, "FAILED")
    assert failed.data.tags["error"] == "the loss is nan"

    stage = start()
    until(grown(small), stage)
    (small / "go").touch()
    assert stage.wait() == 0
    (finished,) = runs(small)
    assert (finished.info.run_id, finished.info.status) == (killed.info.run_id, "FINISHED")
    assert steps(small, finished, "train/loss") == [1, 2, 3]
    assert KEY not in finished.data.tags

    dvc("repro", "-q")
    assert "1 runs and 0 versions are new" in registered(small)
    (known,) = runs(small)
    assert known.info.run_id == killed.info.run_id
    assert (known.data.tags[KEY], known.data.metrics["accuracy"]) == (f"sft:{known.data.tags['dvc_md5']}", 0.75)
    assert steps(small, known, "train/loss") == [1, 2, 3]
    assert [each.dataset.name for each in known.inputs.dataset_inputs] == ["data/curated"]
    assert "0 runs and 0 versions are new" in registered(small)


def test_only_one_process_at_a_time_writes_a_run_and_none_writes_one_that_is_finished(
    empty_store: Path, tmp_path: Path
) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    begun = Opening("attempt", "quickstart", {"stage": "sft"}, {"seed": "0"})
    gone = 2**22 + 1  # above the highest process id of Linux
    assert Writer(begun, "sft", gone).open(client)
    assert Writer(begun, "sft", os.getpid()).open(client), "who wrote before is gone"
    assert not Writer(begun, "sft", os.getppid()).open(client)
    (run,) = client.search_runs(["1"])
    client.set_terminated(run.info.run_id, "FINISHED")
    assert not Writer(begun, "sft", os.getpid()).open(client)
    assert len(client.search_runs(["1"])) == 1


def test_a_request_that_fails_while_a_run_is_opened_is_made_up_for_by_the_next_try(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    writer = Writer(Opening("attempt", "quickstart", {"stage": "sft"}, {"seed": "0"}), "sft", os.getpid())

    def away(*_: Any, **__: Any) -> None:
        raise MlflowException("503 for a moment")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", away)
        with pytest.raises(MlflowException):
            writer.open(client)
    assert writer.open(client), "the run is its own"
    writer.end(client, "FAILED", "the loss is nan")
    (run,) = client.search_runs(["1"])
    assert (run.info.status, run.data.params) == ("FAILED", {"seed": "0"})


def test_what_nvidia_smi_says_of_each_gpu_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf '0, 45, 1024, 70.50\\n1, [N/A], 8, 11.00\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    figures = Meter(os.getpid()).sample()
    assert {name: value for name, value in figures.items() if "gpu" in name} == {
        "system/gpu_0_utilization_percentage": 45,
        "system/gpu_0_memory_usage_megabytes": 1024,
        "system/gpu_0_power_usage_watts": 70.5,
        "system/gpu_1_memory_usage_megabytes": 8,
        "system/gpu_1_power_usage_watts": 11,
    }
    assert figures["system/system_memory_usage_megabytes"] > 10


def test_a_server_that_is_down_costs_a_stage_one_line(small: Path, start: Start) -> None:
    stage = start(MLFLOW_TRACKING_URI="http://127.0.0.1:1")
    assert stage.stdout is not None
    printed = [""]
    while "warning" not in printed[-1]:
        printed.append(stage.stdout.readline())
        assert printed[-1], printed
    warning = "warning: sft is not shown in MLflow while it runs: http://127.0.0.1:1: MLflow's store cannot be reached"
    assert printed[-1].startswith(warning)
    (small / "go").touch()
    rest = stage.stdout.read()
    assert (stage.wait(), rest.count("warning")) == (0, 0)
    assert (small / "models/sft/training.json").is_file()
