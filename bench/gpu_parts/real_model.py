"""A real small model, SmolLM2-135M-Instruct of the kit, on real rows of Anthropic-HH: bf16's noise, and a round."""

import gzip
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from bench import gpu_source
from bench.gpu_parts.common import ROOT, Context
from bench.gpu_parts.stages import STEPS
from bench.gpu_parts.workspace import Workspace, placed
from juicer.data.dialogues import Dialogue
from juicer.models.loading import load_policy, load_template, mixed_precision
from juicer.models.log_probability import score_dialogues
from juicer.sampling.decoding import sample_responses
from juicer.settings.compute import ComputeSettings
from juicer.settings.data import TemplateSettings
from juicer.settings.training import SamplingSettings
from juicer.training.passes import Passes

ROUND = ("fetch", "curate", "sft", "irft_generate", "irft_train", "evaluate")
"""The stages of a round, in their order."""


def measurements(context: Context) -> dict[str, Callable[[], dict[str, Any]]]:
    """With `tiny` a random model of the same kind, and fewer rows."""
    return {"noise of bf16": lambda: noise(context), "one round": lambda: one_round(context)}


def model_folder(context: Context) -> Path:
    """The model as an ordinary folder.

    Raises:
        RuntimeError: the kit has no model, or not all pieces of it.
    """
    folder = context.work / "model"
    if not (folder / "config.json").is_file():
        made = folder.with_name("model.part")
        shutil.rmtree(made, ignore_errors=True)
        if context.tiny:
            _random(made)
        else:
            file = context.kit and gpu_source.assemble(context.kit, context.work / "gguf")
            if not file:
                raise RuntimeError("the kit does not hold all pieces of the model: make gpu-kit KIT=--model")
            _convert(file, made)
        made.replace(folder)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    """A GGUF file as safetensors. transformers refuses to save what it has read from one, so the weights are copied."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    read = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, trust_remote_code=False, dtype=torch.float32
    )
    values = read.config.to_dict()
    values.pop("quantization_config", None)
    model = type(read)(type(read.config).from_dict(values))
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, trust_remote_code=False)
    # transformers 5.17 takes the start of a turn for its end; the model's configuration knows better.
    tokenizer.eos_token = tokenizer.pad_token = tokenizer.convert_ids_to_tokens(values["eos_token_id"])
    tokenizer.save_pretrained(folder)


def _random(folder: Path) -> None:
    """A tiny Llama with a chat template of its own."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from juicer.quickstart.random_models import train_random_tokenizer
    from juicer.settings.tiny import TinySettings

    settings = TemplateSettings(name="model")
    tokenizer = train_random_tokenizer(["Hello, how are you?"] * 50, "LlamaForCausalLM", settings, TinySettings())
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _rows(context: Context) -> Path:
    """Real rows, as a folder whose files `test` are held out.

    Raises:
        RuntimeError: the kit has none.
    """
    folder = context.work / "rows"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train", "test"):
        if (folder / f"{name}.jsonl").is_file():
            continue
        if context.tiny:
            asked = [f"\n\nHuman: {name} {row}?\n\nAssistant: " for row in range(24)]
            rows = [{"chosen": f"{each}Yes.", "rejected": f"{each}No."} for each in asked]
            text = "".join(f"{json.dumps(row)}\n" for row in rows)
        else:
            packed = context.kit and context.kit / f"data/{name}.jsonl.gz"
            if not packed or not packed.is_file():
                raise RuntimeError("the kit holds no rows of Anthropic-HH: make gpu-kit where they are")
            text = gzip.decompress(packed.read_bytes()).decode("utf-8")
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


def noise(context: Context) -> dict[str, Any]:
    """How far log-probabilities in bf16 lie from each other: captured while sampling, by batch, and from float32."""
    folder = model_folder(context)
    device: Literal["cpu", "cuda"] = "cpu" if context.tiny else "cuda"
    count, limit = (4, 8) if context.tiny else (64, 64)
    bf16, fp32 = (ComputeSettings(device=device, precision=each) for each in ("bf16", "fp32"))
    template = load_template(folder, TemplateSettings(name="model", max_prompt_tokens=256, max_response_tokens=limit))
    lines = (_rows(context) / "train.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["chosen"].split("\n\nAssistant:")[0].removeprefix("\n\nHuman:").strip() for line in lines]
    prompts = [(str(row), template.prompt([{"role": "user", "content": text}])) for row, text in enumerate(texts)]
    prompts = [each for each in prompts if len(each[1]) <= 256][:count]
    samples = sample_responses(load_policy(folder, bf16), template, prompts, SamplingSettings(), 0)
    dialogues = [Dialogue(sample.prompt, sample.response) for sample in samples]
    exact = load_policy(folder, fp32)

    def scored(lower: ComputeSettings, rows: int) -> torch.Tensor:
        with mixed_precision(lower):
            return score_dialogues(exact, dialogues, template.padding, rows)

    def packed(tokens: int) -> torch.Tensor:
        with Passes(packed=True, copies=True).entered(exact):
            return score_dialogues(exact, dialogues, template.padding, tokens=tokens)

    captured = torch.tensor([sample.log_probability for sample in samples])
    true, together, alone = scored(fp32, 64), scored(bf16, 64), scored(bf16, 1)
    pairs = {
        "captured_bf16_and_teacher_forcing_bf16": (captured, together),
        "captured_bf16_and_float32": (captured, true),
        "teacher_forcing_bf16_and_float32": (together, true),
        "bf16_64_rows_and_1_row": (together, alone),
        "float32_64_rows_and_1_row": (true, scored(fp32, 1)),
        "bf16_packed_4096_tokens_and_1024": (packed(4096), packed(1024)),
        "bf16_packed_the_same_twice": (packed(4096), packed(4096)),
        "bf16_packed_and_captured": (packed(4096), captured),
    }
    return {
        "tokens_per_response": round(sum(len(each.response) for each in samples) / len(samples), 1),
        **{
            name: {"mean": round(float(gap.mean()), 5), "worst": round(float(gap.max()), 5)}
            for name, gap in ((name, (one - other).abs()) for name, (one, other) in pairs.items())
        },
    }


def one_round(context: Context) -> dict[str, Any]:
    """SFT, a round of IRFT and its evaluation by the real stages, with what they cost."""
    model, rows = model_folder(context), _rows(context)
    keep, prompts = (16, 8) if context.tiny else (256, 64)
    device = "cpu" if context.tiny else "cuda"
    overrides = [
        f"fetch={{source: {rows}, licence: MIT}}", f"policy.model={model}", "pretrain=null", "world=null",
        "scorer={kind: none}", f"curate.keep={keep}",
        "template={name: model, max_prompt_tokens: 160, max_response_tokens: 64}",
        f"compute.device={device}", "sft.epochs=1", "sft.optimiser.learning_rate=5e-5", "irft.rounds=1", "rft.rounds=0",
        "irft.training.optimiser.learning_rate=2e-5", "irft.training.beta=0.1", f"evaluation.prompts={prompts}",
        "evaluation.sampling.batch_size=64", "sft.batch_size=16", "irft.training.batch_size=16",
    ]  # fmt: skip
    steps = {name: STEPS[name] for name in ROUND}
    steps["curate"] = replace(steps["curate"], needs=("fetch",))  # nothing is pretrained
    steps = placed(steps, {"POLICY": str(model), "SCORER": str(model)})
    space = Workspace(context.work / "round", ROOT / "recipes/quickstart.yaml", {"round": overrides}, steps)
    costs = {name: space.run(name, ["round"])["round"] for name in ROUND}
    curves = json.loads((space.out("irft_train") / "training.json").read_text(encoding="utf-8"))["curves"]
    held_out = json.loads(space.out("evaluate").read_text(encoding="utf-8"))["held_out"]
    return {
        "seconds": {name: each["seconds"] for name, each in costs.items()},
        "peak_device_memory_mb": {
            name: each["peak_device_memory_mb"] for name, each in costs.items() if "peak_device_memory_mb" in each
        },
        "margin": curves["margin"]["value"][-1],
        "training_accuracy": curves["accuracy"]["value"][-1],
        "preference_accuracy": held_out["preference_accuracy"],
        "ended": held_out["ended"],
    }
