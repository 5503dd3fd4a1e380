"""What a stage costs before it works: imports, and the whole of a stage that has next to nothing to do.

python -m bench.startup                                        # with `dvc repro`
python -m bench.startup --command "python -m juicer.running"   # with another program that runs a project's stages
"""

import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import empty_graph
from bench.align import chain, make
from bench.inputs import ROOT
from bench.part import main
from dev.reference import as_lock

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
REPRO = f"{sys.executable} -m dvc repro"


def run(prompts: int, repeats: int, command: str = REPRO, lock: Path | None = None) -> dict[str, Any]:
    """Measure; returns the part's results: the least of the repeats, because a cold cache is no start-up cost."""
    found = {}
    for name, each in COMMANDS.items():
        taken = [_seconds(each) for _ in range(max(2, repeats))]
        found[name] = {"cpu_seconds": min(cpu for cpu, _ in taken), "wall_seconds": min(wall for _, wall in taken)}
    words = shlex.split(command)
    shown = "dvc repro" if command == REPRO else command
    with tempfile.TemporaryDirectory() as folder:
        project = make(Path(folder) / "project", chain(STAGES))
        found[f"{shown}, per stage that copies a file"] = _shared(_seconds(words, project), STAGES)
        given = lock or Path(folder) / "reference.lock"
        if lock is None:
            given.write_text(as_lock(), encoding="utf-8")
        found |= _of_real_entries(Path(folder) / "real", words, shown, given)
    return {"startup": found}


def _of_real_entries(folder: Path, words: list[str], shown: str, lock: Path) -> dict[str, dict[str, float]]:
    """The command over stages that do nothing, but have the entries that the real ones have in dvc.lock."""
    stages = empty_graph.make(folder, lock)
    whole = f"{shown}, {stages} empty stages with the entries of dvc.lock"
    made = _shared(_seconds(words, folder), 1)
    return {
        whole: made | {"lock_kb": round((folder / "dvc.lock").stat().st_size / 1000, 1)},
        "the same, per stage": _shared((made["cpu_seconds"], made["wall_seconds"]), stages),
        "the same with nothing to do": _shared(_seconds(words, folder), 1),
    }


def _shared(spent: tuple[float, float], by: int) -> dict[str, float]:
    return {"cpu_seconds": round(spent[0] / by, 3), "wall_seconds": round(spent[1] / by, 3)}


def _seconds(command: list[str], folder: Path = ROOT) -> tuple[float, float]:
    """Processor and wall seconds of a command, its children's included."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)} failed:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return round(cpu, 3), round(time.perf_counter() - start, 3)


if __name__ == "__main__":
    main(run, __doc__, options={"command": "what runs the stages, default dvc repro"})
