"""Peak memory: with a vocabulary of 50,000 and 512 tokens against the stock way, and whether it is flat in rows.

Each figure is of a process of its own: how far its resident memory rises above what it was before the work.
"""

import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from bench import inputs, stock
from bench.part import main, quiet
from juicer.data.dialogues import Dialogue
from juicer.methods.irft import irft_round
from juicer.methods.pairs import Pair, make_pairs
from juicer.sampling.decoding import sample_responses
from juicer.settings.irft import IrftTrainingSettings
from juicer.settings.training import OptimiserSettings, SamplingSettings

VOCABULARY, TOKENS = 50_304, 512
STEP = IrftTrainingSettings(epochs=1, batch_size=8, optimiser=OptimiserSettings(learning_rate=1e-5))
"""TRL's batch size, for both."""


def large_vocabulary(way: str) -> float:
    """MB that a step takes on dialogues of 512 tokens, half of them the response's."""
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
    )
    policy = GPTNeoXForCausalLM(config).eval()
    pairs = []
    for _ in range(STEP.batch_size):
        prompt, one, other = torch.randint(2, VOCABULARY, (3, TOKENS // 2)).tolist()
        pairs.append(Pair(Dialogue(prompt, one), Dialogue(prompt, other)))
    if way == "ours":
        return risen(lambda: irft_round(policy, policy, pairs, STEP, 1, 0))
    options = stock.DEFAULTS if way == "stock" else stock.matched(STEP)
    template = inputs.make(1).template
    with tempfile.TemporaryDirectory() as folder:
        policy.save_pretrained(folder)
        reference = GPTNeoXForCausalLM.from_pretrained(folder)
    return risen(stock.dpo_trainer(policy, reference, template.tokenizer, pairs, STEP, options).train)


def round_of(rows: int) -> float:
    """MB that sampling and one pass over the pairs of so many rows take, at the quickstart's shapes."""
    given = inputs.make(rows)
    policy, named = given.policy(), given.prompts()
    settings = STEP.model_copy(update={"batch_size": 32})

    def work() -> None:
        samples = sample_responses(policy, given.template, named, SamplingSettings(), seed=0)
        irft_round(policy, policy, make_pairs(given.rows, samples, given.template), settings, 1, 0)

    return risen(work)


def risen(work: Callable[[], Any]) -> float:
    """MB by which resident memory rises at most while `work` is done."""
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    work()
    return round(_resident("VmHWM") - before, 1)


def _resident(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def alone(work: Callable[..., float], *given: Any) -> float:
    """The result of `work` in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=quiet) as pool:
        return pool.submit(work, *given).result()


def run(prompts: int, repeats: int) -> dict[str, Any]:
    """Measure; returns the part's results. Peaks hardly vary, so there is one repeat."""
    peaks = {way: alone(large_vocabulary, way) for way in ("ours", "stock", "matched")}
    rows = [max(32, prompts // 4), prompts, 4 * prompts]
    inputs.make(rows[-1])
    flat = {str(count): alone(round_of, count) for count in rows}
    return {
        "memory_vs_stock": {
            "ratio": round(peaks["ours"] / peaks["stock"], 3),
            "goal": 0.6,
            "matched": round(peaks["ours"] / peaks["matched"], 3),
            "peak_mb": peaks,
            "vocabulary": VOCABULARY,
            "tokens": TOKENS,
            "pairs_per_step": STEP.batch_size,
        },
        "memory_by_rows": {"peak_mb": flat},
    }


if __name__ == "__main__":
    main(run, __doc__)
