"""How long the plan expects each stage of the active recipe to take on this machine's GPU: for a first run.

python -m juicer.planning.expected       # prints a JSON object of seconds by stage

It also writes .juicer/plan.json: the memory planned for each stage, which is compared with what the stage takes.
It says nothing where a plan cannot know: on a CPU, on a GPU without a data sheet, and of stages that it gives less than
a minute, in which starting and loading take longer than what is planned.
"""

import json
import subprocess
from pathlib import Path

from juicer.planning.lengths import sampled_lengths
from juicer.planning.plan import Assumptions
from juicer.planning.planner import Planner
from juicer.recipe.activation import load
from juicer.runtime.devices import MIB, device_by_name, gpu_called
from juicer.runtime.errors import InputError
from juicer.runtime.files import replace_text, sha256_of_file
from juicer.stages.planned import PLAN, PlannedStages
from juicer.training.memory import OVERHEAD

PARAMS = Path("params.yaml")
SHORTEST = 60.0
"""Seconds below which a plan says nothing."""
PATIENCE = 60.0
"""Seconds after which the driver is not waited for any more."""


def gpu_here() -> str | None:
    """The name of the first GPU, by its driver; None if there is no GPU."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.splitlines()), None)


def planned_seconds(gpu: str | None, params: Path = PARAMS, plan: Path | None = None) -> dict[str, float]:
    """Seconds by stage, as far as the plan can say.

    Args:
        gpu: the GPU's name, as its driver has it.
        params: the active recipe.
        plan: file to write the planned memory to.

    Raises:
        InputError: the recipe cannot be planned.
    """
    device = None if gpu is None else device_by_name(gpu)
    if gpu is None or device is None:
        return {}
    recipe, graph = load(params, [], pinned=False, active=params)
    if recipe.compute.device == "cpu":
        return {}
    assumed = Assumptions()
    lengths = assumed.lengths(recipe, sampled_lengths(recipe))
    planner = Planner(recipe, graph, device, assumed.utilisation, lengths, gpu_called(gpu) or "")
    stages = planner.plan()
    if plan is not None:
        own = {stage.name: stage.memory - stage.beside - OVERHEAD for stage in stages if stage.memory}
        memory = {name: round(each / MIB, 1) for name, each in own.items()}
        written = PlannedStages(card=gpu, params=sha256_of_file(params), device_memory_mb=memory)
        replace_text(plan, json.dumps(written.as_json(), indent=1) + "\n")
    hours = {stage.name: stage.hours(planner.device, planner.devices) for stage in stages}
    return {stage: round(3600 * each, 1) for stage, each in hours.items() if 3600 * each >= SHORTEST}


def main() -> None:
    """Print what the plan says; nothing of a recipe that it refuses, which `juicer plan` explains."""
    try:
        found = planned_seconds(gpu_here(), plan=PLAN)
    except (InputError, OSError):
        found = {}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
