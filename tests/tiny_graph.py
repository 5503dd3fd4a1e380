"""A DVC project of a few cheap stages, for tests of what runs the stages rather than of the stages."""

import shutil
import subprocess
from pathlib import Path

from tests import python

ROOT = Path(__file__).resolve().parents[1]
WORK = """
import pathlib, sys, time
name, seconds, out, *inputs = sys.argv[1:]
trace = pathlib.Path(".juicer/trace")
trace.parent.mkdir(exist_ok=True)
with trace.open("a") as lines:
    print(out, file=lines)
for step in range(3):
    print(name, "step", step)
    time.sleep(float(seconds) / 3)
if pathlib.Path("broken").exists() and name == "quick":
    sys.exit("error: source.txt: the input is broken")
path = pathlib.Path(out)
path.parent.mkdir(parents=True, exist_ok=True)
path.write_text(out + "".join(pathlib.Path(each).read_text().strip() for each in inputs))
"""
GRAPH = """
stages:
  first:
    cmd: python work.py first 0 out/first/text source.txt
    deps: [source.txt, work.py]
    outs: [out/first]
  slow:
    cmd: python work.py slow 2 out/slow out/first/text
    deps: [out/first/text]
    outs: [out/slow]
  quick:
    foreach: [x, y]
    do:
      cmd: python work.py quick 0 out/quick-${item} out/first/text
      deps: [out/first/text]
      params: [seed]
      outs: ["out/quick-${item}"]
  last:
    cmd: python work.py last 0 out/last out/slow out/quick-x out/quick-y
    deps: [out/slow, out/quick-x, out/quick-y]
    outs: [out/last]
  always:
    cmd: python -c "print('always')"
    deps: [out/last]
    always_changed: true
"""
STAGES = ["first", "slow", "quick@x", "quick@y", "last", "always"]


def make(folder: Path) -> Path:
    """The project's code and recipes with this graph in the place of its own, in git."""
    for name in ("juicer", "tasks", "flows", "recipes", "docker"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("params.yaml", "prefect.yaml", ".gitignore", ".dvcignore", ".dvc/config"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "work.py").write_text(WORK)
    (folder / "dvc.yaml").write_text(GRAPH)
    (folder / "source.txt").write_text("source")
    with (folder / ".gitignore").open("a") as ignored:
        ignored.write("/out/\n")  # else DVC notes each output in a file of its own, in the order in which they end
    git(folder, "init", "-q", "-b", "main")
    commit(folder)
    return folder


def commit(folder: Path) -> None:
    """Commit all that git does not ignore."""
    git(folder, "add", ".")
    git(folder, "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "all")


def git(folder: Path, *command: str) -> None:
    subprocess.run(["git", *command], cwd=folder, check=True)


def environment(folder: Path, **more: str) -> dict[str, str]:
    """What makes a process use the code of `folder` and this Python."""
    return python.environment(folder, **more)


def call(folder: Path, *command: str, check: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m ...` in a project."""
    return python.run(folder, *command, environment=environment(folder, **more), check=check)
