"""Compares a plan with the outputs of a finished run in this folder."""

import math
from pathlib import Path
from typing import NamedTuple

from juicer.evaluation.results import Training
from juicer.planning.planner import Lengths, StagePlan
from juicer.recipe.graph import SFT, Graph
from juicer.recipe.schema import Recipe
from juicer.runtime.devices import MIB
from juicer.stages.costs import COSTS, StageCost
from juicer.training.memory import OVERHEAD


class Compared(NamedTuple):
    """One quantity of one stage."""

    stage: str
    quantity: str
    planned: float
    measured: float


def outputs_of(graph: Graph) -> dict[str, Path]:
    """The outputs that a plan can be compared with, by stage."""
    found = {"sft": Path(SFT), "sft_matched@control": Path("models/sft-matched")}
    for key in graph.irft:
        found[f"irft_train@{key}"] = Path("models/irft", key)
        found[f"irft_generate@{key}"] = Path(f"data/samples/irft-{key}.jsonl")
    for key in graph.rft:
        found[f"rft_reward@{key}"] = Path("models/rft", key, "reward")
        found[f"rft_policy@{key}"] = Path("models/rft", key, "policy")
        found[f"rft_generate@{key}"] = Path(f"data/samples/rft-{key}.jsonl")
    return found


def measured(output: Path) -> dict[str, float]:
    """Parameters, steps, response tokens and bytes of a finished stage, as far as its output contains them."""
    from juicer.data.dialogues import read_samples
    from juicer.models.folder import check_folder

    if output.suffix == ".jsonl":
        return {"tokens": sum(len(sample.response) for sample in read_samples(output)), "disk": output.stat().st_size}
    record = Training.read(output / "training.json")
    weights = list(output.glob("*.safetensors"))
    return {
        # Of a model that is kept as adapters those of the whole model; the disk has the adapters alone.
        "parameters": sum(map(math.prod, check_folder(output).values())),
        "steps": record.steps,
        "tokens": record.response_tokens,
        "disk": sum(path.stat().st_size for path in weights),
    }


def measured_lengths(recipe: Recipe, graph: Graph) -> Lengths:
    """Mean lengths of the curated demonstrations and of the samples of the first round."""
    from juicer.data import demonstrations
    from juicer.data.dialogues import read_samples
    from juicer.models.loading import load_template

    template = load_template(Path(graph.base), recipe.template)
    rows = list(demonstrations.read(Path("data/curated/train.jsonl")))
    prompt = sum(len(template.prompt(row.prompt)) for row in rows) / len(rows)
    response = sum(len(template.response(row.prompt, row.response)) for row in rows) / len(rows)
    samples = [path for path in (Path(f"data/samples/{kind}-r1.jsonl") for kind in ("irft", "rft")) if path.is_file()]
    if not samples:
        return Lengths(prompt, response, response)
    drawn = read_samples(samples[0])
    return Lengths(prompt, response, sum(len(sample.response) for sample in drawn) / len(drawn))


def compare(stages: list[StagePlan], graph: Graph) -> list[Compared]:
    """Every planned quantity that a finished run in this folder has a value for."""
    outputs = outputs_of(graph)
    found = []
    for stage in stages:
        output = outputs.get(stage.name)
        if output is not None and output.exists():
            for quantity, value in measured(output).items():
                found.append(Compared(stage.name, quantity, float(getattr(stage, quantity)), float(value)))
    return found


def compare_memory(stages: list[StagePlan], on_cpu: bool, costs: Path = COSTS) -> list[Compared]:
    """Planned and measured peak of memory of the stages that ran here last, in MiB: of a GPU's tensors, or resident.

    Args:
        on_cpu: whether the plan is one of main memory.
    """
    found = []
    for stage in stages:
        path = costs / f"{stage.name}.json"
        if not stage.memory or not path.is_file():
            continue
        cost = StageCost.read(path)
        peak = cost.peak_memory_mb if on_cpu else cost.peak_device_memory_mb
        if peak:
            planned = (stage.memory - stage.beside - (0 if on_cpu else OVERHEAD)) / MIB
            found.append(Compared(stage.name, "memory MiB", planned, peak))
    return found
