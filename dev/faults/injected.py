"""Injected failures: known wrongs, planted in a project where all is right. The harness has to find every one."""

import contextlib
import sqlite3
import subprocess
import sys
from random import Random

from dev.faults.judge import judge
from dev.faults.outcome import Kind, Outcome, settled
from dev.faults.workload import Project


def _judged(project: Project) -> Outcome:
    wrong = judge(project)
    return Outcome("wrong" if wrong else "right", wrong)


def nothing(project: Project, random: Random, number: int) -> Outcome:
    """The control: nothing is planted, and nothing may be found."""
    return _judged(project)


def false_parameter(project: Project, random: Random, number: int) -> Outcome:
    """dvc.lock and params.yaml agree on a learning rate that the model was not made with."""
    for path in ("dvc.lock", "params.yaml"):
        project.change(path, "learning_rate: 0.0002", "learning_rate: 0.05")
    return _judged(project)


def false_code(project: Project, random: Random, number: int) -> Outcome:
    """dvc.lock names the code that is here, which is not the code that made the model."""
    from juicer.runtime.files import md5_of_file

    path = project.folder / "tasks/chain.py"
    before = md5_of_file(path)
    project.change("tasks/chain.py", "VERSION = 1", "VERSION = 2")
    project.change("dvc.lock", before, md5_of_file(path))
    return _judged(project)


def false_output(project: Project, random: Random, number: int) -> Outcome:
    """A byte of a model is another."""
    path = project.folder / "models/sft/weights.txt"
    content = bytearray(path.read_bytes())
    content[random.randrange(len(content))] ^= 1
    path.write_bytes(content)
    return _judged(project)


def false_output_recorded(project: Project, random: Random, number: int) -> Outcome:
    """Another model stands in its place, and dvc.lock has its hash: only recomputing it finds that."""
    path = project.folder / "models/irft/r1/weights.txt"
    path.write_text(path.read_text().replace("0.0004", "0.0005"))
    done = project.call("dvc", "commit", "--force", "--quiet", "irft_train@r1")
    assert done.code == 0, done
    return _judged(project)


def missing_entry(project: Project, random: Random, number: int) -> Outcome:
    """dvc.lock has lost a stage."""
    text = project.read("dvc.lock")
    project.write("dvc.lock", text[: text.index("  report:")] + text[text.index("  register:") :])
    return _judged(project)


def orphan(project: Project, random: Random, number: int) -> Outcome:
    """A process of the run is left alive, in a session of its own."""
    sleep = [sys.executable, "-c", "import time; time.sleep(120)"]
    with subprocess.Popen(sleep, env=project.environment(), start_new_session=True) as process:
        try:
            return _judged(project)
        finally:
            process.kill()


def leftover(project: Project, random: Random, number: int) -> Outcome:
    """A half-written output is left beside the whole one."""
    (project.folder / "models/.sft.4242.tmp").mkdir()
    (project.folder / "models/.sft.4242.tmp/weights.txt.tmp").write_text("half")
    return _judged(project)


def held_lock(project: Project, random: Random, number: int) -> Outcome:
    """A dead process's lock of a path is left."""
    text = '{"read": {}, "write": {"/x": {"pid": 4242, "cmd": "dvc repro"}}}'
    (project.folder / ".dvc/tmp/rwlock").write_text(text)
    return _judged(project)


def _store(project: Project, *statements: str) -> Outcome:
    with contextlib.closing(sqlite3.connect(project.folder / "mlflow.db")) as store:
        for statement in statements:
            store.execute(statement)
        store.commit()
    return _judged(project)


def run_twice(project: Project, random: Random, number: int) -> Outcome:
    """MLflow has a run twice."""
    other = "f" * 32
    columns = "name, status, lifecycle_stage, experiment_id, artifact_uri, start_time, end_time, user_id, source_type"
    first = "(SELECT min(run_uuid) FROM runs)"
    return _store(
        project,
        f"INSERT INTO runs (run_uuid, {columns}) SELECT '{other}', {columns} FROM runs WHERE run_uuid = {first}",  # noqa: S608
        f"INSERT INTO tags (run_uuid, key, value) SELECT '{other}', key, value FROM tags WHERE run_uuid = {first}",  # noqa: S608
    )


def run_missing(project: Project, random: Random, number: int) -> Outcome:
    """MLflow lacks a run of the record."""
    return _store(project, "UPDATE runs SET status = 'RUNNING' WHERE name = 'sft'")


def version_missing(project: Project, random: Random, number: int) -> Outcome:
    """The registry lacks a version."""
    return _store(project, "DELETE FROM model_version_tags WHERE version = 1")


def false_run(project: Project, random: Random, number: int) -> Outcome:
    """MLflow tells another learning rate than the one that was used."""
    key = "sft.optimiser.learning_rate"
    return _store(project, f"UPDATE params SET value = '0.05' WHERE key = '{key}'")  # noqa: S608


def unmended(project: Project, random: Random, number: int) -> Outcome:
    """A state that no ordinary command mends: params.yaml is no YAML."""
    project.write("params.yaml", "name: [")
    return settled(project)


KINDS = [
    Kind("nothing is planted", 1, nothing, "full"),
    Kind("false parameter in the record", 1, false_parameter, "full"),
    Kind("false code in the record", 1, false_code, "full"),
    Kind("changed output", 1, false_output, "full"),
    Kind("changed output, recorded", 1, false_output_recorded, "full"),
    Kind("entry of dvc.lock lost", 1, missing_entry, "full"),
    Kind("orphan", 1, orphan, "full"),
    Kind("leftover", 1, leftover, "full"),
    Kind("lock of a dead process", 1, held_lock, "full"),
    Kind("run twice in MLflow", 1, run_twice, "full"),
    Kind("run missing in MLflow", 1, run_missing, "full"),
    Kind("version missing in MLflow", 1, version_missing, "full"),
    Kind("false parameter in MLflow", 1, false_run, "full"),
    Kind("what no command mends", 1, unmended, "full"),
]
