"""How dialogues go through a model while it trains: padded rows, or one packed row of so many tokens."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

import torch

from juicer.models.loading import lower_precision
from juicer.models.packing import can_pack, packed_passes
from juicer.runtime.context import LOCAL, WorkContext
from juicer.runtime.errors import InputError
from juicer.runtime.processes import SINGLE_PROCESS, Processes
from juicer.settings.compute import ComputeSettings
from juicer.training.masters import Masters
from juicer.training.memory import Step, micro_batch, tokens_per_pass
from juicer.training.state import recorded_fact

if TYPE_CHECKING:
    from transformers import PreTrainedModel

T = TypeVar("T")


class Batched(Protocol):
    """Settings of a training."""

    @property
    def batch_size(self) -> int:
        """Rows of an optimiser step."""

    @property
    def micro_batch_size(self) -> int | Literal["auto"] | None:
        """Rows of a pass."""


@dataclass(frozen=True)
class Passes:
    """How a model computes in training. The default is what a CPU computes fastest."""

    packed: bool = False
    """Whether the dialogues of a pass are one row without padding."""
    tokens: int | Literal["auto"] = "auto"
    """Tokens of such a row, at most; `auto` as many as fit into memory."""
    copies: bool = False
    """Whether passes compute with bf16 copies of float32 masters, and without autocast."""
    compiled: bool = False
    """Whether transformer blocks are compiled."""

    @contextmanager
    def entered(self, model: "PreTrainedModel", *others: "PreTrainedModel") -> Iterator[Masters | None]:
        """Compute so within the block.

        Args:
            others: models that are only read, in the same passes.

        Yields:
            What holds the masters of `model`; None without copies.
        """
        read = [each for each in others if each is not model]
        with ExitStack() as entered:
            masters = None
            if self.copies:
                entered.enter_context(torch.autocast(model.device.type, enabled=False))
                masters = Masters(model)
                for each in (masters, *map(Masters, read)):
                    entered.enter_context(each.entered())
            if self.packed:
                entered.enter_context(packed_passes(model, *read, compiled=self.compiled))
            yield masters


PADDED = Passes()
"""Padded rows, as many as the micro-batch says."""


def passes_of(compute: ComputeSettings, model: "PreTrainedModel") -> Passes:
    """How a model trains: as the recipe says, and where it says `auto`, the fastest way of the model's device.

    Args:
        compute: the settings of the training; `juicer.models.precision.training_compute` gives them.

    Raises:
        InputError: rows are to be packed, and the model would not say the same of packed dialogues; or the recipe names
            an attention that these passes cannot have.
    """
    lower, gpu = lower_precision(compute), model.device.type == "cuda"
    packed = compute.packs(gpu=gpu, lower=lower)
    if packed and not can_pack(model):
        if compute.packing != "auto":
            what = f"{type(model).__name__} does not say of packed dialogues what it says of each alone"
            raise InputError(what, where="compute.packing", do="set compute.packing to auto or false")
        packed = False
    if compute.attention == "varlen" and not (packed and lower):
        why = "it computes in fp32" if packed or not lower else f"{type(model).__name__} cannot be packed"
        what = f"compute.attention is varlen, which is for packed rows in bf16, and {why}"
        raise InputError(what, do="set compute.attention to auto")
    copies = packed and gpu and lower and not compute.zero_stage if compute.weights == "auto" else lower
    if compute.weights == "fp32":
        copies = False
    # Under ZeRO the compiler would trace DeepSpeed's hooks, and compile again for each block.
    compiles = gpu and not compute.deterministic and not compute.zero_stage
    compiled = compiles if compute.compile == "auto" else compute.compile
    return Passes(packed, compute.tokens_per_pass, copies, packed and compiled)


def pass_size(
    passes: Passes, settings: Batched, step: Step | None, longest: int, context: WorkContext = LOCAL
) -> tuple[int | None, int | None]:
    """What goes through the model at once in a process: rows, where they are padded, or tokens, where they are packed.

    Args:
        settings: of the training.
        step: what a step holds in memory; None where nobody knows.
        longest: tokens of the longest row.

    Returns:
        `micro_batch_size` and `tokens_per_pass` of `train_loop`, of which one is None.
    """
    if passes.packed:
        return None, tokens_of(passes, step, longest, context)
    return micro_batch(settings.micro_batch_size, settings.batch_size, step, context.processes), None


def tokens_of(passes: Passes, step: Step | None, longest: int, context: WorkContext = LOCAL) -> int:
    """Tokens of a packed pass: those of the checkpoint that the training goes on from, else what the recipe says.

    Args:
        step: see `juicer.training.memory.tokens_per_pass`.
        longest: tokens of the longest row.
    """
    latest = context.checkpoint.latest() if context.checkpoint else None
    known: int | None = recorded_fact(latest, "tokens_per_pass")
    return known or tokens_per_pass(passes.tokens, step, longest, context.processes)


def token_passes(
    rows: Sequence[int],
    tokens: int,
    lengths: Sequence[int],
    processes: Processes = SINGLE_PROCESS,
) -> list[tuple[list[int], int]]:
    """This process's packed passes of a batch: row indices, and how many of them count.

    The rows are divided by their tokens, first over the processes and then over passes of at most so many. Sharded
    weights require that every process runs equally many passes, so a process with fewer repeats a row that does not
    count.

    Args:
        rows: indices of the batch.
        tokens: of a pass, at most; a longer row is a pass of its own.
        lengths: tokens of all rows.
    """
    shares = _evenly(rows, lengths, processes.world_size)
    divided = [_within(share, tokens, lengths) for share in shares]
    own = [(each, len(each)) for each in divided[processes.rank]]
    most = max(map(len, divided))
    shortest = min(rows, key=lambda row: (lengths[row], row))
    return own + [([shortest], 0)] * (most - len(own))


@torch.no_grad()
def before_training(
    compute: Callable[[list[int]], list[T]],
    batches: Iterable[Sequence[int]],
    tokens: int,
    lengths: Sequence[int],
    context: WorkContext = LOCAL,
) -> list[T]:
    """A value per row, each computed in the packed pass in which training first meets the row.

    Rounding depends on the shapes of a pass, in bf16 by tenths of a nat; in the same pass it is the same. So what a
    policy is compared with, computed here, is the policy's own value to the last bit as long as it has not changed.

    Args:
        compute: maps the rows of a pass to a value each.
        batches: of training, in their order.
        tokens: of a pass.
        lengths: tokens of all rows.
        context: its memo keeps the values of passes.

    Returns:
        In the order of the rows, the same on every process.
    """
    known: dict[int, T] = {}
    met: set[int] = set()
    listed = [list(batch) for batch in batches]
    # Of less than an epoch: nothing will be compared with the others, but every row has a value.
    rest = sorted({*range(len(lengths))} - {row for batch in listed for row in batch})
    for batch in [*listed, rest] if rest else listed:
        if len(met) == len(lengths):
            break
        for rows, counted in token_passes(batch, tokens, lengths, context.processes):
            values = context.memo(partial(compute, rows))
            known |= {row: value for row, value in list(zip(rows, values, strict=True))[:counted] if row not in met}
        met |= {*batch}
    # Those of the first process that has them: a row that is in a batch twice may be in two.
    shares = reversed(context.processes.gather(known))
    merged = {row: value for share in shares for row, value in share.items()}
    return [merged[row] for row in range(len(lengths))]


def _within(rows: Sequence[int], tokens: int, lengths: Sequence[int]) -> list[list[int]]:
    """Rows in as few passes as first-fit decreasing needs, and as equally long ones as possible."""
    passes: list[list[int]] = []
    for row in sorted(rows, key=lambda row: (-lengths[row], row)):
        fitting = next((each for each in passes if sum(lengths[one] for one in each) + lengths[row] <= tokens), None)
        if fitting is None:
            passes.append([row])
        else:
            fitting.append(row)
    even = [each for each in _evenly(rows, lengths, len(passes)) if each] if passes else []
    longest = max((sum(lengths[row] for row in each) for each in even), default=0)
    return even if longest <= tokens else passes


def _evenly(rows: Sequence[int], lengths: Sequence[int], count: int) -> list[list[int]]:
    """Rows in `count` parts of about as many tokens: each, the longest first, goes where there are fewest."""
    parts: list[list[int]] = [[] for _ in range(count)]
    totals = [0] * count
    for row in sorted(rows, key=lambda row: (-lengths[row], row)):
        place = totals.index(min(totals))
        parts[place].append(row)
        totals[place] += lengths[row]
    return parts
