"""How fast is a round of IRFT? All parts, one after another, each in a process of its own: make bench.

    python -m bench.round                                  # about 10 minutes on two cores that do nothing else
    python -m bench.round --parts speed --prompts 200      # a quick look at one part

Writes bench/results/latest.json after every part, and keeps the parts that are not measured again. Ratios are of
medians of processor seconds, with those of wall seconds beside them; every part has its raw timings and its machine.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PARTS = ("speed", "growth", "memory", "startup")


def measure(part: str, prompts: int, repeats: int, threads: int) -> dict[str, Any]:
    """The results of one part, measured in a process of its own."""
    environment = {
        **os.environ,
        # One thread policy for all ways; threads that spin while they wait would be counted as work.
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "results.json"
        command = [sys.executable, "-m", f"bench.{part}", "--out", str(out)]
        command += ["--prompts", str(prompts), "--repeats", str(repeats)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{part} failed:\n{done.stderr[-2000:]}")
        results: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return results


def table(results: dict[str, Any]) -> str:
    """One line per figure: what it is, its value, the goal."""
    lines = [f"{'figure':34s} {'value':>14s} {'goal':>8s}  beside"]
    for name in ("round_vs_stock", "sampling_vs_stock", "training_vs_stock", "training_vs_floor"):
        if name in results:
            row = results[name]
            others = {key: value for key, value in row.items() if key.endswith(("_cpu", "_wall"))}
            beside = ", ".join(f"{key} {value:g}" for key, value in others.items())
            lines.append(f"{name:34s} {row['ratio']:13.2f}x {'>= ' + str(row['goal']):>8s}  {beside}")
    if "memory_vs_stock" in results:
        row = results["memory_vs_stock"]
        peaks = ", ".join(f"{way} {mb:.0f} MB" for way, mb in row["peak_mb"].items())
        lines.append(f"{'memory_vs_stock':34s} {row['ratio']:14.0%} {'<= 0.6':>8s}  {peaks}")
        peaks = ", ".join(f"{count} rows {mb:.0f} MB" for count, mb in results["memory_by_rows"]["peak_mb"].items())
        lines.append(f"{'memory_by_rows':34s} {'':14s} {'flat':>8s}  {peaks}")
    for name, row in results.get("growth_exponents", {}).items():
        sizes = ", ".join(map(str, row["sizes"]))
        lines.append(f"{'growth in ' + name:34s} {row['exponent']:14.2f} {'<= 1.05':>8s}  at {sizes}")
    for name, row in results.get("startup", {}).items():
        lines.append(f"{'start-up: ' + name:34s} {row['cpu_seconds']:12.2f} s {'':>8s}  wall {row['wall_seconds']:g} s")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--prompts", type=int, default=1000, help="of a round; the parts' other sizes follow it")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of every way; the quickstart's stages have 1")
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results/latest.json")
    given = parser.parse_args()
    results: dict[str, Any] = json.loads(given.out.read_text(encoding="utf-8")) if given.out.is_file() else {}
    for part in given.parts:
        start = time.perf_counter()
        before = os.getloadavg()[0]
        results |= measure(part, given.prompts, given.repeats, given.threads)
        seconds = time.perf_counter() - start
        results.setdefault("parts", {})[part] = {
            "prompts": given.prompts,
            "repeats": given.repeats,
            "seconds": round(seconds, 1),
            "load_before": round(before, 2),
            "measured_at": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
            "machine": results.pop("machine"),
        }
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(f"{part}: {seconds:.0f} s", file=sys.stderr, flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
