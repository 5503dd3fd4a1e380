"""bf16 copies of weights for training on a CPU, each made once per optimiser step."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.overrides import TorchFunctionMode


class _Cast(torch.autograd.Function):
    """A weight in bf16, of which a copy is there already; its gradient is that of a cast."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, copy: Tensor) -> Tensor:
        return copy.view_as(copy)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].float(), None


class WeightCasts(TorchFunctionMode):
    """While it is entered, linear layers under autocast take bf16 copies of their weights that are made once.

    A copy serves in all forward passes of an optimiser's step and in their recomputation, and is dropped after it.
    Autocast's own cache makes one cast the parent of all uses, so their gradients are summed in bf16, and it keeps a
    cast without a gradient that was made where none was needed. Here every use has a cast of its own in the graph, so
    the numbers are those of autocast without a cache.
    """

    def __init__(self) -> None:
        super().__init__()
        self._copies: dict[int, tuple[Tensor, int, Tensor]] = {}
        """Per weight, by identity: the weight, the version that was copied, and the copy."""
        self.made = 0
        """Copies that were made."""

    @contextmanager
    def dropped_after_steps(self) -> Iterator[None]:
        """Within the block every step of an optimiser drops all copies; weights may not change otherwise.

        A fused optimiser does not raise the versions of the weights that it changes, so these do not tell.
        """
        hook = register_optimizer_step_post_hook(lambda *_: self._copies.clear())
        try:
            yield
        finally:
            hook.remove()
            self._copies.clear()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is linear and not kwargs and _is_cast(args):
            given, weight, *bias = args
            return func(given, self._cast(weight), *bias)
        return func(*args, **(kwargs or {}))

    def _cast(self, weight: Tensor) -> Tensor:
        known = self._copies.get(id(weight))
        if known is None or known[1] != weight._version:
            with torch.no_grad():
                known = (weight, weight._version, weight.to(torch.bfloat16))
            self._copies[id(weight)] = known
            self.made += 1
        result: Tensor = _Cast.apply(weight, known[2])
        return result


def _is_cast(args: tuple[Any, ...]) -> bool:
    """Whether autocast would cast the weight of these arguments of a linear layer."""
    weight = args[1] if len(args) > 1 else None
    return (
        isinstance(weight, torch.nn.Parameter)
        and weight.dtype == torch.float32
        and weight.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )
