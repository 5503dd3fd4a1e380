"""What a checkpoint of the training loop holds: a resumed run ends with the same bytes as an uninterrupted one.

Where checkpoints are stored, and for how long, is up to the caller (juicer/stages/checkpoint.py).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from juicer.training.record import TrainingRecord


def save_weights(folder: Path, trained: Mapping[str, Tensor], optimiser: torch.optim.Optimizer) -> None:
    """Write what trains and the optimiser's state: tensors as safetensors, everything else as JSON.

    Args:
        trained: the tensors that the optimiser changes, by name.
    """
    from safetensors.torch import save_file

    state = optimiser.state_dict()
    tensors = {f"model.{name}": value.detach() for name, value in trained.items()}
    plain: dict[str, dict[str, Any]] = {}
    for index, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimiser.{index}.{name}"] = value
            else:
                plain.setdefault(str(index), {})[name] = value
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "weights.safetensors")
    values = {"groups": state["param_groups"], "plain": plain}
    (folder / "weights.json").write_text(json.dumps(values), encoding="utf-8")


def load_weights(folder: Path, trained: Mapping[str, Tensor], optimiser: torch.optim.Optimizer) -> None:
    """Restore what `save_weights` wrote, in place."""
    from safetensors.torch import load_file

    tensors = load_file(folder / "weights.safetensors")
    values = json.loads((folder / "weights.json").read_text(encoding="utf-8"))
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(tensors[f"model.{name}"])
    state: dict[int, dict[str, Any]] = {int(index): plain for index, plain in values["plain"].items()}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimiser":
            index, _, key = rest.partition(".")
            state.setdefault(int(index), {})[key] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": values["groups"]})


def save_progress(folder: Path, schedule: torch.optim.lr_scheduler.LRScheduler, record: "TrainingRecord") -> None:
    """Write the progress of a training run: the schedule, torch's random state and the record so far."""
    from safetensors.torch import save_file

    save_file(_random_states(), folder / "random.safetensors")
    values = {"schedule": schedule.state_dict(), "record": asdict(record)}
    (folder / "progress.json").write_text(json.dumps(values), encoding="utf-8")


def load_progress(folder: Path, schedule: torch.optim.lr_scheduler.LRScheduler, record: "TrainingRecord") -> int:
    """Restore what `save_progress` wrote, in place. Returns the number of optimiser steps taken so far."""
    from safetensors.torch import load_file

    tensors = load_file(folder / "random.safetensors")
    values = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
    schedule.load_state_dict(values["schedule"])
    for each in fields(record):
        setattr(record, each.name, values["record"][each.name])
    torch.set_rng_state(tensors["cpu"])
    if "cuda" in tensors:
        torch.cuda.set_rng_state(tensors["cuda"])
    return int(values["schedule"]["last_epoch"])


def recorded_fact(folder: Path | None, name: str) -> Any:
    """A fact of the record that `save_progress` wrote; None without a folder, or without the fact."""
    if folder is None:
        return None
    values = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
    return values["record"]["facts"].get(name)


def trainable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters of a model that train, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _random_states() -> dict[str, Tensor]:
    """The random state of the CPU and, if CUDA is in use, of this process's GPU: a query opens a context on a GPU."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return states
