"""How one optimiser step is taken: by processes that each hold all weights, or by DeepSpeed's ZeRO."""

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
from juicer.training.masters import Masters
from juicer.training.state import load_weights, save_weights

Losses = tuple[Tensor, dict[str, Tensor]]
SHARDS = "shards"
"""Folder inside a checkpoint with DeepSpeed's state, in its own format."""


class TrainingBackend(Protocol):
    """The steps of one training run. Each step calls `losses` and `backward` per pass, `gradient_norm`, then `step`."""

    def losses(self, rows: list[int]) -> Losses:
        """The loss and other quantities to plot, per row: (rows,) each."""

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add this process's part of the gradient; the parts sum to the gradient. `last` marks a step's last pass."""

    def gradient_norm(self, sums: Tensor) -> Tensor:
        """The norm of the whole gradient before clipping, and behind it the sums of some values over the processes.

        Args:
            sums: (values,) float64, this process's.

        Returns:
            (1 + values,) float64.
        """

    def step(self) -> None:
        """Update the weights by the clipped gradient."""

    def save(self, folder: Path) -> None:
        """Write weights and optimiser state between two steps; all processes of a machine share the folder."""

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote."""

    def close(self) -> None:
        """Give every process the whole model, as before training."""


class ReplicatedBackend:
    """Every process holds all weights and the whole optimiser state; gradients are all-reduced."""

    def __init__(
        self,
        trained: dict[str, torch.nn.Parameter],
        loss_of: Callable[[list[int]], Losses],
        optimiser: torch.optim.Optimizer,
        max_gradient_norm: float | None,
        processes: Processes,
        masters: Masters | None = None,
    ) -> None:
        self.losses, self._trained, self._masters = loss_of, trained, masters
        self._parameters = list(trained.values())
        self._optimiser, self._limit, self._processes = optimiser, max_gradient_norm or math.inf, processes

    def backward(self, loss: Tensor, last: bool) -> None:
        loss.backward()

    def gradient_norm(self, sums: Tensor) -> Tensor:
        if self._processes.world_size > 1:
            for parameter in self._parameters:
                if parameter.grad is not None:
                    torch.distributed.all_reduce(parameter.grad)
            torch.distributed.all_reduce(sums)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._limit)
        return torch.cat([norm.double()[None], sums])

    def step(self) -> None:
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        if self._masters is not None:
            self._masters.renew()

    def save(self, folder: Path) -> None:
        if self._processes.is_local_main:
            save_weights(folder, self._trained, self._optimiser)

    def load(self, folder: Path) -> None:
        load_weights(folder, self._trained, self._optimiser)
        if self._masters is not None:
            self._masters.renew()

    def close(self) -> None:
        pass


class ZeroBackend:
    """DeepSpeed shards optimiser state and gradients over the processes, and at stage 3 also the weights.

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
        # DeepSpeed averages over the processes; the sum is wanted.
        self._engine.backward(loss * self._processes.world_size)

    def gradient_norm(self, sums: Tensor) -> Tensor:
        self._engine.step()  # the norm is only available afterwards
        torch.distributed.all_reduce(sums)
        norm = torch.as_tensor(self._engine.get_global_grad_norm(), dtype=torch.float64, device=sums.device)
        return torch.cat([norm.reshape(1), sums])

    def step(self) -> None:
        pass

    def save(self, folder: Path) -> None:
        self._engine.save_checkpoint(str(folder), tag=SHARDS)

    def load(self, folder: Path) -> None:
        self._engine.load_checkpoint(str(folder), tag=SHARDS, load_lr_scheduler_states=False)

    def close(self) -> None:
        unshard(self._engine)


class _Objective(torch.nn.Module):
    """Model and loss in one module: DeepSpeed gathers weights in a module's forward pass."""

    def __init__(self, model: torch.nn.Module, loss_of: Callable[[list[int]], Losses]) -> None:
        super().__init__()
        self.model, self._loss_of = model, loss_of

    def forward(self, rows: list[int]) -> Losses:
        return self._loss_of(rows)


def zero_configuration(stage: int, model: torch.nn.Module, lower_precision: bool) -> dict[str, Any]:
    """The sharding and precision entries of a DeepSpeed configuration, for DeepSpeed itself and for TRL's trainers.

    Weights are float32, as everywhere; with `lower_precision` the passes over them are bf16. At stage 3 the matrices
    and their gradients are then also communicated as bf16.
    """
    _start_deepspeed()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {
        "zero_optimization": {
            "stage": stage,
            # DeepSpeed allocates a buffer of this many elements, even for a small model.
            "reduce_bucket_size": min(500_000_000, parameters),
            # Without it a trainer silently saves no weights.
            "stage3_gather_16bit_weights_on_model_save": True,
        },
        "zero_allow_untested_optimizer": True,
        # Each machine stores what its own processes need to resume.
        "checkpoint": {"use_node_local_storage": True},
        "torch_autocast": {
            "enabled": lower_precision,
            "dtype": "bfloat16",
            # Weights gathered in float32 and cast afterwards would stay in memory for the backward pass.
            **({} if stage == 3 else {"lower_precision_safe_modules": []}),
        },
        "steps_per_print": 10**9,
    }


def _start_deepspeed() -> None:
    """Let DeepSpeed join the process group, without its messages on standard output."""
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")
    import deepspeed

    with redirect_stdout(io.StringIO()):
        deepspeed.init_distributed(auto_mpi_discovery=False)


def unshard(engine: Any) -> None:
    """Remove DeepSpeed from a model and give every process all of its weights."""
    from deepspeed import zero
    from deepspeed.runtime.torch_autocast import PARAM_COMM_DTYPE_ATTR_NAME

    gathered: dict[int, torch.nn.Parameter] = {}  # by identity, so that tied weights stay tied
    for parameter in engine.module.parameters():
        # Gather in the stored type, no longer in the type that is communicated for a bf16 pass.
        vars(parameter).pop(PARAM_COMM_DTYPE_ATTR_NAME, None)
    engine.destroy()
    for module in engine.module.modules():
        if not hasattr(module, "_original_parameters"):
            continue
        parameters = dict(module._parameters)
        for name, parameter in parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in gathered:
                with zero.GatheredParameters([parameter]):
                    values = parameter.detach().clone()
                gathered[id(parameter)] = torch.nn.Parameter(values, requires_grad=parameter.requires_grad)
            parameters[name] = gathered[id(parameter)]
        module._parameters = parameters
        del module._original_parameters
