"""Edits during runs, two writers, flipped bytes, stray files, moved and copied checkouts."""

import hashlib
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from dev.faults.judge import judge
from dev.faults.kills import pace
from dev.faults.outcome import Kind, Outcome, refusal, settled
from dev.faults.project import chain
from dev.faults.workload import RUN, TINY, Done, Project, Running, must
from juicer.runtime.files import read_yaml, remove

EDITS = {
    "parameter": ("params.yaml", "learning_rate: 0.0002", "learning_rate: 0.05"),
    "module": ("tasks/chain.py", "VERSION = 1", "VERSION = 22"),
    "program": ("tasks/sft.py", '"""Stands in', '"""Stands now in'),
    "input": ("source/rows.txt", "a row", "another row"),
    "stage's input": ("base/weights.txt", "a base", "another base"),
}
AT = ("imports", "first step", "middle", "end", "published")
"""Moments of a stage. The last one is before DVC looks at what the stage has read."""


def _in_stage(project: Project, running: Running, at: str) -> None:
    """Wait for a moment of the stage sft."""
    project.until(lambda: project.processes("tasks.sft"), running)
    if at == "imports":
        return
    if at == "published":
        project.until((project.folder / "models/sft").exists, running)
        return
    project.until(lambda: any((project.folder / ".juicer/checkpoints/sft").glob("*/*/[0-9]*")), running)
    time.sleep({"first step": 0.0, "middle": 0.4, "end": 0.9}[at])


def edit(project: Project, random: Random, number: int) -> Outcome:
    """Change a parameter, code or an input while a stage runs."""
    what, at = list(EDITS)[number % len(EDITS)], AT[number // len(EDITS) % len(AT)]
    running = project.start(*RUN)
    _in_stage(project, running, at)
    project.change(*EDITS[what])
    return _edited(project, running.wait(), f"{what}, {at}")


def edit_then_back(project: Project, random: Random, number: int) -> Outcome:
    """Change something while a stage runs, and back after the stage has refused: its work is not lost.

    But for a changed input, which the stage may have read before or after: that work is discarded.
    """
    what = list(EDITS)[number % len(EDITS)]
    path, before, after = EDITS[what]
    running = project.start(*RUN)
    _in_stage(project, running, "middle")
    project.change(path, before, after)
    done = running.wait()
    project.change(path, after, before)
    if not done.code:
        return settled(project, f"{what}: was not refused")
    wrong, before_it = refusal(done, 120), project.steps()
    again = project.call(*RUN)
    wrong += [f"going back: {again}"] if again.code else []
    if what != "stage's input" and project.steps() - before_it >= chain.STEPS:
        wrong.append("the work before the change is lost")
    return settled(project, what, wrong)


def edit_and_back(project: Project, random: Random, number: int) -> Outcome:
    """Change it and change it back before the stage ends: nobody is to notice, or to be misled."""
    what, at = list(EDITS)[number % len(EDITS)], AT[number // len(EDITS) % 3]
    path, before, after = EDITS[what]
    running = project.start(*RUN)
    _in_stage(project, running, at)
    project.change(path, before, after)
    time.sleep(random.uniform(0.0, 0.5))
    project.change(path, after, before)
    return _edited(project, running.wait(), f"{what} and back, {at}")


def _edited(project: Project, done: Done, hit: str) -> Outcome:
    wrong = [] if done.code == 0 else refusal(done, 120)
    if done.hung:
        wrong.append("never ended")
    return settled(project, hit, wrong)


def two_runs(project: Project, random: Random, number: int) -> Outcome:
    """`juicer run` twice: the second waits, or refuses in a line."""
    first = project.start(*RUN)
    if number % 2:
        _in_stage(project, first, "imports")
    else:
        time.sleep(random.uniform(0.0, 2.0))
    second = project.start(*RUN)
    return _both(project, first.wait(), second.wait(), "juicer run twice")


def _both(project: Project, first: Done, second: Done, hit: str) -> Outcome:
    wrong = [f"the first: {first}"] if first.code else []
    wrong += [f"the second: {each}" for each in refusal(second, 240, alone=True)] if second.code else []
    # Right by itself: no further run has to mend it.
    wrong += judge(project)
    return settled(project, hit, list(dict.fromkeys(wrong)))


def other_recipe(project: Project, random: Random, number: int) -> Outcome:
    """`juicer use`, or `juicer run` of another recipe, while a run is in its stage."""
    command = ("juicer", "use") if number % 2 else RUN
    rates = ["sft.optimiser.learning_rate=0.05", "irft.training.optimiser.learning_rate=0.03"]
    words = ["recipes/quickstart.yaml", *TINY, *rates]
    with project.gate():
        first = project.start(*RUN)
        _in_stage(project, first, "first step")
        before = project.read("params.yaml")
        second = project.start(*command, *words)
        _ended(second, 2 * pace(project))  # or it waits for the first
    one, other = first.wait(), second.wait()
    wrong = [f"the first: {one}"] if one.code else []
    if other.code:
        wrong += refusal(other, 240, alone=True)
        if project.read("params.yaml") != before:
            wrong.append("a refused command has changed params.yaml")
    return settled(project, " ".join(command), wrong)


def _ended(running: Running, seconds: float, meanwhile: Callable[[], object] = lambda: None) -> bool:
    """Whether a command ends within some seconds."""
    end = time.monotonic() + seconds
    while running.running() and time.monotonic() < end:
        meanwhile()
        time.sleep(0.005)
    return not running.running()


def plan_beside(project: Project, random: Random, number: int) -> Outcome:
    """A plan of another recipe during a run: it neither waits nor touches params.yaml."""
    name = ("flows.align --dry-run", "juicer run --dry-run", "juicer status")[number % 3]
    commands = {
        "flows.align --dry-run": ("flows.align", "--dry-run", "sft.optimiser.learning_rate=0.05"),
        "juicer run --dry-run": ("juicer", "run", "--dry-run", "sft.optimiser.learning_rate=0.05"),
        "juicer status": ("juicer", "status"),
    }
    with project.gate():
        first = project.start(*RUN)
        _in_stage(project, first, "first step")
        params = project.folder / "params.yaml"
        before, touched = params.read_bytes(), False

        def look() -> None:
            nonlocal touched
            touched = touched or params.read_bytes() != before

        second = project.start(*commands[name])
        waited = not _ended(second, 4 * pace(project), look)
    done, one = second.wait(), first.wait()
    wrong = [f"the run: {one}"] if one.code else []
    wrong += ["params.yaml was touched"] if touched else []
    wrong += ["the plan waited for the run, or took very long"] if waited else []
    wrong += [f"the plan: {done}"] if done.code else []
    return settled(project, name, wrong)


def plain_dvc(project: Project, random: Random, number: int) -> Outcome:
    """Plain `dvc repro` beside `juicer run`, before or after it. DVC may refuse; ours may not fail."""
    commands = [RUN, ("dvc", "repro")]
    first = project.start(*commands[number % 2])
    if number % 4 < 2:
        _in_stage(project, first, "first step")
    else:
        time.sleep(random.uniform(0.0, 3.0))
    second = project.start(*commands[(number + 1) % 2])
    ends = {commands[number % 2]: first.wait(), commands[(number + 1) % 2]: second.wait()}
    ours = ends[RUN]
    wrong = [f"juicer run: {each}" for each in refusal(ours, 240)] if ours.code else []
    return settled(project, "dvc repro beside juicer run", wrong)


def flipped(project: Project, random: Random, number: int) -> Outcome:
    """Flip a byte of an object in DVC's cache, then lose the output that is restored from it."""
    outs = ["models/sft", "models/irft/r1", "evaluation/models/irft-r1.json", "data/curated", "metrics/summary.json"]
    path = outs[number % len(outs)]
    lock = read_yaml(project.folder / "dvc.lock")["stages"]
    md5 = next(out["md5"] for stage in lock.values() for out in stage.get("outs", []) if out["path"] == path)
    place = random.choice(project.objects(str(md5)))
    content = bytearray(place.read_bytes())
    content[random.randrange(len(content))] ^= 1 << random.randrange(7)
    mode = place.stat().st_mode
    place.chmod(0o644)
    place.write_bytes(content)
    place.chmod(mode)  # DVC trusts what nobody may write
    remove(project.folder / path)
    done = project.call(*RUN)
    if done.code:
        return settled(project, f"{path}: {place.name}", refusal(done, 120))
    wrong = judge(project)
    return Outcome("wrong" if wrong else "right", wrong, f"{path}: {place.name}")


STRAY = (
    "work/.DS_Store",
    ".DS_Store",
    "../.DS_Store",
    "string",
    "list",
    "number",
    "null",
    "a file",
    "outside",
    "folder",
)


def stray(project: Project, random: Random, number: int) -> Outcome:
    """Put a stray file, or a mangled complete.json, among the checkpoints of an interrupted stage."""
    what = STRAY[number % len(STRAY)]
    project.variables["JUICER_FAULTS_STEP"] = "0.1"
    running = project.start(*RUN)
    _in_stage(project, running, "middle")
    running.kill_group()
    running.wait()
    found = sorted((project.folder / ".juicer/checkpoints/sft").glob("*/work/[0-9]*"))
    if not found:
        return settled(project, "no checkpoint was there")
    last = found[-1]
    key = last.parent.parent
    contents = {"string": '"x"', "list": "[1]", "number": "7", "null": "null", "outside": '{"../../x": "y"}'}
    if what in contents:
        (last / "complete.json").write_text(contents[what])
    elif what == "a file":
        (last.parent / "00000999").write_text("")
    elif what == "folder":
        (last.parent / "7 (copy)").mkdir()
    else:
        (key / what).write_bytes(b"\0")
    return settled(project, what)


def _own_store(project: Project) -> None:
    """Register anew: a copy of a template has a store that was made elsewhere, if that matters."""
    for name in ("mlflow.db", "mlflow.db.lock", "mlruns"):
        remove(project.folder / name)
    must(project.call(*RUN))


def moved(project: Project, random: Random, number: int) -> Outcome:
    """Move a checkout, change a parameter, run there: nothing is written to the old place."""
    _own_store(project)
    old, new = project.folder, project.folder.with_name(f"{project.folder.name}-moved")
    old.rename(new)
    project.folder = new
    try:
        _new_rate(project)
        outcome = settled(project, "mv")
        if old.exists():
            outcome.add("the moved checkout has written to its old place")
        return outcome
    finally:
        remove(old)
        new.rename(old)
        project.folder = old


def copied(project: Project, random: Random, number: int) -> Outcome:
    """Copy a checkout, change a parameter, run in the copy: the original stays as it is."""
    _own_store(project)
    original = project.folder
    copy = original.with_name(f"{original.name}-copy")
    subprocess.run(["cp", "-a", str(original), str(copy)], check=True)
    project.folder, before = copy, digest(original)
    try:
        _new_rate(project)
        outcome = settled(project, "cp -a")
        if digest(original) != before:
            outcome.add("the copy has written into its original")
        return outcome
    finally:
        remove(copy)
        project.folder = original


def _new_rate(project: Project) -> None:
    project.change("params.yaml", "learning_rate: 0.0004", "learning_rate: 0.0007")


def digest(folder: Path) -> str:
    """A hash of all names and contents below a folder."""
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        whole.update(str(path.relative_to(folder)).encode() + (path.read_bytes() if path.is_file() else b""))
    return whole.hexdigest()


KINDS = [
    Kind("edit during a run", 25, edit),
    Kind("edit during a run, back after it", 5, edit_then_back),
    Kind("edit and back during a run", 15, edit_and_back),
    Kind("two juicer run", 6, two_runs),
    Kind("another recipe during a run", 6, other_recipe),
    Kind("a plan during a run", 6, plan_beside),
    Kind("dvc repro beside a run", 6, plain_dvc),
    Kind("flipped byte in DVC's cache", 15, flipped, "full"),
    Kind("stray files among checkpoints", len(STRAY), stray),
    Kind("moved checkout", 2, moved, "full"),
    Kind("copied checkout", 2, copied, "full"),
]
