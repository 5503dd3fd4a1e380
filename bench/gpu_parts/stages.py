"""Does each stage run on the device at all, does it compute what a CPU computes, and does it compute the same twice?

The quickstart with less data. What a stage reads is made on the CPU, so that a difference is its own.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.gpu_parts.common import ROOT, Context
from bench.gpu_parts.workspace import Step, Workspace, placed
from juicer.data import demonstrations
from juicer.data.dialogues import read_samples

ROUND = ("--round", "r1")
STEPS = {
    "fetch": Step("tasks.fetch", "raw"),
    "pretrain": Step("tasks.pretrain", "world"),
    "curate": Step(
        "tasks.curate", "curated", ("fetch", "pretrain"), ("--raw", "fetch", "--policy", "POLICY", "--scorer", "SCORER")
    ),
    "sft": Step("tasks.sft", "sft", ("curate",), ("--policy", "POLICY", "--data", "curate")),
    "irft_generate": Step(
        "tasks.irft_generate", "irft.jsonl", ("sft",), (*ROUND, "--policy", "sft", "--data", "curate")
    ),
    "irft_train": Step(
        "tasks.irft_train", "irft", ("irft_generate",),
        (*ROUND, "--policy", "sft", "--initial", "sft", "--data", "curate", "--samples", "irft_generate"),
    ),
    "rft_reward": Step(
        "tasks.rft_reward", "reward", ("irft_generate",),
        (*ROUND, "--policy", "sft", "--reward", "sft", "--data", "curate", "--samples", "irft_generate"),
    ),
    "rft_policy": Step(
        "tasks.rft_policy", "rft", ("rft_reward",),
        (*ROUND, "--policy", "sft", "--initial", "sft", "--reward", "rft_reward", "--data", "curate", "--samples",
         "irft_generate"),
    ),
    "sft_matched": Step(
        "tasks.sft_matched", "matched", ("irft_train",),
        ("--policy", "sft", "--data", "curate", "--scorer", "SCORER", "--irft", "irft_train", "--rft", "irft_train"),
    ),
    "evaluate": Step(
        "tasks.evaluate", "evaluation.json", ("irft_train",),
        ("--name", "irft-r1", "--method", "irft", "--round", "1", "--policy", "irft_train", "--sft", "sft", "--scorer",
         "SCORER", "--data", "curate"),
    ),
}  # fmt: skip
COMPARED = ("sft", "irft_generate", "irft_train", "rft_reward", "rft_policy", "evaluate")
OTHERS = ("curate", "sft_matched")
SMALL = (
    "fetch.rows=null", "world.rows=400", "curate.keep=192", "pretrain.policy.documents=800",
    "pretrain.scorer.pairs=300",
    "sft.epochs=1", "sft.batch_size=16", "sft_matched.learning_rates=[4e-4]", "irft.rounds=1", "rft.rounds=1",
    "rft.policy.steps=6", "rft.policy.prompts_per_step=8", "evaluation.prompts=32", "compute.threads=2",
)  # fmt: skip
TINIER = ("world.rows=200", "curate.keep=48", "pretrain.policy.documents=200", "evaluation.prompts=8",
          "pretrain.scorer.pairs=60", "rft.policy.steps=2", "compute.threads=1")  # fmt: skip


def measurements(context: Context) -> dict[str, Callable[[], dict[str, Any]]]:
    """What they all need, then each."""
    space = space_of(context)
    return {"data and models, on the CPU": lambda: prepared(space()), **compared(space, COMPARED)}


def space_of(context: Context) -> Callable[[], Workspace]:
    """Each stage on the CPU, on the device in float32, and twice each as it is by default and deterministic."""
    small = [*SMALL, *(TINIER if context.tiny else ())]
    cpu, cuda = "compute.device=cpu", "compute.device=cuda"
    device = cpu if context.tiny else cuda
    variants = {
        "cpu": [*small, cpu, "compute.precision=fp32"],
        "fp32": [*small, device, "compute.precision=fp32"],
        "default": [*small, device],
        "again": [*small, device],
        "deterministic": [*small, device, "compute.deterministic=true"],
        "deterministic_again": [*small, device, "compute.deterministic=true"],
    }
    if context.tiny:  # all of them are the same
        variants = {name: variants[name] for name in ("cpu", "again", "deterministic")}

    def space() -> Workspace:
        world = context.work / "stages/cpu/world"
        steps = placed(STEPS, {"POLICY": f"{world}/policy", "SCORER": f"{world}/scorer"})
        return Workspace(context.work / "stages", ROOT / "recipes/quickstart.yaml", variants, steps)

    return space


def prepared(space: Workspace) -> dict[str, Any]:
    """Make what the stages read."""
    steps = ("fetch", "pretrain", "curate")
    return {"seconds": {step: space.run(step, [space.first])[space.first]["seconds"] for step in steps}}


def compared(space: Callable[[], Workspace], steps: Sequence[str]) -> dict[str, Callable[[], dict[str, Any]]]:
    """A measurement for each stage."""

    def measure(step: str) -> dict[str, Any]:
        here = space()
        here.require(step)
        return compare(here, step, here.run(step, here.variants))

    return {step: partial(measure, step) for step in steps}


def compare(space: Workspace, step: str, costs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """How far the device is from the CPU, and whether two equal runs give the same bytes."""
    cpu = space.out(step)
    # They run side by side.
    values: dict[str, Any] = {"seconds_side_by_side": {variant: each["seconds"] for variant, each in costs.items()}}
    for variant in list(costs)[1:]:
        values[f"{variant}_against_cpu"] = difference(cpu, space.out(step, variant))
    memory = costs["again"].get("peak_device_memory_mb")
    digests = {variant: _digest(space.out(step, variant)) for variant in costs}
    values["same_bytes_twice"] = digests["again"] == digests["default" if "default" in costs else "cpu"]
    other = "deterministic_again" if "deterministic_again" in costs else "again"
    values["same_bytes_twice_deterministic"] = digests["deterministic"] == digests[other]
    return values | ({} if memory is None else {"peak_device_memory_mb": memory})


def difference(cpu: Path, device: Path) -> dict[str, Any]:
    """Of two outputs of a stage: curves, samples, rows or metrics."""
    if cpu.suffix == ".jsonl":
        pairs = list(zip(read_samples(cpu), read_samples(device), strict=True))
        same = [(one, other) for one, other in pairs if one.response == other.response]
        gaps = [abs(one.log_probability - other.log_probability) for one, other in same]
        return {"same_samples": round(len(same) / len(pairs), 4), "log_probability": max(gaps, default=None)}
    if (cpu / "training.json").is_file():
        one, other = (_json(folder / "training.json")["curves"] for folder in (cpu, device))
        return {
            name: max(abs(x - y) for x, y in zip(one[name]["value"], other[name]["value"], strict=True))
            for name in ("loss", "reward")
            if name in one
        }
    if cpu.is_dir():  # of curate
        kept, others = ({row.id for row in demonstrations.read(folder / "train.jsonl")} for folder in (cpu, device))
        return {"same_rows": round(len(kept & others) / len(kept), 4)}
    metrics, others = (_json(path)["held_out"] for path in (cpu, device))
    names = ("reward_mean", "preference_accuracy", "kl_to_sft", "response_tokens")
    return {name: abs(metrics[name] - others[name]) for name in names if metrics.get(name) is not None}


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _digest(path: Path) -> str:
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    return hashlib.sha256(b"".join(hashlib.sha256(each.read_bytes()).digest() for each in files)).hexdigest()
