"""The fault harness: kills, edits, full disks, second writers, broken servers and stores, and what they leave.

    python -m dev.faults                         all trials, an hour or less on two cores: make faults
    python -m dev.faults --short                 a handful of them
    python -m dev.faults --only checkpoint       only the kinds with this in their name
    python -m dev.faults --inject                plant known wrongs, and see that each is found
    python -m dev.faults --table                 write the table of docs/reliability.md from the last results

A trial is right if at most one more ordinary `juicer run` after the fault ends well, and bytes, dvc.lock, `dvc status`,
MLflow and the processes are then as after an undisturbed run. It is manual if even a second run does not end well.
"""

import argparse
import importlib.metadata
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.results_file import OUT, write
from dev.faults.table import RESULTS, Result, as_json, as_text, write_page
from dev.faults.trials import INJECTED, KINDS, cores, run_all, trials
from dev.faults.workload import ROOT

MEMORY = Path("/dev/shm")  # noqa: S108 - a disk in memory, if there is one: trials write and fsync a lot


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dev.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", metavar="KIND", help="part of the names of the kinds to try")
    parser.add_argument("--trials", type=int, metavar="N", help="at most N trials of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random, default 0")
    parser.add_argument("--jobs", type=int, default=cores(), help="trials at the same time, default one per core")
    parser.add_argument("--short", action="store_true", help="a handful of trials, in a minute or two")
    parser.add_argument(
        "--inject", action="store_true", help="plant known wrongs; fails if one is not found. With --short both"
    )
    parser.add_argument("--list", action="store_true", help="the kinds, and their numbers of trials")
    parser.add_argument("--keep", action="store_true", help="keep the folders of trials that did not end right")
    parser.add_argument(
        "--work", type=Path, help="folder for the trials, default a temporary one, in memory if possible"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="JSON of the results; default bench/out/faults.json for all trials; the page's table is "
        "of bench/results/faults.json",
    )
    parser.add_argument("--table", action="store_true", help="write the table of docs/reliability.md and stop")
    given = parser.parse_args()
    if given.table:
        print(write_page())
        return 0
    if given.list:
        print("\n".join(f"{kind.trials:4} {kind.name}" for kind in (INJECTED if given.inject else KINDS)))
        return 0
    kinds = [*(KINDS if given.short or not given.inject else []), *(INJECTED if given.inject else [])]
    todo = trials(kinds, given.seed, only=given.only, most=given.trials, short=given.short)
    if not todo:
        print(f"error: no kind has {given.only!r} in its name (see --list)", file=sys.stderr)
        return 2
    begun, results = time.monotonic(), list[Result]()
    work = given.work or Path(tempfile.mkdtemp(prefix="juicer-faults-", dir=MEMORY if MEMORY.is_dir() else None))
    work.mkdir(parents=True, exist_ok=True)
    try:
        for result in run_all(todo, work, given.jobs, keep=given.keep):
            results.append(result)
            _show(result, len(results), len(todo))
    except KeyboardInterrupt:
        print("\ninterrupted; the table is of the trials that have ended", file=sys.stderr)
    finally:
        if given.work is None and not given.keep:
            shutil.rmtree(work, ignore_errors=True)
    order = [kind.name for kind in kinds]
    results.sort(key=lambda result: (order.index(result.kind), result.number))
    print(f"\n{as_text(results)}")
    planted = {kind.name for kind in INJECTED}
    missed = _found([each for each in results if each.kind in planted]) if given.inject else 0
    results = [each for each in results if each.kind not in planted]
    whole = len(results) == len(trials(KINDS, given.seed))
    if out := given.out or (OUT / RESULTS.name if whole else None):
        write(out, as_json(results, about(time.monotonic() - begun)))
        print(f"written: {out}")
    return int(missed or any(result.verdict in ("wrong", "manual") for result in results))


def _show(result: Result, done: int, of: int) -> None:
    why = f": {'; '.join(result.why)[:300]}" if result.why else ""
    print(f"[{done}/{of}] {result.seconds:5.1f} s {result.verdict:7} {result.kind} {result.number}{why}", flush=True)


def _found(results: list[Result]) -> int:
    """Whether every planted wrong was found, and nothing in the control."""
    missed = [each.kind for each in results if (each.verdict == "right") != (each.kind == INJECTED[0].name)]
    planted = sum(each.kind != INJECTED[0].name for each in results)
    print(f"not found: {', '.join(missed)}" if missed else f"all {planted} planted wrongs were found")
    return int(bool(missed))


def about(seconds: float) -> dict[str, Any]:
    """What the results were found on."""
    git = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    versions = {"Python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in ("dvc", "mlflow", "prefect", "torch")}
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    return {"date": date, "commit": commit, "versions": versions, "cores": cores(), "seconds": round(seconds)}


if __name__ == "__main__":
    sys.exit(main())
