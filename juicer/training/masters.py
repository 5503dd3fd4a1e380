"""bf16 weights with float32 masters: passes compute in bf16 without a cast, and no step is lost to rounding."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

FULL = ("score",)
"""Modules that stay in float32: a reward is one number, of which bf16 would keep two or three digits."""


class Masters:
    """While it is entered the model's float32 weights are bf16 copies; what trains has a float32 master.

    Gradients appear in bf16, one weight at a time, and are summed in float32. After each step `renew` writes the
    masters to the copies. Afterwards the model has its float32 weights again, as trained.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self.named: dict[str, torch.nn.Parameter] = {}
        """The masters, and what trains in float32, by the names of their weights."""
        self._copies: list[tuple[torch.nn.Parameter, torch.nn.Parameter]] = []
        """Each copy, which is the model's own parameter, and its master."""

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Copies in the place of the weights for the duration of the block."""
        frozen: list[tuple[torch.nn.Parameter, Tensor]] = []
        hooks = []
        for name, weight in self._model.named_parameters():
            lowered = weight.dtype == torch.float32 and not any(part in FULL for part in name.split("."))
            if weight.requires_grad:
                master = torch.nn.Parameter(weight.detach()) if lowered else weight
                self.named[name] = master
            if lowered:
                before = weight.data
                weight.data = before.to(torch.bfloat16)
                if weight.requires_grad:
                    self._copies.append((weight, master))
                    hooks.append(weight.register_post_accumulate_grad_hook(_collect(master)))
                else:
                    frozen.append((weight, before))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for weight, master in self._copies:
                weight.grad = None
                weight.data = master.detach()
            for weight, before in frozen:
                weight.data = before

    @torch.no_grad()
    def renew(self) -> None:
        """Write the masters to the copies."""
        if self._copies:
            copies, masters = zip(*self._copies, strict=True)
            torch._foreach_copy_(list(copies), list(masters))


def _collect(master: torch.nn.Parameter) -> Callable[[Tensor], None]:
    """A hook that moves the gradient of a copy, as soon as it is there, to its master."""

    def add(weight: Tensor) -> None:
        assert weight.grad is not None
        if master.grad is None:
            master.grad = weight.grad.float()
        else:
            master.grad.add_(weight.grad)
        weight.grad = None

    return add
