"""How fast is a round of IRFT? All parts, one after another, each in a process of its own: make bench.

    python -m bench.round                                  # all parts at all sizes, on cores that do nothing else
    python -m bench.round --quick                          # a look: few prompts, one repeat
    python -m bench.round --parts speed --sizes 0.5M --prompts 200
    python -m bench.round --keep                           # as make bench, into the tracked bench/results/latest.json
    python -m bench.round --tables                         # write the tables of docs/performance.md from that file

Writes bench/out/latest.json after every part, and keeps the parts that are not measured again. Ratios are of medians of
processor seconds, with those of wall seconds beside them; every part has its raw timings, its machine and the load.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import results_file, round_tables

ROOT = Path(__file__).parents[1]
SIZES = ("0.5M", "10M", "135M")
SIZED, UNSIZED = ("speed", "spin"), ("growth", "memory", "startup")
PROMPTS, REPEATS = 1000, 3
"""Of the parts without a size; a size has its own."""
QUICK = {"0.5M": 64, "10M": 8, "135M": 4, None: 100}


def measure(part: str, size: str | None, prompts: int | None, repeats: int | None, threads: int) -> dict[str, Any]:
    """The results of one part, measured in a process of its own."""
    environment = {
        **os.environ,
        # One thread policy for all ways; threads that spin while they wait would be counted as work.
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "results.json"
        command = [sys.executable, "-m", f"bench.{part}", "--out", str(out)]
        for name, value in (("size", size), ("prompts", prompts), ("repeats", repeats)):
            command += [] if value is None else [f"--{name}", str(value)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            why = "killed, perhaps because memory ran out" if done.returncode == -9 else f"exit code {done.returncode}"
            raise SystemExit(f"{part} failed ({why}):\n{done.stderr[-2000:]}")
        results: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return results


def chosen(parts: Sequence[str], sizes: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Each part with each size that it is measured at, the small ones first."""
    for part in parts:
        yield from ((part, size) for size in (sizes if part in SIZED else (None,)))


def add(results: dict[str, Any], part: str, size: str | None, found: dict[str, Any], about: dict[str, Any]) -> None:
    """Put a part's results in their place, with what they were measured on."""
    about = {**about, "machine": found.pop("machine")}
    place = results if size is None else results.setdefault("sizes", {}).setdefault(size, {})
    place |= found
    results.setdefault("parts", {})[part if size is None else f"{part} {size}"] = about


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=SIZED + UNSIZED, default=list(SIZED + UNSIZED))
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="of speed and spin")
    parser.add_argument("--prompts", type=int, help="of a round; by default as many as the size says")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--quick", action="store_true", help="few prompts and one repeat, for a look")
    parser.add_argument("--threads", type=int, default=1, help="of every way; the quickstart's stages have 1")
    parser.add_argument("--tables", action="store_true", help="write the tables of docs/performance.md and stop")
    results_file.add_arguments(parser, "latest.json")
    given = parser.parse_args()
    if given.tables:
        print(round_tables.write())
        return
    results: dict[str, Any] = json.loads(given.out.read_text(encoding="utf-8")) if given.out.is_file() else {}
    for part, size in chosen(given.parts, given.sizes):
        start, before = time.perf_counter(), os.getloadavg()[0]
        default = None if size else PROMPTS
        prompts = given.prompts or (QUICK[size] if given.quick else default)
        repeats = given.repeats or (1 if given.quick else None if size else REPEATS)
        found = measure(part, size, prompts, repeats, given.threads)
        seconds = time.perf_counter() - start
        about = {
            "prompts": prompts or found.get("shapes", {}).get("prompts") or found.get("spin", {}).get("prompts"),
            "repeats": repeats,
            "seconds": round(seconds, 1),
            "load_before": round(before, 2),
            "measured_at": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        }
        add(results, part, size, found, about)
        results_file.write(given.out, json.dumps(results, indent=1) + "\n")
        print(f"{part}{f' {size}' if size else ''}: {seconds:.0f} s", file=sys.stderr, flush=True)
    print(round_tables.terminal(results))
    print(f"\nwritten to {given.out}")


if __name__ == "__main__":
    main()
