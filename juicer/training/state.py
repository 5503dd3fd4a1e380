"""Stopping in the middle of long work and going on later, to the same bytes as without the stop.

The work says when it can be stopped and what its state is; where that is kept, and for how long, is the caller's.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from juicer.runtime.processes import ALONE, Processes

if TYPE_CHECKING:
    from juicer.training.loop import TrainingRecord

VALUES = "values.{}.json"


class Checkpoint(Protocol):
    """Where the state of one piece of work is kept."""

    def latest(self) -> Path | None:
        """The folder of the last state that is complete and belongs to this very work; None to start at the start."""
        ...

    def due(self) -> bool:
        """Whether the state should be saved now: some time has passed, or the run is to end.

        Processes that train together all ask after the same step, and all get the same answer.
        """
        ...

    def save(self, write: Callable[[Path], None]) -> None:
        """Keep what `write` puts into the folder that it is given. Does not return if the run is to end.

        Processes that train together all call it after the same step; those of one machine write to one folder.
        """
        ...


def save_weights(folder: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Write the parameters that train and the optimiser's state: tensors as safetensors, the rest as JSON."""
    from safetensors.torch import save_file

    state = optimiser.state_dict()
    tensors = {f"model.{name}": value.detach() for name, value in _trained(model).items()}
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


def load_weights(folder: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Put back what `save_weights` wrote, in place."""
    from safetensors.torch import load_file

    tensors = load_file(folder / "weights.safetensors")
    values = json.loads((folder / "weights.json").read_text(encoding="utf-8"))
    with torch.no_grad():
        for name, parameter in _trained(model).items():
            parameter.copy_(tensors[f"model.{name}"])
    state: dict[int, dict[str, Any]] = {int(index): plain for index, plain in values["plain"].items()}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimiser":
            index, _, key = rest.partition(".")
            state.setdefault(int(index), {})[key] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": values["groups"]})


def save_progress(folder: Path, schedule: torch.optim.lr_scheduler.LRScheduler, record: "TrainingRecord") -> None:
    """Write how far a training run has come: the schedule, torch's random numbers and the record so far."""
    from safetensors.torch import save_file

    save_file(_random_states(), folder / "random.safetensors")
    values = {"schedule": schedule.state_dict(), "record": asdict(record)}
    (folder / "progress.json").write_text(json.dumps(values), encoding="utf-8")


def load_progress(folder: Path, schedule: torch.optim.lr_scheduler.LRScheduler, record: "TrainingRecord") -> int:
    """Put back what `save_progress` wrote, in place. Returns the number of optimiser steps that are done."""
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


def _trained(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _random_states() -> dict[str, Tensor]:
    """Of the CPU and, if CUDA is in use, of this process's GPU: to ask the others would open a context on each."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


class OwnRandomState:
    """To be named before a Hugging Face trainer: it keeps the random state of its process's own GPU only.

    One of several processes would keep those of all GPUs that it sees, and open a context on each.
    """

    def _save_rng_state(self, *given: Any) -> None:
        with _own_gpu_for_all():
            super()._save_rng_state(*given)  # type: ignore[misc]

    def _load_rng_state(self, *given: Any) -> None:
        with _own_gpu_for_all():
            super()._load_rng_state(*given)  # type: ignore[misc]


@contextmanager
def _own_gpu_for_all() -> Iterator[None]:
    cuda = torch.cuda.random
    whole = cuda.get_rng_state_all, cuda.set_rng_state_all
    cuda.get_rng_state_all = lambda: [cuda.get_rng_state()]
    cuda.set_rng_state_all = lambda new_states: cuda.set_rng_state(next(iter(new_states)))
    try:
        yield
    finally:
        cuda.get_rng_state_all, cuda.set_rng_state_all = whole


def keep_trainer(
    checkpoint: Checkpoint, processes: Processes = ALONE, values: Callable[[], dict[str, Any]] = dict
) -> Any:
    """A callback that keeps the state of a Hugging Face trainer, in its own format.

    Continue with `trainer.train(resume_from_checkpoint=...)`. Optimiser, schedule and random numbers are in
    torch's format there, which the trainer reads with `weights_only`: nothing in it can run code. (What DeepSpeed
    keeps of sharded weights is its own, and read without that; it never leaves the project's folder.)

    Args:
        values: what else this process must know to continue; `kept_values` gives it back, with the number of steps
            as `step`.
    """
    from safetensors.torch import save_model
    from transformers import TrainerCallback

    class Keep(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            # A trainer that is continued after its last step would take one more.
            control.should_save = state.global_step < state.max_steps and checkpoint.due()

        def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            written = Path(args.output_dir) / f"checkpoint-{state.global_step}"

            def write(folder: Path) -> None:
                weights = list(written.glob("model*.safetensors*"))
                for path in weights:
                    path.unlink()
                # transformers 5.23 writes the hub's names of tensors and reads the module's: where the two differ, as
                # for GPT-NeoX's output head, the trainer would go on with the tensor of the start.
                if weights and not processes.zero_stage:
                    save_model(model, str(written / "model.safetensors"))
                for path in written.rglob("*"):
                    if path.is_file():
                        place = folder / path.relative_to(written)
                        place.parent.mkdir(parents=True, exist_ok=True)
                        path.replace(place)
                shutil.rmtree(written)
                # DeepSpeed says on the first machine only which of its folders is the last, and asks on every one.
                for shards in folder.glob("global_step*"):
                    (folder / "latest").write_text(shards.name, encoding="utf-8")
                own = {**values(), "step": state.global_step}
                (folder / VALUES.format(processes.rank)).write_text(json.dumps(own), encoding="utf-8")

            checkpoint.save(write)

    return Keep()


def kept_values(folder: Path, processes: Processes = ALONE) -> dict[str, Any]:
    """What `values` gave in this process when the state in `folder` was kept, and `step`."""
    values: dict[str, Any] = json.loads((folder / VALUES.format(processes.rank)).read_text(encoding="utf-8"))
    return values
