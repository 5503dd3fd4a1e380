"""A few faults on the real stages, with tiny models: what the stand-ins cannot show."""

import contextlib
import shutil
import subprocess
import time
from pathlib import Path
from random import Random

from dev.faults.judge import aftermath
from dev.faults.outcome import Kind, Outcome, refusal, settled
from dev.faults.workload import ROOT, RUN, Project, Running, commit_all, fault, must
from juicer.runtime.files import read_yaml
from juicer.stages.dvc_files import DvcLock

RECIPE = (
    "world.rows=300",
    "pretrain.policy={hidden_size: 32, layers: 1, heads: 2, documents: 400, vocabulary: 500}",
    "pretrain.scorer={hidden_size: 16, layers: 1, heads: 2, pairs: 100}",
    "curate.keep=64",
    "sft.epochs=10",
    "irft.rounds=1",
    "irft.training.epochs=20",
    "rft.rounds=0",
    "sft_matched.enabled=false",
    "evaluation.prompts=16",
)
STAGES = ("sft", "irft_generate@r1", "irft_train@r1", "evaluate@irft-r1")
RATE = ("params.yaml", "learning_rate: 0.0002", "learning_rate: 0.05")
REFERENCE = "dvc.lock of an undisturbed run"
"""Name of the file that the template keeps beside it; with "edited" after it for the other learning rate."""


def make_template(folder: Path) -> None:
    """The project with its own stages, run once; and the record of an undisturbed run with another learning rate."""
    project = Project(folder)
    folder.mkdir(parents=True)
    for name in ("juicer", "tasks", "flows", "recipes", "docker", "mlflow"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "prefect.yaml", ".gitignore", ".dvcignore", ".dvc/config"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    if (ROOT / ".dvc/plots").is_dir():
        shutil.copytree(ROOT / ".dvc/plots", folder / ".dvc/plots")
    must(project.call("juicer", "use", "recipes/quickstart.yaml", *RECIPE))
    commit_all(folder)
    must(project.call(*RUN))
    (folder / ".juicer" / REFERENCE).write_text(project.read("dvc.lock"))
    edited = Project(folder.with_name("real-edited"))
    subprocess.run(["cp", "-a", str(folder), str(edited.folder)], check=True)
    edited.change(*RATE)
    must(edited.call(*RUN))
    (folder / ".juicer" / f"{REFERENCE} edited").write_text(edited.read("dvc.lock"))
    shutil.rmtree(edited.folder)


def judge(project: Project) -> list[str]:
    """What is wrong: as for the small project, but the right bytes are those of an undisturbed run."""
    with contextlib.chdir(project.folder):
        edited = " edited" if RATE[2] in project.read("params.yaml") else ""
        right = read_yaml(Path(".juicer") / f"{REFERENCE}{edited}")["stages"]
        wrong, lock = list[str](), DvcLock.read(Path("dvc.lock"))
        for entry in right.values():
            for out in entry.get("outs", []):
                if lock.md5(out["path"]) != out["md5"]:
                    wrong.append(f"{out['path']} is not that of an undisturbed run")
        return [*wrong, *aftermath(project, lock, [name for name in right if name != "register"])]


def _settled(project: Project, hit: str, already: list[str] | None = None) -> Outcome:
    return settled(project, hit, already, judge)


def _begin(project: Project, random: Random, **more: str) -> tuple[Running, str]:
    """Start a run in which one of the stages, which are known no longer, runs again."""
    stage = random.choice(STAGES)
    project.forget(stage)
    project.variables["JUICER_CHECKPOINT_SECONDS"] = "0.1"
    running = project.start(*RUN, **more)
    project.until(lambda: project.processes(f"tasks.{stage.partition('@')[0]}"), running)
    return running, stage


def kill(project: Project, random: Random, number: int) -> Outcome:
    """Kill the group, DVC or the stage at any time of a real stage."""
    running, stage = _begin(project, random)
    after, what = random.uniform(0.0, 8.0), ("group", "dvc", "stage")[number % 3]
    end = time.monotonic() + after
    project.until(lambda: time.monotonic() > end, running)
    if what == "group":
        running.kill_group()
    words = {"dvc": ("juicer.running", "repro"), "stage": (f"tasks.{stage.partition('@')[0]}",)}
    for process in project.processes(*words[what]) if what in words else []:
        process.kill()
    running.wait()
    time.sleep(random.choice([0.0, 0.5, 2.0]))
    return _settled(project, f"{what} {after:.1f} s into {stage}")


def in_checkpoint(project: Project, random: Random, number: int) -> Outcome:
    """Kill between two operations on a real stage's checkpoints."""
    name = random.choice(["sft", "irft_generate", "irft_train"])
    project.forget(name if name == "sft" else f"{name}@r1")
    project.variables["JUICER_CHECKPOINT_SECONDS"] = "0.1"
    hit = project.logs / "hit"
    plan = {"role": f"stage:{name}", "path": r"\.juicer/checkpoints", "number": random.randint(1, 60)}
    project.call(*RUN, **fault(**plan, tree=number % 2 == 0, hit=str(hit)))
    return _settled(project, hit.read_text().strip() if hit.exists() else f"not reached: {plan}")


def edit(project: Project, random: Random, number: int) -> Outcome:
    """Change the learning rate while the real sft trains; every second time back again."""
    project.forget("sft")
    project.variables["JUICER_CHECKPOINT_SECONDS"] = "0.1"
    running = project.start(*RUN)
    project.until(lambda: any((project.folder / ".juicer/checkpoints/sft").glob("*/*/[0-9]*")), running)
    project.change(*RATE)
    if number % 2:
        time.sleep(random.uniform(0.0, 0.5))
        project.change(RATE[0], RATE[2], RATE[1])
    done = running.wait()
    return _settled(project, "back again" if number % 2 else "edited", refusal(done, 240) if done.code else [])


KINDS = [
    Kind("kill: real stages", 15, kill, "real", kill=True),
    Kind("kill: in a real stage's checkpoint", 8, in_checkpoint, "real", kill=True),
    Kind("edit during a real training", 4, edit, "real"),
]
