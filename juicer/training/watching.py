"""The likelihood of validation demonstrations while a policy trains: does it learn, or learn its rows by heart?

Measuring changes nothing of the training: no random number is drawn, no gradient taken, and every module is left in
the mode that it was in. It costs forward passes only: (times + 1) * rows of them, where training takes three for each
row of each epoch.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from juicer.data.dialogues import Dialogue
from juicer.models.log_probability import score_dialogues
from juicer.runtime.context import LOCAL, WorkContext

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

CURVE = "validation_nll"
"""Name of the curve: -log pi of all watched demonstrations over the number of their tokens, in nats."""


class Watch:
    """Measures the likelihood of a few validation demonstrations, before the first step and at equal distances."""

    def __init__(
        self,
        policy: "PreTrainedModel",
        dialogues: Sequence[Dialogue],
        padding: int,
        steps: int,
        times: int,
        batch_size: int,
        context: WorkContext = LOCAL,
        precision: Callable[[], AbstractContextManager[None]] = nullcontext,
        *,
        tokens: int | None = None,
    ) -> None:
        """Watch a policy that is about to be trained.

        Args:
            dialogues: demonstrations that it is not trained on; none switch this off. So does sharding by DeepSpeed,
                under which a policy cannot be read between two steps.
            padding: any token id.
            steps: optimiser steps of the training.
            times: how often to measure after the start; the last time is after the last step.
            batch_size: dialogues per forward pass of a process.
            context: the dialogues are divided over its processes, and its observers receive the points.
            precision: enters the precision that the policy trains in.
            tokens: of a packed row, where the policy trains on packed rows.
        """
        self._policy, self._dialogues, self._padding = policy, list(dialogues), padding
        self._batch_size, self._context, self._precision = batch_size, context, precision
        self._tokens = tokens
        off = not dialogues or context.processes.zero_stage > 0
        self._steps = set() if off else {0, *(math.ceil(steps * place / times) for place in range(1, times + 1))}

    def after(self, step: int) -> float | None:
        """The value after so many optimiser steps; None where it is not to be measured. All processes call it."""
        if step not in self._steps:
            return None
        # Its own context: a resumed run finds no memo here, and shows no progress.
        apart = WorkContext(self._context.processes)
        with _evaluating(self._policy), self._precision():
            sums = score_dialogues(
                self._policy, self._dialogues, self._padding, self._batch_size, apart, tokens=self._tokens
            )
        value = -float(sums.double().sum()) / sum(len(each.response) for each in self._dialogues)
        self._context.emit_metrics(step, **{CURVE: value})
        return value


@contextmanager
def _evaluating(model: "nn.Module") -> Iterator[None]:
    """All modules in evaluation mode, in which there is no dropout; afterwards each in its own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
