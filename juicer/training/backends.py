"""How one optimiser step is taken: by one process, by several that hold all weights each, or by DeepSpeed's ZeRO."""

import io
import math
import os
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from juicer.runtime.processes import Processes
from juicer.training.state import load_weights, save_weights

Losses = tuple[Tensor, dict[str, Tensor]]
SHARDS = "shards"
"""Folder of a checkpoint with what DeepSpeed keeps, in its own format."""


class TrainingBackend(Protocol):
    """The steps of one training run. For each: losses and backward passes, then the norm, then the step."""

    def losses(self, rows: list[int]) -> Losses:
        """The loss and what else is plotted, per row: (rows,) each."""

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add this process's part of the gradient; `last` in the last pass of a step. The parts sum to the gradient."""

    def gradient_norm(self) -> float:
        """The norm of the whole gradient before it is clipped."""

    def step(self) -> None:
        """Change the weights by the clipped gradient."""

    def save(self, folder: Path) -> None:
        """Write weights and optimiser between two steps; all processes of a machine to one folder."""

    def load(self, folder: Path) -> None:
        """Put back what `save` wrote."""

    def close(self) -> None:
        """Give every process the whole model, as it was before."""


class ReplicatedBackend:
    """Every process holds all weights and all of the optimiser's state."""

    def __init__(
        self,
        model: torch.nn.Module,
        loss_of: Callable[[list[int]], Losses],
        optimiser: torch.optim.Optimizer,
        max_gradient_norm: float | None,
        processes: Processes,
    ) -> None:
        self.losses, self._model = loss_of, model
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._optimiser, self._limit, self._processes = optimiser, max_gradient_norm or math.inf, processes

    def backward(self, loss: Tensor, last: bool) -> None:
        loss.backward()

    def gradient_norm(self) -> float:
        if self._processes.world_size > 1:
            for parameter in self._parameters:
                if parameter.grad is not None:
                    torch.distributed.all_reduce(parameter.grad)
        return float(torch.nn.utils.clip_grad_norm_(self._parameters, self._limit))

    def step(self) -> None:
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)

    def save(self, folder: Path) -> None:
        if self._processes.is_local_main:
            save_weights(folder, self._model, self._optimiser)

    def load(self, folder: Path) -> None:
        load_weights(folder, self._model, self._optimiser)

    def close(self) -> None:
        pass


class ZeroBackend:
    """DeepSpeed holds each process's share of the optimiser's state and gradients, and at stage 3 of the weights.

    Source: Rajbhandari et al., ZeRO (arXiv 1910.02054).
    """

    def __init__(
        self,
        model: torch.nn.Module,
        loss_of: Callable[[list[int]], Losses],
        optimiser: torch.optim.Optimizer,
        max_gradient_norm: float | None,
        processes: Processes,
    ) -> None:
        import deepspeed

        self._processes = processes
        device = next(model.parameters()).device.type
        config = zero_configuration(processes.zero_stage, model, torch.is_autocast_enabled(device)) | {
            "gradient_clipping": max_gradient_norm or 0.0,
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
        }
        self._engine, *_ = deepspeed.initialize(model=_Objective(model, loss_of), optimizer=optimiser, config=config)
        self._engine.module.eval()

    def losses(self, rows: list[int]) -> Losses:
        losses: Losses = self._engine(rows)
        return losses

    def backward(self, loss: Tensor, last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(last)
        # DeepSpeed takes the mean over the processes where we want the sum.
        self._engine.backward(loss * self._processes.world_size)

    def gradient_norm(self) -> float:
        self._engine.step()  # the norm is known only then
        return float(self._engine.get_global_grad_norm())

    def step(self) -> None:
        pass

    def save(self, folder: Path) -> None:
        self._engine.save_checkpoint(str(folder), tag=SHARDS)

    def load(self, folder: Path) -> None:
        self._engine.load_checkpoint(str(folder), tag=SHARDS, load_lr_scheduler_states=False)

    def close(self) -> None:
        make_whole(self._engine)


class _Objective(torch.nn.Module):
    """Model and loss in one module: DeepSpeed follows the weights through a module's forward pass."""

    def __init__(self, model: torch.nn.Module, loss_of: Callable[[list[int]], Losses]) -> None:
        super().__init__()
        self.model, self._loss_of = model, loss_of

    def forward(self, rows: list[int]) -> Losses:
        return self._loss_of(rows)


def zero_configuration(stage: int, model: torch.nn.Module, lower_precision: bool) -> dict[str, Any]:
    """What a DeepSpeed configuration says of sharding and precision, for DeepSpeed itself and for TRL's trainers.

    Weights are float32, as everywhere; with `lower_precision` the passes over them are bf16. At stage 3 the matrices
    then travel as bf16, and so do their gradients.
    """
    _start_deepspeed()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {
        "zero_optimization": {
            "stage": stage,
            # DeepSpeed allocates a buffer of this many numbers, however small the model is.
            "reduce_bucket_size": min(500_000_000, parameters),
            # Without it a trainer saves no weights, and says nothing.
            "stage3_gather_16bit_weights_on_model_save": True,
        },
        "zero_allow_untested_optimizer": True,
        # Every machine keeps what its own processes need to go on.
        "checkpoint": {"use_node_local_storage": True},
        "torch_autocast": {
            "enabled": lower_precision,
            "dtype": "bfloat16",
            # What is gathered in float32 and cast afterwards would be kept whole for the backward pass.
            **({} if stage == 3 else {"lower_precision_safe_modules": []}),
        },
        "steps_per_print": 10**9,
    }


def _start_deepspeed() -> None:
    """Let DeepSpeed join the processes, without what it prints meanwhile on standard output."""
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")
    import deepspeed

    with redirect_stdout(io.StringIO()):
        deepspeed.init_distributed(auto_mpi_discovery=False)


def make_whole(engine: Any) -> None:
    """Take DeepSpeed out of a model and give every process all of its weights."""
    from deepspeed import zero
    from deepspeed.runtime.torch_autocast import PARAM_COMM_DTYPE_ATTR_NAME

    made: dict[int, torch.nn.Parameter] = {}  # tied weights stay tied
    for parameter in engine.module.parameters():
        # They are gathered as they are kept, no longer as they travel for a bf16 pass.
        vars(parameter).pop(PARAM_COMM_DTYPE_ATTR_NAME, None)
    engine.destroy()
    for module in engine.module.modules():
        if not hasattr(module, "_original_parameters"):
            continue
        parameters = dict(module._parameters)
        for name, parameter in parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in made:
                with zero.GatheredParameters([parameter]):
                    values = parameter.detach().clone()
                made[id(parameter)] = torch.nn.Parameter(values, requires_grad=parameter.requires_grad)
            parameters[name] = made[id(parameter)]
        module._parameters = parameters
        del module._original_parameters
