"""Try every bad input as a user would, one process each: `python -m dev.hostile [WORD ...]`, or `make hostile`.

Right is: exit code 1 or 2, one line that says what it has to say, no traceback, nothing run, nothing that was there
changed, within 10 s of
the processor and 1 GB. Words choose the cases whose names contain one of them. The figures go to
bench/results/hostile.json. `--inject` adds a good model folder and a good file, which have to count as wrong.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

from dev.hostile import Case, data, models, recipes
from juicer.runtime.command import guarded
from juicer.runtime.files import write_json

ROOT = Path(__file__).resolve().parents[2]
SECONDS, MEGABYTES = 10.0, 1024.0
PATIENCE = 180
"""Seconds after which a try is ended."""
LIMIT = 12 * 2**30
"""Address space of a try. Importing torch and arrow reserves several GB, so that the peak of real memory decides."""
RESULTS = ROOT / "bench" / "results" / "hostile.json"


def project(folder: Path) -> None:
    """A project in `folder`, whose code is this checkout's."""
    for name in ("juicer", "tasks", "flows", "dev", "dvc.yaml"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    shutil.copy(ROOT / "params.yaml", folder)
    (folder / "data" / "raw").mkdir(parents=True)
    (folder / "data" / "raw" / "old").touch()


def command(case: Case, path: Path, folder: Path) -> list[str]:
    """What a user would type."""
    if case.kind == "recipe":
        return ["-m", "juicer", "use", str(path.relative_to(folder)), *case.words]
    if case.kind == "params":
        shutil.move(path, folder / "params.yaml")
        return ["-m", "juicer", "check"]
    if case.kind == "data":
        from juicer.recipe.activation import activate

        source = folder / "placeholder.jsonl"
        source.write_bytes(data.ROW)
        activate(folder / "recipes" / "quickstart.yaml", [f"fetch.source={source}"], folder / "params.yaml")
        text = (folder / "params.yaml").read_text()
        (folder / "params.yaml").write_text(text.replace(str(source), str(path)))
        return ["-m", "tasks.fetch"]
    return ["-m", "dev.hostile", "--load", case.kind, str(path)]


def attempt(case: Case) -> tuple[str, float, float]:
    """Try a case; returns what is wrong with the outcome ("" for nothing), its seconds and its MB."""
    with tempfile.TemporaryDirectory(prefix="juicer-hostile-") as name:
        folder = Path(name)
        project(folder)
        place = folder / "recipes" if case.kind == "recipe" else folder / "given"
        place.mkdir(exist_ok=True)
        arguments = command(case, case.make(place), folder)
        before = (folder / "params.yaml").read_bytes()
        start = time.monotonic()
        with (folder / "out").open("w+") as out:
            process = subprocess.Popen(
                [sys.executable, *arguments], cwd=folder, stdout=out, stderr=out, stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": str(folder), "JUICER_LIVE_SECONDS": "0"},
            )  # fmt: skip
            resource.prlimit(process.pid, resource.RLIMIT_AS, (LIMIT, LIMIT))
            usage = None
            while time.monotonic() - start < PATIENCE:
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    process.returncode = os.waitstatus_to_exitcode(status)
                    break
                time.sleep(0.02)
            else:
                process.kill()
                process.wait()
        # Of the processor, because the machine may be busy; a try that hangs has ended by PATIENCE.
        seconds = usage.ru_utime + usage.ru_stime if usage and process.returncode >= 0 else time.monotonic() - start
        megabytes = usage.ru_maxrss / 1024 if usage else 0.0
        said = (folder / "out").read_text(errors="replace")
        lines = [line for line in said.splitlines() if line.startswith("error: ")]
        checks = {
            f"exit code {process.returncode}": process.returncode in (1, 2),
            f"{len(said.splitlines())} lines: {said[:200]!r}": len(lines) == len(said.splitlines()) == 1,
            f"does not say {case.says!r}: {said[:300]!r}": case.says in said,
            "traceback": "Traceback" not in said,
            "another file's content": recipes.CONTENT not in said and "hunter2" not in said,
            "something was run": not list(folder.rglob("pwned")),
            "params.yaml was changed": (folder / "params.yaml").read_bytes() == before,
            "the old data are gone": (folder / "data" / "raw" / "old").exists(),
            f"{seconds:.1f} s": seconds <= SECONDS,
            f"{megabytes:.0f} MB": megabytes <= MEGABYTES,
        }
        return "; ".join(what for what, good in checks.items() if not good), seconds, megabytes


def injected() -> list[Case]:
    """Inputs with nothing wrong, which the harness has to count as wrong."""

    def good_model(folder: Path) -> Path:
        return Path(shutil.copytree(models.good("policy"), folder / "model"))

    def good_data(folder: Path) -> Path:
        (folder / "a.jsonl").write_bytes(data.ROW * 20)
        return folder / "a.jsonl"

    return [
        Case("injected: a good model", "policy", good_model, "x"),
        Case("injected: good data", "data", good_data, "x"),
    ]


def main(words: list[str]) -> int:
    """Try all cases that the words choose, and print the table."""
    chosen = [*recipes.cases(), *data.cases(), *models.cases()] + (injected() if "--inject" in words else [])
    named = [word for word in words if not word.startswith("--")]
    chosen = [case for case in chosen if not named or any(word in case.name for word in named)]
    tried: Counter[str] = Counter()
    wrong: dict[str, list[str]] = defaultdict(list)
    worst: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for case in chosen:
        kind = {"params": "recipes", "recipe": "recipes", "data": "data"}.get(case.kind, "models")
        fault, seconds, megabytes = attempt(case)
        tried[kind] += 1
        worst[kind] = [max(worst[kind][0], seconds), max(worst[kind][1], megabytes)]
        if fault:
            wrong[kind].append(f"{case.name}: {fault}")
            print(f"WRONG {case.name}: {fault}", flush=True)
    rows = {
        kind: {
            "tried": count, "right": count - len(wrong[kind]), "wrong": wrong[kind],
            "worst_seconds": round(worst[kind][0], 1), "worst_megabytes": round(worst[kind][1]),
        }
        for kind, count in tried.items()
    }  # fmt: skip
    print(f"{'':10}{'tried':>7}{'right':>7}{'wrong':>7}{'worst s':>9}{'worst MB':>10}")
    for kind, row in rows.items():
        print(
            f"{kind:10}{row['tried']:>7}{row['right']:>7}{len(wrong[kind]):>7}{row['worst_seconds']:>9}"
            f"{row['worst_megabytes']:>10}"
        )
    if not words:
        write_json(RESULTS, rows)
    return 1 if any(wrong.values()) else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--load"]:
        kind, path = sys.argv[2:4]
        sys.exit(guarded(lambda: models.load(kind, Path(path)), debug=False, name="load"))  # type: ignore[arg-type]
    sys.exit(main(sys.argv[1:]))
