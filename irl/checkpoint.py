"""Stopping in the middle of long work and going on later, to the same bytes as without the stop.

The work says when it can be stopped and what its state is; where that is kept, and for how long, is the caller's.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from irl.optimisation import TrainingRecord

T = TypeVar("T")
VALUES = "values.json"


class Once(Protocol):
    """Gives the result of a piece of work, plain JSON: what it was in the interrupted run, else by doing it."""

    def __call__(self, work: Callable[[], T]) -> T:
        """Do `work` unless its result is known."""
        ...


class Checkpoint(Protocol):
    """Where the state of one piece of work is kept."""

    def latest(self) -> Path | None:
        """The folder of the last state that is complete and belongs to this very work; None to start at the start."""
        ...

    def due(self) -> bool:
        """Whether the state should be saved now: some time has passed, or the run is to end."""
        ...

    def save(self, write: Callable[[Path], None]) -> None:
        """Keep what `write` puts into the folder that it is given. Does not return if the run is to end."""
        ...


def save_training(
    folder: Path,
    model: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    record: "TrainingRecord",
) -> None:
    """Write the state between two optimiser steps: tensors as safetensors, the rest as JSON.

    Kept are the parameters that train, the optimiser, the schedule, torch's random numbers and the record so far.
    """
    from safetensors.torch import save_file

    state = optimiser.state_dict()
    tensors = {f"model.{name}": value.detach() for name, value in _trained(model).items()}
    tensors |= {f"random.{name}": value for name, value in _random_states().items()}
    plain: dict[str, dict[str, Any]] = {}
    for index, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimiser.{index}.{name}"] = value
            else:
                plain.setdefault(str(index), {})[name] = value
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "state.safetensors")
    values = {
        "groups": state["param_groups"],
        "plain": plain,
        "schedule": schedule.state_dict(),
        "record": asdict(record),
    }
    (folder / "state.json").write_text(json.dumps(values), encoding="utf-8")


def load_training(
    folder: Path,
    model: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    record: "TrainingRecord",
) -> int:
    """Put back what `save_training` wrote, in place. Returns the number of optimiser steps that are done."""
    from safetensors.torch import load_file

    tensors = load_file(folder / "state.safetensors")
    values = json.loads((folder / "state.json").read_text(encoding="utf-8"))
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
    schedule.load_state_dict(values["schedule"])
    for each in fields(record):
        setattr(record, each.name, values["record"][each.name])
    torch.set_rng_state(tensors["random.cpu"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all([tensors[f"random.cuda.{index}"] for index in range(torch.cuda.device_count())])
    return int(values["schedule"]["last_epoch"])


def _trained(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _random_states() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda.{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


class Replay:
    """An `Once` with a checkpoint, if there is one: results of pieces of work, in the order they are always done in."""

    def __init__(self, checkpoint: Checkpoint | None) -> None:
        self._checkpoint = checkpoint
        self._place = 0
        latest = checkpoint.latest() if checkpoint else None
        self._results: list[Any] = []
        if latest is not None:
            self._results = json.loads((latest / "results.json").read_text(encoding="utf-8"))

    def __call__(self, work: Callable[[], T]) -> T:
        """Do a piece of work, unless its result is there from the interrupted run."""
        self._place += 1
        if self._place <= len(self._results):
            known: T = self._results[self._place - 1]
            return known
        result = work()
        self._results.append(result)
        if self._checkpoint and self._checkpoint.due():
            self._checkpoint.save(self._write)
        return result

    def _write(self, folder: Path) -> None:
        (folder / "results.json").write_text(json.dumps(self._results), encoding="utf-8")


def once(work: Callable[[], T]) -> T:
    """The `Once` without a checkpoint."""
    return work()


def keep_trainer(checkpoint: Checkpoint, values: Callable[[], dict[str, Any]] = dict) -> Any:
    """A callback that keeps the state of a Hugging Face trainer, in its own format.

    Continue with `trainer.train(resume_from_checkpoint=...)`. Optimiser, schedule and random numbers are in
    torch's format there, which the trainer reads with `weights_only`: nothing in it can run code.

    Args:
        values: what else must be known to continue; `kept_values` gives it back, with the number of steps as `step`.
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
                for path in written.iterdir():
                    path.replace(folder / path.name)
                written.rmdir()
                # transformers 5.23 writes the hub's names of tensors and reads the module's: where the two differ, as
                # for GPT-NeoX's output head, the trainer would go on with the tensor of the start.
                if weights := list(folder.glob("model*.safetensors*")):
                    for path in weights:
                        path.unlink()
                    save_model(model, str(folder / "model.safetensors"))
                (folder / VALUES).write_text(json.dumps({**values(), "step": state.global_step}), encoding="utf-8")

            checkpoint.save(write)

    return Keep()


def kept_values(folder: Path) -> dict[str, Any]:
    """What `values` gave when the state in `folder` was kept, and `step`."""
    values: dict[str, Any] = json.loads((folder / VALUES).read_text(encoding="utf-8"))
    return values
