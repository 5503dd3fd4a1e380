"""Sampling on a CPU at the size of a small real model: ours, transformers' two ways, and the limit of its products.

    python -m bench.sampling --out sampling.json                    # SmolLM2's shape, float32, 64 prompts
    python -m bench.sampling --precisions bf16 --threads 2          # on a CPU with avx512_bf16 or amx
    python -m bench.sampling --layers 3 --prompts 16                # minutes less, for a look

Weights are random. Prompts and responses have the lengths of real dialogues (bench/hh_lengths.json), where responses
are made to end ("mixed"), or all have the mean lengths ("equal"). `generate` gets prompts sorted by length, and its
best number of rows counts. Figures are response tokens per second of wall and of processor time. `limit` is what the
model's matrix products alone would allow: as many rows in every step as ours has on average, prompts read without
padding, and neither attention nor anything else.

CTranslate2 is left out where it is not installed. It is no dependency: give the Python of an environment that has it,
torch and transformers by --ctranslate2. It decodes equal lengths only, because its calls have one length for all rows.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bench.gpu_parts.common import Context, lengths_forced, lengths_within
from bench.gpu_parts.sampling import SEED, Tokens, check, generate, generate_batch
from bench.measure import Timings
from bench.part import machine, quiet
from juicer.sampling.decoding import SampleRequest, sample_responses, seed_of
from juicer.settings.data import TemplateSettings
from juicer.settings.training import SamplingSettings

ROWS = 128
"""Juicer's default."""
CTRANSLATE2 = """
import json, sys, time, ctranslate2
folder, precision, threads, length, work = sys.argv[1:]
converter = ctranslate2.converters.TransformersConverter(folder)
converter.convert(folder + "/converted-" + precision, quantization=precision, force=True)
generator = ctranslate2.Generator(folder + "/converted-" + precision, intra_threads=int(threads), inter_threads=1)
prompts = [[f"t{token}" for token in prompt] for prompt in json.loads(open(work).read())]
options = {"max_length": int(length), "min_length": int(length), "sampling_topk": 0, "include_prompt_in_result": False}
wall, cpu = time.perf_counter(), time.process_time()
made = generator.generate_batch(prompts, max_batch_size=32, **options)
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
print(json.dumps({"wall": wall, "cpu": cpu, "tokens": sum(len(each.sequences_ids[0]) for each in made)}))
"""


def smol(layers: int, dtype: torch.dtype) -> LlamaForCausalLM:
    """Random weights of the shape of SmolLM2-135M."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    model: Any = LlamaForCausalLM(config).eval()
    model.to(dtype)
    model.generation_config.pad_token_id = 1
    return model


Prompts = list[tuple[str, list[int]]]


def work_of(kind: str, count: int, template: Tokens, vocabulary: int) -> tuple[Prompts, list[int], list[int]]:
    """Prompts, the lengths that names choose from, and the length of each response."""
    limits = template.settings
    real, drawn = lengths_within(limits.max_prompt_tokens, limits.max_response_tokens), random.Random(2)
    lengths = [each[1] for each in real]
    sizes = [real[row % len(real)][0] for row in range(count)]
    if kind == "equal":
        lengths = [round(statistics.mean(lengths))]
        sizes = [round(statistics.mean(sizes))] * count
    prompts = [(str(row), [drawn.randrange(2, vocabulary) for _ in range(size)]) for row, size in enumerate(sizes)]
    wanted = [lengths[seed_of(SEED, SampleRequest(name, 0, prompt)) % len(lengths)] for name, prompt in prompts]
    order = sorted(range(count), key=lambda row: -len(prompts[row][1]))
    return [prompts[row] for row in order], lengths, [wanted[row] for row in order]


Way = Callable[[], int]
"""Samples once; returns the rows of all steps together, or 0 where that is unknown."""


def ours(policy: Any, template: Any, prompts: Prompts, lengths: list[int], wanted: list[int], rows: int) -> Way:
    """Juicer's decoder."""

    def respond() -> int:
        settings = SamplingSettings(batch_size=rows)
        with lengths_forced(lengths, template.end_of_text) as steps:
            samples = sample_responses(policy, template, prompts, settings, SEED)
        check([len(each.response) for each in samples], wanted)
        return sum(steps)

    return respond


def theirs(
    context: Context, policy: Any, template: Tokens, prompts: Prompts, lengths: list[int], wanted: list[int], rows: int
) -> Way:
    """`generate` in batches of so many rows."""

    def respond() -> int:
        total = 0
        for start in range(0, len(prompts), rows):
            some = slice(start, start + rows)
            with generate(context, policy, template, prompts[some]) as each:
                total += sum(each(lengths, wanted[some]) or [])
        return total

    return respond


def continuous(
    context: Context, policy: Any, template: Tokens, prompts: Prompts, lengths: list[int], wanted: list[int]
) -> Way:
    """`generate_batch`, its start and end included."""

    def respond() -> int:
        with generate_batch(context, policy, template, prompts) as each:
            each(lengths, wanted)
        return 0

    return respond


def limit(policy: Any, prompts: Prompts, wanted: Sequence[int], steps: int, rows: float) -> Way:
    """The matrix products of reading all prompts and decoding all tokens, and nothing else."""
    weights = [each.weight for each in policy.modules() if isinstance(each, torch.nn.Linear)]
    head = policy.get_output_embeddings().weight
    body = [each for each in weights if each is not head]

    def multiply(count: int, times: int, matrices: Sequence[torch.Tensor]) -> None:
        for weight in matrices:
            given = torch.zeros(count, weight.shape[1], dtype=weight.dtype)
            for _ in range(times):
                torch.nn.functional.linear(given, weight)

    def respond() -> int:
        multiply(1024, max(1, round(sum(len(prompt) for _, prompt in prompts) / 1024)), body)
        multiply(max(1, round(rows)), steps, [*body, head])
        return 0

    return respond


def ctranslate2(python: str, policy: Any, prompts: Prompts, length: int, threads: int) -> dict[str, Any]:
    """CTranslate2 in float32 and int8, in an environment of its own."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        policy.save_pretrained(folder)
        words = {f"t{token}": token for token in range(policy.config.vocab_size)}
        _save_tokenizer(words, Path(folder))
        work = Path(folder) / "prompts.json"
        work.write_text(json.dumps([prompt for _, prompt in prompts]), encoding="utf-8")
        for precision in ("float32", "int8"):
            command = [python, "-c", CTRANSLATE2, folder, precision, str(threads), str(length), str(work)]
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
            if ended.returncode:
                found[precision] = {"failed": ended.stderr.strip().splitlines()[-1:]}
                continue
            taken = json.loads(ended.stdout.splitlines()[-1])
            found[precision] = {clock: round(taken["tokens"] / taken[clock], 1) for clock in ("wall", "cpu")}
    return found


def _save_tokenizer(words: dict[str, int], folder: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    first, second = list(words)[:2]
    tokenizer = Tokenizer(WordLevel(words, unk_token=second))
    special = {"bos_token": first, "eos_token": first, "unk_token": second, "pad_token": second}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


def measured(ways: dict[str, Way], tokens: int, repeats: int) -> dict[str, dict[str, Any]]:
    """Each way's response tokens per second, by the median of alternating repeats; a way that fails says why."""
    timings = {name: Timings() for name in ways}
    rows, failed = dict[str, int](), dict[str, str]()
    for _ in range(repeats):
        for name, way in ways.items():
            if name in failed:
                continue
            try:
                rows[name] = timings[name].time(way)
            except Exception as error:
                failed[name] = f"{type(error).__name__}: {error}"
    return {
        name: {"failed": failed[name]}
        if name in failed
        else {clock: round(tokens / times.median(clock), 1) for clock in ("wall", "cpu")}
        | ({"live_share": round(tokens / rows[name], 3)} if rows[name] else {})
        for name, times in timings.items()
    }


def compare(kind: str, precision: str, given: argparse.Namespace) -> dict[str, Any]:
    """All ways on one kind of lengths, in one precision."""
    template = Tokens(TemplateSettings(max_prompt_tokens=given.longest, max_response_tokens=given.longest))
    policy = smol(given.layers, {"fp32": torch.float32, "bf16": torch.bfloat16}[precision])
    context = Context(tiny=True, kit=None, work=Path())
    prompts, lengths, wanted = work_of(kind, given.prompts, template, policy.config.vocab_size)
    work = (policy, template, prompts, lengths, wanted)
    ways: dict[str, Way] = {f"ours, {rows} rows": ours(*work, rows) for rows in given.rows}
    ways |= {f"generate, {rows} rows": theirs(context, *work, rows) for rows in given.generate_rows}
    if given.continuous:
        ways["generate_batch"] = continuous(context, *work)
    steps = max(*wanted, sum(wanted) // max(given.rows))
    ways["limit"] = limit(policy, prompts, wanted, steps, sum(wanted) / steps)
    with torch.no_grad():
        ours(policy, template, prompts[:4], [2], [2] * 4, 4)()  # caches and ways are measured once per model
        result: dict[str, Any] = measured(ways, sum(wanted), given.repeats)
    if given.ctranslate2 and kind == "equal" and precision == "fp32":
        found = ctranslate2(given.ctranslate2, policy, prompts, wanted[0], torch.get_num_threads())
        result |= {f"CTranslate2, {name}": figures for name, figures in found.items()}
    best = max((each["cpu"] for name, each in result.items() if name.startswith("generate,") and "cpu" in each))
    result["ours over generate"] = round(max(e["cpu"] for n, e in result.items() if n.startswith("ours")) / best, 2)
    result["tokens"] = {"prompt": sum(len(prompt) for _, prompt in prompts), "response": sum(wanted)}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--rows", type=int, nargs="+", default=[32, ROWS], help="rows that ours decodes at once")
    parser.add_argument("--generate-rows", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--kinds", nargs="+", choices=["mixed", "equal"], default=["mixed", "equal"])
    parser.add_argument("--precisions", nargs="+", choices=["fp32", "bf16"], default=["fp32"])
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--longest", type=int, default=128, help="tokens of a prompt, and of a response")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--continuous", action="store_true", help="transformers' continuous batching too")
    parser.add_argument("--ctranslate2", help="Python of an environment that has CTranslate2, torch and transformers")
    parser.add_argument("--out", type=Path, help="where to write the results; printed otherwise")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    quiet()
    begun, found = time.perf_counter(), dict[str, Any]()
    for precision in given.precisions:
        for kind in given.kinds:
            found[f"{kind}, {precision}"] = compare(kind, precision, given)
            print(json.dumps({f"{kind}, {precision}": found[f"{kind}, {precision}"]}), flush=True)
    settings = {name: value for name, value in vars(given).items() if name not in ("out", "ctranslate2")}
    found |= {"settings": settings, "seconds": round(time.perf_counter() - begun), "machine": machine()}
    if given.out:
        given.out.write_text(
            json.dumps(found | {"python": platform.python_version()}, indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
