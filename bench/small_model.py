"""Peak memory and processor time of every stage with a model of 135M parameters, each stage a process of its own.

    python -m bench.small_model --work /tmp/small-model                     # minutes on two cores
    python -m bench.small_model --work /tmp/small-model --set sft.micro_batch_size=null --name whole

Random weights of SmolLM2-135M's shape and dialogues as long as those of Anthropic-HH (bench/hh_lengths.json, one letter
a token), so nothing is downloaded and nothing is learnt: figures are of memory and time. The folder keeps the model and
what the stages read, so another name with other overrides measures the stages on the same inputs. To measure another
checkout, run it there.
"""

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import hh_lengths
from bench.gpu_parts.common import ROOT
from bench.gpu_parts.stages import STEPS
from bench.gpu_parts.workspace import Workspace, placed
from juicer.recipe.graph import ABSENT

VOCABULARY, SEED = 49_152, 0
MEASURED = ("sft", "irft_generate", "irft_train", "rft_reward", "rft_policy", "sft_matched", "evaluate")
RECIPE = """
name: small-model
compute: {{device: cpu, precision: fp32, threads: {threads}}}
fetch: {{source: {work}/rows.jsonl, licence: generated}}
policy: {{model: {work}/policy}}
scorer: {{kind: none}}
template: {{name: hh, max_prompt_tokens: 160, max_response_tokens: 64}}
curate: {{keep: null, validation_share: 0.2, held_out_share: 0.2}}
sft: {{epochs: 1, batch_size: 16, optimiser: {{learning_rate: 1e-5}}}}
sft_matched: {{learning_rates: [1e-5]}}
irft:
  rounds: 1
  training: {{epochs: 1, batch_size: 16, optimiser: {{name: adamw, learning_rate: 1e-5}}}}
rft:
  rounds: 1
  reward: {{epochs: 1, batch_size: 16}}
  policy: {{steps: 2, prompts_per_step: 8, samples_per_prompt: 4}}
evaluation: {{prompts: 16}}
"""


def prepare(work: Path, rows: int) -> None:
    """Write the model, its tokenizer and the rows where they are not there yet."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "policy/model.safetensors").is_file():
        save_policy(work / "policy")
    letters = random.Random(SEED)

    def text(tokens: int) -> str:
        return "".join(letters.choices("abcdefghijklmnopqrstuvwxyz", k=max(1, tokens)))

    lines: list[str] = []
    for prompt, chosen, rejected in hh_lengths.load():
        # The template adds its turns to the prompt, a letter a token, and each response has its end-of-text.
        texts = text(prompt - 24), text(chosen - 1), text(rejected - 1)
        if prompt <= 160 and max(chosen, rejected) <= 64 and len(lines) < rows:
            lines.append(json.dumps(dict(zip(("prompt", "chosen", "rejected"), texts, strict=True))))
    (work / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def save_policy(folder: Path) -> None:
    """A Llama of SmolLM2-135M's shape with random weights, and a tokenizer of single bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    end, single = "<|endoftext|>", sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [end, *single, *(f"unused {number}" for number in range(VOCABULARY - 1 - len(single)))]
    tokenizer = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end).save_pretrained(folder)


def measure(work: Path, name: str, overrides: Sequence[str], stages: Sequence[str], threads: int) -> dict[str, Any]:
    """Run the stages on the same inputs, which the variant `inputs` makes first; returns the costs of each."""
    recipe = work / "recipe.yaml"
    recipe.write_text(RECIPE.format(work=work, threads=threads), encoding="utf-8")
    steps = placed(STEPS, {"POLICY": str(work / "policy"), "SCORER": ABSENT})
    steps["curate"] = replace(steps["curate"], needs=("fetch",))
    space = Workspace(work / "stages", recipe, {"inputs": [], name: list(overrides)}, steps)
    results = {}
    for stage in stages:
        space.require(stage)
        space.run(stage, [name])
        costs = json.loads((space.folder / f".juicer/costs/{stage}@{name}.json").read_text(encoding="utf-8"))
        record = space.out(stage, name) / "training.json"
        facts = json.loads(record.read_text(encoding="utf-8"))["facts"] if record.is_file() else {}
        results[stage] = {
            "peak_gb": round(costs["peak_memory_mb"] / 1000, 2),
            "cpu_seconds": costs["cpu_seconds"],
            "micro_batch_size": facts.get("micro_batch_size"),
            "precision": facts.get("precision"),
        }
        print(f"{name:12s} {stage:14s} {results[stage]}", flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="scratch folder, which is kept")
    parser.add_argument("--name", default="default", help="of this variant")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an override of the recipe")
    parser.add_argument("--stages", nargs="+", default=MEASURED, choices=MEASURED)
    parser.add_argument("--rows", type=int, default=80)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="where to write the results as JSON")
    given = parser.parse_args()
    work = given.work.resolve()
    prepare(work, given.rows)
    results = measure(work, given.name, given.set, given.stages, given.threads)
    if given.out:
        text = json.dumps({"parameters": "135M", "root": ROOT.name, "stages": results}, indent=1)
        given.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
