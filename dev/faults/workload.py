"""The small project that the faults are tried on, its copies, and the processes of a trial.

Its stages are stand-ins under the real machinery (dev/faults/project), run by the real `juicer run` under real DVC and
MLflow: what is tested is what is around the work of a stage, and a run takes seconds.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from juicer.runtime.files import remove

ROOT = Path(__file__).resolve().parents[2]
MARK = "JUICER_FAULTS_TRIAL"
"""Environment variable by which the processes of a trial are found, whatever session they are in."""
RUN = ("juicer", "run")
PATIENCE = 600.0
"""Seconds after which a command that has not ended counts as one that never does."""
TINY = ("irft.rounds=1", "rft.rounds=0", "sft_matched.enabled=false")
RATE = "sft.optimiser.learning_rate"
HOOK = ROOT / "dev/faults/hook"
STAND_INS = {
    "chain": "chain",
    "curate": "curate",
    "sft": "training",
    "irft_train": "training",
    "evaluate": "evaluate",
    "report": "report",
}
"""Modules of tasks/ and what stands in for them."""
TRAINED = {"sft": "models/sft", "irft_train@r1": "models/irft/r1"}


@dataclass(frozen=True)
class Done:
    """A command that has ended, or was ended after PATIENCE."""

    code: int
    out: str
    error: str
    seconds: float
    hung: bool = False

    def __str__(self) -> str:
        lines = [line for line in (self.error + self.out).splitlines() if line.strip()]
        first = [line for line in lines if line.lower().startswith("error")] or lines[-1:] or [""]
        how = "hung" if self.hung else f"exit code {self.code}"
        return f"{how} after {self.seconds:.0f} s: {first[0][:200]}"


class Running:
    """A command of a trial, in a session of its own, as in a terminal of its own."""

    def __init__(self, project: "Project", command: Sequence[str], more: dict[str, str]) -> None:
        number = uuid.uuid4().hex[:6]
        self._logs = [project.logs / f"{number}-{command[-1].replace('/', '-')[:30]}.{end}" for end in ("out", "err")]
        self._begun = time.monotonic()
        with self._logs[0].open("w") as out, self._logs[1].open("w") as error:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=project.folder,
                env=project.environment(**more),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=error,
                start_new_session=True,
            )

    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def kill_group(self) -> None:
        """Kill its process group, but not what has begun a session of its own."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def wait(self, seconds: float = PATIENCE) -> Done:
        """Wait for its end; end it if it takes too long."""
        hung = False
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            hung = True
            self.kill_group()
            self.process.wait()
        out, error = (path.read_text(errors="replace") for path in self._logs)
        return Done(self.process.returncode, out, error, time.monotonic() - self._begun, hung)


class Project:
    """A copy of the template for one trial."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs = folder.with_name(f"{folder.name}-logs")
        self.logs.mkdir(exist_ok=True)
        self.mark = uuid.uuid4().hex
        self.variables = dict[str, str]()
        """For all commands of the trial."""

    def environment(self, **more: str) -> dict[str, str]:
        """The environment of a command of the trial."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own = {
            "PATH": path,
            "PYTHONPATH": "",
            "DVC_SITE_CACHE_DIR": str(self.folder / ".dvc/tmp/site"),
            "DVC_NO_ANALYTICS": "1",
            "JUICER_CHECKPOINT_SECONDS": "0.02",
            "JUICER_LIVE_SECONDS": "3600",
            "JUICER_FAULTS_STEPS": str(self.logs / "steps"),
            "JUICER_FAULTS_GATE": str(self.logs / "gate"),
            MARK: self.mark,
        }
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "JUICER_"))}
        return {**kept, **own, **self.variables, **more}

    def start(self, *command: str, **more: str) -> Running:
        """Start `python -m COMMAND` in the project."""
        return Running(self, command, more)

    def call(self, *command: str, **more: str) -> Done:
        """Run `python -m COMMAND` in the project."""
        return self.start(*command, **more).wait()

    def processes(self, *words: str) -> list[psutil.Process]:
        """The trial's running processes whose command line has all of the words."""
        found = []
        for process in psutil.process_iter():
            try:
                line = process.cmdline()
                ours = all(word in line for word in words) and process.environ().get(MARK) == self.mark
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    @contextmanager
    def gate(self) -> Iterator[None]:
        """Hold the stand-ins after their first step as long as the block lasts."""
        gate = self.logs / "gate"
        gate.touch()
        try:
            yield
        finally:
            gate.unlink()

    def steps(self) -> int:
        """Steps that the stand-ins have taken so far, in all commands."""
        path = self.logs / "steps"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def kill_all(self) -> None:
        """End what a trial has left running."""
        for process in self.processes():
            try:
                process.kill()
            except psutil.Error:
                continue

    def read(self, path: str) -> str:
        """The text of a file of the project."""
        return (self.folder / path).read_text(encoding="utf-8")

    def change(self, path: str, before: str, after: str) -> None:
        """Change a file as an editor does: write another and rename it."""
        text = self.read(path)
        assert before in text, (path, before)
        self.write(path, text.replace(before, after))

    def write(self, path: str, text: str) -> None:
        """Write a whole file by a rename."""
        temporary = self.folder.with_name(f"{self.folder.name}-edited")
        temporary.write_text(text, encoding="utf-8")
        shutil.move(temporary, self.folder / path)

    def until(self, happens: Callable[[], object], running: Running, seconds: float = 60.0) -> bool:
        """Wait for an event; False if the command ended before."""
        end = time.monotonic() + seconds
        while not happens():
            if not running.running() or time.monotonic() > end:
                return False
            time.sleep(0.005)
        return True

    def forget(self, *stages: str) -> None:
        """Make stages run again: their outputs are nowhere, and dvc.lock and DVC's caches do not know them."""
        from ruamel.yaml import YAML

        yaml, path = YAML(), self.folder / "dvc.lock"
        lock = yaml.load(path.read_text())
        for stage in stages:
            for out in lock["stages"].pop(stage)["outs"]:
                remove(self.folder / out["path"])
                for each in self.objects(str(out["md5"])):
                    remove(each)
        with path.open("w") as file:
            yaml.dump(lock, file)
        remove(self.folder / ".dvc/cache/runs")

    def objects(self, md5: str) -> list[Path]:
        """The files of DVC's cache that hold an output."""
        whole = self.folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
        parts = json.loads(whole.read_text()) if md5.endswith(".dir") else []
        return [whole, *(each for part in parts for each in self.objects(part["md5"]))]


def make_template(folder: Path) -> Project:
    """The small project, run once without a disturbance, registered, and made to run its two trainings again."""
    project = Project(folder)
    folder.mkdir(parents=True)
    for name in ("juicer", "tasks", "flows", "recipes", "docker"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("params.yaml", "prefect.yaml", ".gitignore", ".dvcignore", ".dvc/config"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    for name, own in STAND_INS.items():
        shutil.copy(ROOT / f"dev/faults/project/{own}.py", folder / f"tasks/{name}.py")
    shutil.copy(ROOT / "dev/faults/project/graph.yaml", folder / "dvc.yaml")
    for path, text in {"source/rows.txt": "a row\n", "base/weights.txt": "a base model\n"}.items():
        (folder / path).parent.mkdir()
        (folder / path).write_text(text)
    (folder / ".gitignore").write_text((folder / ".gitignore").read_text() + "/.dvc/tmp/\n/.dvc/cache/\n")
    must(project.call("juicer", "use", "recipes/quickstart.yaml", *TINY))
    commit_all(folder)
    must(project.call(*RUN))
    return project


def must(done: Done) -> Done:
    """Raise RuntimeError if a command that nobody disturbed has failed."""
    if done.code:
        raise RuntimeError(f"an undisturbed command failed: {done}\n{done.out}{done.error}")
    return done


def commit_all(folder: Path) -> None:
    """Make a folder a git checkout of all that is in it."""
    for command in (
        ["init", "-q", "-b", "main"],
        ["add", "."],
        ["-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "all"],
    ):
        subprocess.run(["git", *command], cwd=folder, check=True)


@contextmanager
def copy_of(template: Path, folder: Path, *, keep: bool = False) -> Iterator[Project]:
    """A copy of a template for one trial. Nothing of the trial survives the block, its processes least of all."""
    subprocess.run(["cp", "-a", str(template), str(folder)], check=True)
    project = Project(folder)
    try:
        yield project
    finally:
        project.kill_all()
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.rmtree(project.logs, ignore_errors=True)


def fault(**plan: object) -> dict[str, str]:
    """Variables that make a run end, or log, at an operation on a file; see dev/faults/hook/sitecustomize.py."""
    return {"PYTHONPATH": str(HOOK), "JUICER_FAULT": json.dumps(plan)}
