"""Change the modules that decide what is learnt and reported, one change at a time, and see whether a test fails.

    python -m dev.mutants                     every change of every module: make mutants
    python -m dev.mutants --module pairs      only modules with this in their path
    python -m dev.mutants --list              the changes, and nothing is run

Each change gets a process of its own, a fork of one that has imported the libraries, in which the module is imported as
changed and the tests of that module are run until one fails. Nothing on the disk is changed. A change that no test
notices survives; dev/mutants/accepted.yaml gives the reasons of those that may. Ends with 1 if another one survives, or
if fewer than 95% of those that are not equivalent are noticed.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from bench import results_file
from dev.mutants.changes import Change, changes_of
from dev.mutants.trials import Ended, baseline, preload, run_all

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench/results/mutants.json"
ACCEPTED = Path(__file__).with_name("accepted.yaml")
ENOUGH = 0.95
TESTS = {
    "juicer/methods/objectives.py": ("objectives",),
    "juicer/methods/pairs.py": ("pairs",),
    "juicer/methods/sft_objectives.py": ("sft_objectives",),
    "juicer/methods/teacher.py": ("teacher",),
    "juicer/sampling/decoding.py": ("sampling",),
    "juicer/sampling/steppers.py": ("sampling", "steppers"),
    "juicer/evaluation/metrics.py": ("evaluation",),
    "juicer/evaluation/choice.py": ("choice",),
    "juicer/evaluation/rounds.py": ("rounds",),
    "juicer/claim/intervals.py": ("claim_intervals",),
    "juicer/claim/methods/verdict.py": ("compare_methods",),
    "juicer/reporting/numbers.py": ("numbers", "findings"),
    "tasks/sft_matched.py": ("stage_work:control or rates",),
}
"""The modules that are changed, each with the files of unit tests that are to notice it, the quickest first.

After a colon: which of a file's tests, in the words of pytest's -k."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dev.mutants", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--module", default="", metavar="PART", help="part of the paths of the modules to change")
    parser.add_argument("--list", action="store_true", help="print the changes and stop")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="default one per core")
    results_file.add_arguments(parser, "mutants.json")
    given = parser.parse_args()
    chosen = [module for module in TESTS if given.module in module]
    if not chosen:
        print(f"error: no module has {given.module!r} in its path: {', '.join(TESTS)}", file=sys.stderr)
        return 2
    changes = {module: changes_of(ROOT, module) for module in chosen}
    if given.list:
        for change in (each for module in chosen for each in changes[module]):
            print(f"{change.module}:{change.line}: {change.what}")
        return 0
    if not given.out.is_file() and RESULTS.is_file():
        results_file.write(given.out, RESULTS.read_text(encoding="utf-8"))  # other modules keep their results
    preload(ROOT, sorted({test.partition(":")[0] for module in chosen for test in TESTS[module]}))
    for module in chosen:
        begun = time.monotonic()
        usual = baseline(ROOT, TESTS[module])
        ends = run_all(ROOT, changes[module], TESTS[module], usual, given.jobs)
        row = row_of(changes[module], ends, reasons()) | {"seconds": round(time.monotonic() - begun)}
        print(text_of(module, row), flush=True)
        made = {change.key for change in changes[module]}
        for _, source, what in (key for key in reasons() if key[0] == module and key not in made):
            print(f"  dev/mutants/accepted.yaml has a reason for what is not there any more: {source}: {what}")
        summary = add(given.out, module, row)
    print(
        f"\n{summary['killed']} of {summary['total']} changes noticed ({summary['share_of_all']:.1%}; "
        f"{summary['share']:.1%} without the {summary['equivalent']} equivalent ones); written: {given.out}"
    )
    return 0 if summary["share"] >= ENOUGH and not summary["unexplained"] else 1


def add(path: Path, module: str, row: dict[str, Any]) -> dict[str, Any]:
    """Put the results of a module into the file of all results; returns its content."""
    rows = json.loads(path.read_text(encoding="utf-8"))["modules"] if path.is_file() else {}
    rows[module] = row
    summary = summary_of({name: rows[name] for name in TESTS if name in rows})
    path.write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return summary


def reasons() -> dict[tuple[str, str, str], str]:
    """Why changes may survive, by their keys."""
    entries = YAML(typ="safe").load(ACCEPTED.read_text(encoding="utf-8")) or []
    return {
        (module, source, what): group["reason"]
        for group in entries
        for module, source, what in [tuple(change) for change in group["changes"]]
    }


def row_of(changes: Sequence[Change], ends: Sequence[Ended], known: dict[tuple[str, str, str], str]) -> dict[str, Any]:
    """The results of a module."""
    survivors = [change for change, ended in zip(changes, ends, strict=True) if ended == "survived"]
    return {
        "total": len(changes),
        "killed": len(changes) - len(survivors),
        "survivors": [
            {"line": each.line, "source": each.source, "change": each.what, "reason": known.get(each.key)}
            for each in survivors
        ],
    }


def summary_of(rows: dict[str, Any]) -> dict[str, Any]:
    """The results of all modules; those that are not among TESTS any more are left out."""
    total, killed = (sum(row[name] for row in rows.values()) for name in ("total", "killed"))
    given = [each["reason"] for row in rows.values() for each in row["survivors"]]
    equivalent = sum(reason is not None and reason.startswith("equivalent") for reason in given)
    counts = {
        "total": total,
        "killed": killed,
        "equivalent": equivalent,
        "share": round(killed / (total - equivalent), 4),
        "share_of_all": round(killed / total, 4),
        "unexplained": given.count(None),
    }
    return {**counts, "modules": rows}


def text_of(module: str, row: dict[str, Any]) -> str:
    """The results of a module, for the terminal."""
    first = f"{module:34} {row['killed']:4} of {row['total']:4} noticed ({row['killed'] / row['total']:.1%})"
    return "\n".join(
        [first, *(f"  {module}:{each['line']}: {each['change']}  [{each['reason']}]" for each in row["survivors"])]
    )


if __name__ == "__main__":
    sys.exit(main())
