"""One NVIDIA GPU: utilisation (MFU) in training and scoring, tokens per second in sampling; else "not measured"."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig

from bench import inputs
from bench.measure import Timings
from bench.part import main
from irl.devices import device_called
from irl.irft import train_round
from irl.log_probability import Batch, Dialogue
from irl.models import attention_of
from irl.pairs import Pair
from irl.planning import Role, Shape, shape_of
from irl.processes import ALONE
from irl.random_models import read_config
from irl.samples import Sample
from irl.sampling import sample_responses
from irl.scorers.beaver import BeaverModel
from irl.settings.compute import ComputeSettings
from irl.settings.irft import IrftTrainingSettings
from irl.settings.training import GenerationSettings, OptimiserSettings
from irl.template import Template
from irl.vllm_engine import engine, sample_by_vllm

NAMES = ("training, pythia-1.4b", "sampling, pythia-1.4b", "scoring, beaver-7b")
CONFIGS = inputs.ROOT / "recipes/models"
TOKENS = 512
"""Of a dialogue: half of them the prompt's."""


def utilisation(operations: float, seconds: float) -> str:
    """The share of the GPU's bf16 peak, where that is known."""
    device = device_called(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    return "unknown peak" if device is None else f"{operations / seconds / device.operations:.1%}"


def seconds_of(work: Callable[[], Any], repeats: int) -> float:
    """Median wall seconds, after one call that does not count; the device is done when the clock stops."""

    def complete() -> None:
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    complete()
    times = Timings()
    for _ in range(repeats):
        times.time(complete)
    return times.median("wall")


def model_of(config: PretrainedConfig, name: str, role: Role, device: torch.device) -> tuple[Any, Shape]:
    """A model with random weights in bf16, and its shape."""
    shape = shape_of(name, config, role)
    torch.manual_seed(0)
    with torch.device(device):
        if role == "scorer" and isinstance(config, LlamaConfig):
            model: Any = BeaverModel.create(config)
        else:
            model = AutoModelForCausalLM.from_config(config, attn_implementation=attention_of(device))
    return model.to(torch.bfloat16).eval(), shape


def training(config: PretrainedConfig, device: torch.device, pairs: int, repeats: int) -> dict[str, Any]:
    """A round's steps, the reference's pass included, in mixed precision on float32 weights as the stage takes them."""
    model, shape = model_of(config, "policy", "policy", device)
    model.float()
    rows = []
    for _ in range(pairs):
        prompt, one, other = torch.randint(2, shape.vocabulary, (3, TOKENS // 2)).tolist()
        rows.append(Pair(Dialogue(prompt, one), Dialogue(prompt, other)))
    settings = IrftTrainingSettings(
        epochs=2, batch_size=16, micro_batch_size=8, optimiser=OptimiserSettings(name="rmsprop", learning_rate=5e-7)
    )

    def work() -> None:
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
            train_round(model, model, rows, settings, 1, 0)

    seconds = seconds_of(work, repeats)
    tokens = 2 * pairs * TOKENS
    # One pass forward of the reference, and per epoch one forward and two for the backward pass.
    operations = (1 + 3 * settings.epochs) * shape.forward(tokens, TOKENS, tokens / 2)
    return {
        "mfu": utilisation(operations, seconds),
        "goal": "45%",
        "tokens_per_second": round(settings.epochs * tokens / seconds),
    }


def sampling(config: PretrainedConfig, device: torch.device, prompts: int, repeats: int) -> dict[str, Any]:
    """Response tokens per second; random weights seldom end, so nearly all responses go on to the limit."""
    model, shape = model_of(config, "policy", "policy", device)
    template = inputs.make(1).template
    limits = template.settings.model_copy(update={"max_response_tokens": TOKENS // 2})
    limited = Template(template.tokenizer, limits)
    named = [(str(row), torch.randint(2, shape.vocabulary, (TOKENS // 2,)).tolist()) for row in range(prompts)]
    settings = GenerationSettings()

    def rate(sample: Callable[..., list[Sample]], *policy: Any) -> float:
        sampled: list[int] = []

        def work() -> None:
            samples = sample(*policy, limited, named, settings, seed=0)
            sampled.append(sum(len(sample.response) for sample in samples))

        seconds = seconds_of(work, repeats)
        return sampled[-1] / seconds

    own = rate(sample_responses, model)
    results: dict[str, Any] = {"tokens_per_second": round(own), "vllm": "not installed", "goal": "90% of vLLM"}
    if importlib.util.find_spec("vllm"):
        compute = ComputeSettings(device="cuda" if device.type == "cuda" else "cpu")
        with TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            del model
            torch.cuda.empty_cache()  # vLLM wants nearly all of the memory
            with engine(Path(folder), compute, TOKENS, settings.batch_size, ALONE) as llm:
                theirs = rate(sample_by_vllm, llm)
        results |= {"vllm": round(theirs), "of_vllm": f"{own / theirs:.0%}"}
    return results


@torch.inference_mode()
def scoring(config: PretrainedConfig, device: torch.device, rows: int, repeats: int) -> dict[str, Any]:
    """Dialogues of 512 tokens, 32 at once."""
    model, shape = model_of(config, "scorer", "scorer", device)
    dialogues = [Dialogue([], torch.randint(2, shape.vocabulary, (TOKENS,)).tolist()) for _ in range(32)]
    batch = Batch.of(dialogues, 1, device)
    times = max(1, rows // len(dialogues))
    seconds = seconds_of(lambda: [model(batch.tokens, batch.attention) for _ in range(times)], repeats)
    tokens = times * batch.tokens.numel()
    return {
        "mfu": utilisation(shape.forward(tokens, TOKENS, times * len(dialogues)), seconds),
        "goal": "50%",
        "tokens_per_second": round(tokens / seconds),
    }


def run(prompts: int, repeats: int) -> dict[str, Any]:
    """Measure; returns the part's results."""
    if not torch.cuda.is_available():
        return {"gpu": dict.fromkeys(NAMES, "not measured: no NVIDIA GPU")}
    device = torch.device("cuda")
    configs = {name: read_config(CONFIGS / f"{name}.json")[1] for name in ("pythia-1.4b", "beaver-7b-v3.0-reward")}
    works = (
        lambda: training(configs["pythia-1.4b"], device, max(16, prompts // 8), repeats),
        lambda: sampling(configs["pythia-1.4b"], device, max(16, prompts // 4), repeats),
        lambda: scoring(configs["beaver-7b-v3.0-reward"], device, prompts, repeats),
    )
    results = {}
    for name, work in zip(NAMES, works, strict=True):
        results[name] = work()
        torch.cuda.empty_cache()
    return {"gpu": results}


if __name__ == "__main__":
    main(run, __doc__)
