"""How fast is curate without a scorer? 160,000 HH-sized rows through the stage, as a process of its own.

    python bench/curate.py [--rows 160000] [--threads 2]

Prints JSON: seconds and peak memory of the process (limits: 60 s and 500 MB on 2 cores that do nothing else), CPU
seconds, which other work on the cores hardly changes, and what was kept.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from juicer.data.demonstrations import Demonstration, Message, write
from juicer.recipe.activation import dump, load

ROOT = Path(__file__).resolve().parent.parent
END_OF_TEXT = "<|endoftext|>"
WORDS = 4000
PROMPT_WORDS, RESPONSE_WORDS = 95, 45
"""Mean words per prompt and response. With them prompts have about 500 characters and responses about 235, as the
rows of Anthropic-HH's harmless-base have."""


def vocabulary(chance: random.Random) -> list[str]:
    """Words of English-like lengths."""
    letters = "etaoinshrdlucmfwypvbgk"
    return ["".join(chance.choices(letters, range(len(letters), 0, -1), k=chance.randint(1, 8))) for _ in range(WORDS)]


def rows(count: int, words: list[str], chance: random.Random) -> Iterator[Demonstration]:
    """Dialogues of one to three user turns; lengths spread as widely as HH's."""
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    pool = chance.choices(words, weights, k=200_000)

    def text(mean: float) -> str:
        length = max(3, int(chance.expovariate(1 / mean)))
        start = chance.randrange(len(pool) - length)
        return " ".join(pool[start : start + length]).capitalize() + "."

    for _ in range(count):
        turns = chance.randint(1, 3)
        prompt: list[Message] = []
        for turn in range(2 * turns - 1):
            mean = PROMPT_WORDS / (2 * turns - 1)
            prompt.append({"role": "user" if turn % 2 == 0 else "assistant", "content": text(mean)})
        yield Demonstration.make(prompt, text(RESPONSE_WORDS), rejected=text(RESPONSE_WORDS))


def make_policy(folder: Path, texts: list[str]) -> None:
    """A folder with what curate reads of a policy: a byte-level BPE tokenizer and the context."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=8000, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT).save_pretrained(folder)
    config = {"model_type": "gpt_neox", "max_position_embeddings": 2048}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=160_000)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "raw").mkdir()
        raw = folder / "raw" / "demonstrations.jsonl"
        words = vocabulary(chance)
        write(raw, rows(given.rows, words, chance))
        with raw.open(encoding="utf-8") as lines:
            sample = [line for _, line in zip(range(2000), lines, strict=False)]
        make_policy(folder / "policy", [Demonstration.model_validate_json(line).response for line in sample])
        overrides = [
            "scorer.kind=none",
            "template.max_prompt_tokens=128",
            "template.max_response_tokens=384",
            "curate.keep=null",
            f"compute.threads={given.threads}",
        ]
        params = folder / "params.yaml"
        params.write_text(dump(*load(ROOT / "recipes" / "quickstart.yaml", overrides)), encoding="utf-8")
        command = [sys.executable, "-m", "tasks.curate", "--params", str(params), "--raw", str(folder / "raw")]
        command += ["--policy", str(folder / "policy"), "--scorer", str(folder / "policy")]
        start = time.perf_counter()
        done = subprocess.run(
            [*command, "--out", str(folder / "out")],
            check=False,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
        )
        if done.returncode:  # its one line says why; for example, of 20 rows none are left to validate on
            sys.exit(done.returncode)
        seconds = time.perf_counter() - start
        curation = json.loads((folder / "out" / "curation.json").read_text(encoding="utf-8"))
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = {
            "rows": given.rows,
            "megabytes": round(raw.stat().st_size / 2**20, 1),
            "seconds": round(seconds, 1),
            "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
            "peak_memory_mb": round(used.ru_maxrss / 1024, 1),
            "kept": curation["kept"],
            "dropped": curation["dropped"],
        }
        print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
