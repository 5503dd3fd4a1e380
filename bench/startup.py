"""What a stage costs before it works: imports, and the whole of a stage that has next to nothing to do."""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.align import chain, make, measured
from bench.inputs import ROOT
from bench.part import main

COMMANDS = {
    "python": [sys.executable, "-c", "pass"],
    "import torch": [sys.executable, "-c", "import torch"],
    "irft_generate --dry-run": [sys.executable, "-m", "tasks.irft_generate", "--dry-run", "--round", "r1",
                                "--policy", ".", "--data", ".", "--out", "none"],
    "what irft_generate imports": [sys.executable, "-c",
                                   "import juicer.data.demonstrations, juicer.sampling.decoding, juicer.models.loading;"
                                   "from transformers import GPTNeoXForCausalLM, PreTrainedTokenizerFast"],
    "what irft_train imports": [sys.executable, "-c",
                                "import juicer.data.demonstrations, juicer.methods.irft, juicer.models.loading;"
                                "import juicer.stages.stage;"
                                "from transformers import GPTNeoXForCausalLM, PreTrainedTokenizerFast"],
    "what sft imports": [sys.executable, "-c", "import juicer.methods.sft, juicer.models.loading;"
                         "from transformers import GPTNeoXForCausalLM, PreTrainedTokenizerFast;"
                         "from trl.trainer.sft_trainer import SFTTrainer"],
    "dvc": [sys.executable, "-m", "dvc", "--version"],
    "prefect": [sys.executable, "-c", "import prefect"],
    "mlflow": [sys.executable, "-c", "import mlflow"],
}  # fmt: skip


STAGES = 35


def run(prompts: int, repeats: int) -> dict[str, Any]:
    """Measure; returns the part's results: the least of the repeats, because a cold cache is no start-up cost."""
    found = {}
    for name, command in COMMANDS.items():
        taken = [_seconds(command) for _ in range(max(2, repeats))]
        found[name] = {"cpu_seconds": min(cpu for cpu, _ in taken), "wall_seconds": min(wall for _, wall in taken)}
    with tempfile.TemporaryDirectory() as folder:
        # As many stages as the quickstart has: DVC rewrites dvc.lock after each.
        done = measured(make(Path(folder) / "project", chain(STAGES)), dict(os.environ), "dvc", "repro")
    found["dvc repro, per stage that copies a file"] = {
        "cpu_seconds": round(done["cpu_seconds"] / STAGES, 3),
        "wall_seconds": round(done["seconds"] / STAGES, 3),
    }
    return {"startup": found}


def _seconds(command: list[str]) -> tuple[float, float]:
    """Processor and wall seconds of a command, its children's included."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return round(cpu, 3), round(time.perf_counter() - start, 3)


if __name__ == "__main__":
    main(run, __doc__)
