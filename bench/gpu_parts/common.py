"""What the parts share: models of random weights on the device, lengths of real dialogues, clocks and peaks."""

import gc
import importlib.metadata
import os
import platform
import random
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from bench import hh_lengths
from juicer.data.dialogues import Dialogue
from juicer.methods.pairs import Pair
from juicer.runtime.devices import GIB, device_by_name

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = (
    "torch", "triton", "transformers", "trl", "accelerate", "peft", "datasets", "tokenizers", "pydantic", "flash-attn",
    "liger-kernel",
)  # fmt: skip


@dataclass(frozen=True)
class Context:
    """What a part is told."""

    tiny: bool
    """Small models on a CPU: shows that everything starts; the figures mean nothing."""
    kit: Path | None
    work: Path
    """Scratch that outlives the process: a part that is started again finds there what it had made."""

    @property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.tiny else "cuda")

    @property
    def steps(self) -> tuple[int, int]:
        """Optimiser steps to warm up, and to time."""
        return (1, 2) if self.tiny else (5, 20)


def environment() -> dict[str, Any]:
    """What figures were taken on, except for the code."""
    found: dict[str, str | None] = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "card": card,
        "cards": torch.cuda.device_count(),
        "memory_gib": round(torch.cuda.get_device_properties(0).total_memory / GIB, 1) if card else None,
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "versions": found,
    }


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.splitlines()[0].strip() if done.stdout else None


def works(device: torch.device) -> bool:
    """Whether the device still computes: an illegal access makes a process's CUDA useless for good."""
    try:
        if device.type == "cuda":
            torch.cuda.empty_cache()
        return bool(torch.ones(2, device=device).sum() == 2)
    except Exception:  # whatever it is, the answer is no
        return False


def utilisation(context: Context, operations: float, seconds: float) -> float | None:
    """The share of the card's bf16 peak, by its data sheet; None where that is not known."""
    device = None if context.tiny else device_by_name(torch.cuda.get_device_name())
    return None if device is None else round(operations / seconds / device.operations, 4)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Median wall seconds, after one call that does not count; the device is done when the clock stops."""
    times = []
    for _ in range(repeats + 1):
        synchronise(device)
        begun = time.perf_counter()
        work()
        synchronise(device)
        times.append(time.perf_counter() - begun)
    return statistics.median(times[1:])


@contextmanager
def peak(context: Context, values: dict[str, Any]) -> Iterator[None]:
    """Note the highest memory of the device in the block, GiB, also where the block fails."""
    gc.collect()
    if context.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        yield
    finally:
        if context.device.type == "cuda":
            values["peak_gib"] = round(torch.cuda.max_memory_allocated() / GIB, 2)
            values["reserved_gib"] = round(torch.cuda.max_memory_reserved() / GIB, 2)


class StepClock:
    """Seconds between optimiser steps. An `Observer` (juicer/runtime/context.py)."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def on_metrics(self, step: int, values: dict[str, float]) -> None:
        self._times.append(time.perf_counter())

    def on_tokens(self, count: float) -> None:
        pass

    def milliseconds(self, warmup: int) -> float:
        """Median of a step, once `warmup` steps are over."""
        steps = [later - earlier for earlier, later in zip(self._times, self._times[1:], strict=False)]
        return round(1000 * statistics.median(steps[warmup:] or steps), 1)


def lengths_within(prompt: int, response: int) -> list[tuple[int, int, int]]:
    """Lengths of real dialogues that `curate` would keep: prompt, chosen and rejected response, in tokens."""
    kept = [each for each in hh_lengths.load() if each[0] <= prompt and max(each[1:]) <= response]
    random.Random(0).shuffle(kept)
    return kept


def pairs_of(count: int, prompt: int, response: int, vocabulary: int) -> list[Pair]:
    """Pairs of random tokens with real lengths: the chosen response as demonstration, the rejected as sample."""
    lengths, drawn = lengths_within(prompt, response), random.Random(1)

    def tokens(number: int) -> list[int]:
        return [drawn.randrange(2, vocabulary) for _ in range(number)]

    pairs = []
    for row in range(count):
        start, chosen, rejected = lengths[row % len(lengths)]
        asked = tokens(start)
        pairs.append(Pair(Dialogue(asked, tokens(chosen)), Dialogue(asked, tokens(rejected))))
    return pairs


def model_of(
    context: Context,
    name: str,
    role: Literal["policy", "reward", "scorer"],
    dtype: torch.dtype,
    heads: int | None = None,
) -> Any:
    """A model of a recipe's architecture with random weights, on the device; with `tiny` a small one.

    Args:
        heads: of a small one.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    from juicer.models.loading import attention_of
    from juicer.quickstart.configuration import read_config, shrunk
    from juicer.scorers.beaver import BeaverModel
    from juicer.settings.compute import ComputeSettings
    from juicer.settings.tiny import TinySettings

    _, config = read_config(ROOT / f"recipes/models/{name}.json")
    if context.tiny:
        small = TinySettings() if heads is None else TinySettings(heads=heads)
        config.update(shrunk(config, small, small.vocabulary, 1024))
        config.pad_token_id = None
    torch.manual_seed(0)
    compute = ComputeSettings(device="cpu" if context.device.type == "cpu" else "cuda")
    attention = {"attn_implementation": attention_of(compute), "dtype": dtype}
    with torch.device(context.device):
        if role == "scorer":
            with _default(dtype):  # made in float32 first it would need three times the memory
                scorer: Any = config
                return BeaverModel.create(scorer).eval()
        if role == "policy":
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False, **attention).eval()
        config.num_labels = 1
        return AutoModelForSequenceClassification.from_config(config, trust_remote_code=False, **attention).eval()


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def lengths_forced(lengths: Sequence[int], end: int) -> Iterator[list[int]]:
    """Let sampled responses have given lengths: random weights would go on to the limit.

    A sample's length follows from its name, as its random numbers do. Everything else is done as ever.

    Yields:
        the rows of each decoding step, those that have ended but are still carried along included.
    """
    rows: list[int] = []
    from juicer.sampling import decoding

    uniforms, draw = decoding._uniforms, decoding.draw

    def marked(seed: int, count: int) -> torch.Tensor:
        values = uniforms(seed, count)
        if (length := lengths[seed % len(lengths)]) <= count:
            values[length - 1] = 2.0
        return values

    def drawn(log_probabilities: torch.Tensor, uniform: torch.Tensor, settings: Any) -> torch.Tensor:
        rows.append(len(uniform))
        chosen = draw(log_probabilities, uniform.clamp(max=1 - 1e-9), settings)
        chosen = torch.where(chosen == end, end + 1, chosen)
        return torch.where(uniform > 1, end, chosen)

    decoding._uniforms, decoding.draw = marked, drawn
    try:
        yield rows
    finally:
        decoding._uniforms, decoding.draw = uniforms, draw
