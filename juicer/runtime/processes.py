"""The processes that share the work of one stage: rank, world size, and how work is distributed over them.

Every process runs the same program on the same inputs. The results of distributed work return to all of them, in order.
"""

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from juicer.runtime.devices import Card, card_in_use, in_words
from juicer.runtime.errors import InputError
from juicer.settings.compute import ComputeSettings

if TYPE_CHECKING:
    import torch

B = TypeVar("B")
R = TypeVar("R")
LONGEST_WAIT = timedelta(hours=6)
"""Timeout for the slowest process to finish its share. A process that fails ends the others at once."""


@dataclass(frozen=True)
class Processes:
    """The processes of a stage, seen from one of them."""

    rank: int = 0
    """Index of this process among all processes, from 0."""
    world_size: int = 1
    """Number of processes on all machines."""
    zero_stage: int = 0
    """ZeRO stage of training: 0 shards nothing, 2 gradients and optimiser state, 3 also weights."""
    local_rank: int = 0
    """Index of this process on its machine, from 0."""
    machine: int = 0
    """Index of this process's machine, from 0."""

    @property
    def is_local_main(self) -> bool:
        """Whether this is its machine's main process, which does what is done once per machine, such as writing."""
        return self.local_rank == 0

    def distribute(self, batches: Iterable[B], compute: Callable[[B], R]) -> list[R]:
        """`compute` of every batch, in order, on every process.

        Whole batches are distributed, so a result does not depend on the world size, not even through padding.
        """
        own = [compute(batch) for batch in islice(batches, self.rank, None, self.world_size)]
        if self.world_size == 1:
            return own
        shares = self.gather(own)
        return [shares[place % self.world_size][place // self.world_size] for place in range(sum(map(len, shares)))]

    def gather(self, value: R) -> list[R]:
        """`value` of every process in the order of their ranks, on every process; also a barrier."""
        if self.world_size == 1:
            return [value]
        import torch

        values = [value] * self.world_size
        torch.distributed.all_gather_object(values, value)
        return values

    def sum(self, values: list[float], device: "torch.device") -> list[float]:
        """The sums of `values` over the processes, on every process."""
        if self.world_size == 1:
            return values
        import torch

        total = torch.tensor(values, dtype=torch.float64, device=device)
        torch.distributed.all_reduce(total)
        return [float(value) for value in total]


SINGLE_PROCESS = Processes()


def max_over_processes(count: int, device: "torch.device") -> int:
    """The largest `count` of all processes, on every process."""
    import torch

    largest = torch.tensor(count, device=device)
    torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX)
    return int(largest)


def join(compute: ComputeSettings) -> Processes:
    """Join the process group that `accelerate launch` started; otherwise the only process.

    Raises:
        InputError: the number of launched processes differs from the recipe's, this process has no GPU, or the GPUs
            do not suit each other.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != compute.processes:
        raise InputError(
            f"compute.processes is {compute.processes}, but {launched} processes were launched",
            do="start the stage without accelerate launch, or launch that many processes",
        )
    if "LOCAL_RANK" not in os.environ:
        return SINGLE_PROCESS
    import torch

    cuda = compute.device != "cpu" and torch.cuda.is_available()
    if cuda:
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise InputError(
                f"process {local} on this machine has no GPU; torch sees {torch.cuda.device_count()} GPUs",
                do="lower compute.processes",
            )
        torch.cuda.set_device(local)
    options: dict[str, Any] = {"device_id": torch.device("cuda", local)} if cuda else {}
    torch.distributed.init_process_group("nccl" if cuda else "gloo", timeout=LONGEST_WAIT, **options)
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    machine = int(os.environ.get("GROUP_RANK", "0"))
    joined = Processes(rank, size, compute.zero_stage, int(os.environ["LOCAL_RANK"]), machine)
    if cuda:
        cards = joined.gather((card_in_use(), torch.cuda.is_bf16_supported(including_emulation=False)))
        for line in mixed_cards([(card, bf16) for card, bf16 in cards if card is not None], compute):
            if rank == 0:
                print(line, file=sys.stderr, flush=True)
    return joined


def mixed_cards(cards: Sequence[tuple[Card, bool]], compute: ComputeSettings) -> list[str]:
    """What is to be said of the GPUs of a stage's processes, each with whether it computes in bf16.

    A slower card only makes the others wait, and what `auto` decides by memory is decided by the smallest one.

    Raises:
        InputError: `auto` would be another precision on some of them.
    """
    if len({has_bf16 for _, has_bf16 in cards}) > 1 and compute.precision == "auto":
        without = in_words(card for card, has_bf16 in cards if not has_bf16)
        what = f"compute.precision is auto, but only some of this stage's GPUs compute in bf16, not {without}"
        raise InputError(what, do="set compute.precision to fp32, or leave these out: CUDA_VISIBLE_DEVICES")
    if len({(card.name, card.memory) for card, _ in cards}) <= 1:
        return []
    listed = in_words(card for card, _ in cards)
    return [f"the GPUs of this stage differ ({listed}): the slowest sets the pace, and the smallest the rows of a pass"]


def leave() -> None:
    """Leave the process group."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
