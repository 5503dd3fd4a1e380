"""A round the SPIN way against ours at one size: each step a process of its own, both in float32.

    python -m bench.spin --size 0.5M                       # some minutes
    python -m bench.spin --size 10M --prompts 16           # a quick look

See bench/spin_steps.py for what the steps do. SPIN's settings are 8 prompts and 8 pairs at a time with recomputed
activations, but two epochs in float32, as ours; `spin_matched` has our batches and does not recompute. `ours_small` is
ours with SPIN's batches. Start-up is what a process spends on imports and on loading models.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import sizes
from bench.measure import Timings, ratio
from bench.part import size_main
from bench.spin_steps import FRACTION, Row, Way, Work

ROOT = Path(__file__).parents[1]
SMALL = 8
GOAL = 2.5
SAMPLING_BATCH = 128


def ways(training_batch: int) -> dict[str, Way]:
    """Ours first; the names of the others begin with spin."""
    return {
        "ours": Way(SAMPLING_BATCH, training_batch, recompute=False),
        "ours_small": Way(SMALL, SMALL, recompute=False),
        "spin": Way(SMALL, SMALL, recompute=True),
        "spin_matched": Way(SAMPLING_BATCH, training_batch, recompute=False),
    }


def steps(name: str, prompts: int) -> list[tuple[str, int]]:
    """The processes of a round: step and part."""
    if name.startswith("ours"):
        return [("ours-generate", 0), ("ours-train", 0)]
    parts = range(-(-prompts // FRACTION))
    return [*(("generate", part) for part in parts), ("convert", 0), ("train", 0)]


def work_of(subject: sizes.Subject, way: Way) -> Work:
    """What the steps of a way are given."""
    wanted: Sequence[int | None] = subject.wanted or [None] * len(subject.prompts)
    rows = [
        Row(name, prompt, subject.demonstrations[name], length)
        for (name, prompt), length in zip(subject.prompts, wanted, strict=True)
    ]
    template = subject.template
    return Work(
        policy=str(subject.folder.resolve()),
        rows=rows,
        lengths=subject.lengths,
        ends=list(template.ends),
        end_of_text=template.end_of_text,
        padding=template.padding,
        limit=template.settings.max_response_tokens,
        training=subject.size.training.model_dump(),
        way=way,
    )


def step(folder: Path, name: str, part: int) -> tuple[float, float, float]:
    """Run one process. Returns its wall seconds, its processor seconds, and how many of these were its work."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "bench.spin_steps", name, str(folder), "--part", str(part)]
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    spent = json.loads((folder / "spent.json").read_text(encoding="utf-8"))
    return time.perf_counter() - begun, cpu, spent["work"]


def run(size: str, prompts: int | None, repeats: int | None) -> dict[str, Any]:
    """Measure; returns the part's results."""
    subject = sizes.make(size, prompts or sizes.SIZES[size].fewer)
    count, given = len(subject.prompts), ways(subject.size.training.batch_size)
    whole, work = ({name: Timings() for name in given} for _ in range(2))
    by_step: dict[str, dict[str, dict[str, float]]] = {}
    for _ in range(repeats or min(2, subject.size.repeats)):
        for name, way in given.items():
            with tempfile.TemporaryDirectory() as folder:
                work_of(subject, way).write(Path(folder))
                found = [(which, *step(Path(folder), which, part)) for which, part in steps(name, count)]
            whole[name].add(sum(wall for _, wall, _, _ in found), sum(cpu for _, _, cpu, _ in found))
            # A step's own clock is of processor time alone; wall seconds are those of its whole process.
            work[name].add(whole[name].wall[-1], sum(spent for *_, spent in found))
            by_step[name] = {}
            for which, _, cpu, spent in found:
                both = by_step[name].setdefault(which, {"whole": 0.0, "work": 0.0})
                both["whole"], both["work"] = round(both["whole"] + cpu, 3), round(both["work"] + spent, 3)
    return {
        "spin": {
            "with_startup": _compared(whole),
            "without_startup": _compared(work),
            "cpu_seconds_by_step": by_step,
            "precision": "fp32",
            "prompts": count,
        }
    }


def _compared(times: dict[str, Timings]) -> dict[str, Any]:
    others = {name: each for name, each in times.items() if name != "ours"}
    return ratio(times["ours"], others, GOAL, judged=("spin",))


if __name__ == "__main__":
    size_main(run, __doc__, more={})
