"""The console script on a small pipeline: from a subfolder, in a shell that has not activated the environment."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.shared import copied

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = f"#!{sys.executable}\nimport sys\nfrom juicer.cli import main\nsys.exit(main())\n"
"""What an installer makes of pyproject's [project.scripts]."""
STAGES = """
  fetch:
    cmd: python -m tasks.fetch --out data/raw
    deps: [demonstrations.jsonl]
    params: [fetch]
    outs: [data/raw]
  slow:
    cmd: python slow.py
    deps: [data/raw, slow.py]
    outs: [slow.txt]
"""
PATIENCE = 300
"""Seconds after which a test gives up; a busy machine needs some."""
SLOW = "import pathlib, time\ntime.sleep({seconds})\npathlib.Path('slow.txt').write_text('{seconds}')\n"


class Shell:
    """A shell in which only `juicer` is installed: no virtual environment is active, tasks and flows are unknown."""

    def __init__(self, folder: Path) -> None:
        self.script, packages = folder / "bin/juicer", folder / "site-packages"
        for each in (self.script.parent, packages):
            each.mkdir()
        (packages / "juicer").symlink_to(ROOT / "juicer")
        self.script.write_text(SCRIPT)
        self.script.chmod(0o755)
        kept = {key: os.environ[key] for key in ("HOME", "LANG") if key in os.environ}
        self.environment = {**kept, "PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": str(packages)}

    def start(self, folder: Path, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self.script), *words], cwd=folder, env=self.environment, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, folder: Path, *words: str, code: int = 0) -> tuple[str, str]:
        """Standard output and standard error of `juicer`, which ends with `code`."""
        process = self.start(folder, *words)
        output, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == code, output[-3000:] + errors[-3000:]
        return output, errors

    def states(self, folder: Path) -> dict[str, str]:
        """Each stage's state, as `juicer status` says."""
        output, _ = self.run(folder, "status")
        return dict(re.findall(r"^(\S+) +(unchanged|restored|will run|running)\b", output, re.MULTILINE))


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(tmp_path_factory.mktemp("shell"))


@pytest.fixture(scope="module")
def made(small_pipeline: Path, tmp_path_factory: pytest.TempPathFactory, shell: Shell) -> Path:
    """The small pipeline, with a stage of tasks/ and a slow one behind it that have not run."""
    folder = copied(small_pipeline, tmp_path_factory.mktemp("project"))
    with (folder / "dvc.yaml").open("a") as graph:
        graph.write(STAGES)
    shutil.copy(folder / "rows.jsonl", folder / "demonstrations.jsonl")
    (folder / "slow.py").write_text(SLOW.format(seconds=0))
    (folder / "below/further").mkdir(parents=True)
    (folder / "report").mkdir()
    (folder / "report/report.html").touch()
    shell.run(folder, "use", "params.yaml", "fetch.source=demonstrations.jsonl")
    return folder


@pytest.fixture
def below(made: Path) -> Path:
    """A folder in the project."""
    return made / "below/further"


def test_a_run_from_a_subfolder_brings_everything_up_to_date(shell: Shell, made: Path, below: Path) -> None:
    before = shell.states(below)
    assert before == dict.fromkeys(before, "unchanged") | {"fetch": "will run", "slow": "will run"}
    planned, _ = shell.run(below, "run", "--dry-run")
    assert "2 will run" in planned and not (made / "data/raw").exists()
    output, _ = shell.run(below, "run")
    stages = len(before)
    assert f"{stages} stages: 2 to run, {stages - 2} unchanged; how long that takes is not known" in output
    assert re.search(rf"^stage \d+ of {stages}: slow started; ", output, re.MULTILINE)
    assert re.search(
        rf"^all {stages} stages up to date after .*\(2 ran, {stages - 2} unchanged\)$", output, re.MULTILINE
    )
    end = output[output.index("Report: ") :].splitlines()
    assert end[0] == f"Report: {made}/report/report.html"
    assert end[1].startswith("Champion: ") and Path(end[1].rpartition(", ")[2]).is_dir()
    commands = [line.split("  ")[1] for line in end[3:]]
    assert end[2] == "Next:" and commands[0] == "juicer report --open" and commands[-1] == "juicer promote --dry-run"
    for command in commands:
        assert "Usage: juicer" in shell.run(made, command.split()[1], "--help")[0]
    assert shell.states(below) == dict.fromkeys(before, "unchanged")
    assert shell.run(below, "report")[0] == f"{made}/report/report.html\n"


def test_a_dry_run_of_a_change_leaves_the_active_recipe_as_it_was(shell: Shell, made: Path) -> None:
    before = (made / "params.yaml").read_bytes()
    planned, _ = shell.run(made, "run", "sft.epochs=3", "--dry-run")
    assert re.search(r"^sft +will run$", planned, re.MULTILINE)
    assert re.search(r"^curate +unchanged\b", planned, re.MULTILINE)
    assert (made / "params.yaml").read_bytes() == before


def test_status_says_which_stage_stopped_the_last_run_and_why(shell: Shell, made: Path, below: Path) -> None:
    shell.run(made, "run")
    source = made / "demonstrations.jsonl"
    whole = source.read_text()
    source.write_text("no JSON\n")
    _, errors = shell.run(below, "run", code=1)
    assert errors.splitlines()[0].startswith("error: demonstrations.jsonl:1: invalid JSON")
    assert re.search(rf"^stage \d+ of \d+: fetch failed after .*: {made}/.juicer/logs/fetch.log$", errors, re.MULTILINE)
    assert "invalid JSON" in (made / ".juicer/logs/fetch.log").read_text()
    assert errors.splitlines()[-1].startswith("error: dvc repro failed with exit code 255 (")
    said, _ = shell.run(below, "status")
    assert re.search(r"^fetch +will run +stopped 20..-", said, re.MULTILINE)
    assert re.search(r"^The last run stopped at fetch, 20.*: demonstrations.jsonl:1: invalid JSON", said, re.MULTILINE)
    source.write_text(whole)
    assert "stopped" not in shell.run(below, "status")[0], "what failed needs no other run"
    shell.run(made, "run")
    assert "stopped" not in shell.run(below, "status")[0]


def test_a_stage_at_work_is_running_and_a_run_that_is_told_to_end_ends_it(
    shell: Shell, made: Path, below: Path
) -> None:
    (made / "slow.py").write_text(SLOW.format(seconds=PATIENCE))
    process = shell.start(below, "run")
    deadline = time.monotonic() + PATIENCE
    while (states := shell.states(below))["slow"] != "running" and time.monotonic() < deadline:
        assert process.poll() is None
    assert states["slow"] == "running"
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "juicer: interrupted; finished stages are kept, and juicer run resumes"
    assert re.search(r"^stage \d+ of \d+: slow stopped after ", errors, re.MULTILINE)
    assert shell.states(below)["slow"] == "will run"
    (made / "slow.py").write_text(SLOW.format(seconds=0))


def test_a_killed_stage_is_told_from_one_that_gave_a_reason(shell: Shell, made: Path, below: Path) -> None:
    left = made / ".juicer/attempts/slow.json"
    (made / "slow.py").write_text(SLOW.format(seconds=1))
    left.write_text('{"stage": "slow", "process": 4194400, "started": 1.0}')
    assert "The last run stopped at slow, " in (said := shell.run(below, "status")[0])
    assert said.count("killed without a message: out of memory, or from outside") == 1
    left.unlink()


def test_outside_a_project_one_line_says_so(shell: Shell, tmp_path: Path) -> None:
    output, errors = shell.run(tmp_path, "status", code=1)
    assert output == ""
    assert errors.startswith(f"error: {tmp_path}: not inside a Juicer project (") and errors.count("\n") == 1


def test_the_module_is_the_same_command(made: Path) -> None:
    command = [sys.executable, "-m", "juicer", "check"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=made, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(
        "params.yaml: recipe 'quickstart' is valid; ./models/world is exact: fast forward pass"
    )
