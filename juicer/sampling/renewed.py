"""Sampling by vLLM from a policy that is being trained: vLLM takes its weights anew before each use.

From a policy with adapters in bf16 it takes only the adapters, which it applies beside its base model: merged and
rounded to bf16, their small differences would be lost.
"""

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from juicer.data.dialogues import Sample
from juicer.data.template import Template
from juicer.models.adapters import Adapter, attached_adapter, joined, trained_adapter, unchanging_adapter, write_adapter
from juicer.models.building import quiet
from juicer.models.loading import dtype_of
from juicer.models.shape import ADAPTER
from juicer.runtime.context import LOCAL, WorkContext
from juicer.runtime.errors import InputError
from juicer.runtime.processes import Processes
from juicer.sampling.engines import worker_of
from juicer.sampling.rows import cache_bytes, shape_of
from juicer.sampling.vllm_engine import GPU_SHARE, ROOM, Worker, sample_by_vllm
from juicer.sampling.vllm_environment import roomy_rank
from juicer.settings.compute import ComputeSettings
from juicer.settings.training import Engine, LoraSettings, SamplingSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MEMORY = Path("/dev/shm")  # noqa: S108  a folder of our own is made in it
"""A file system in main memory."""
PREFIX, LOCK = "juicer-weights-", ".lock"
"""Of the folders with weights, and of the file in each that its process has locked."""
AGE = 60.0
"""Seconds from when on a folder that nobody has locked is abandoned."""
FURTHEST = 0.1
"""Largest mean difference, in nats per token, between vLLM's log-probabilities and the policy's. In bf16 it is a tenth
of that, or less."""
_BASE = ".base_layer"


@dataclass(frozen=True)
class RenewedSampler:
    """Samples by vLLM from the weights that a policy has at the moment."""

    worker: Worker
    dtype: torch.dtype
    adapted: bool
    """Whether vLLM takes adapters, and not weights."""
    scratch: Path
    """Where weights go that main memory has no room for."""
    processes: Processes

    @property
    def engine(self) -> str:
        """The engine with its version."""
        return f"vllm {self.worker.version}"

    def renew(self, policy: "PreTrainedModel") -> None:
        """Give vLLM the policy's weights; all processes call it, and each has whole weights."""
        if self.adapted:
            found = joined(attached_adapter(policy), trained_adapter(policy))
            size = found.elements * torch.float32.itemsize
            with room_for(size, self.scratch, self.processes, partial(write_adapter, found, "")) as folder:
                self.worker.adapt(folder)
            return
        with written(policy, self.dtype, self.scratch, self.processes) as folder:
            self.worker.reload(folder)

    def sample(
        self,
        template: Template,
        prompts: Sequence[tuple[str, list[int]]],
        settings: SamplingSettings,
        seed: int,
        context: WorkContext = LOCAL,
    ) -> list[Sample]:
        """As `decoding.sample_responses`, from the weights of the last `renew`."""
        return sample_by_vllm(self.worker, template, prompts, settings, seed, context)


@contextmanager
def renewed_sampler(
    asked: Engine,
    policy: "PreTrainedModel",
    compute: ComputeSettings,
    rows: int,
    length: int,
    scratch: Path,
    processes: Processes,
    key: str,
    lora: LoraSettings | None = None,
) -> Iterator[RenewedSampler | None]:
    """vLLM beside the training of `policy`, on the same GPU; None where our own decoding samples.

    It takes the memory that it needs for so many rows, so start it before what takes all that is left.

    Args:
        asked: the engine; `auto` as in `engines.worker_of`.
        rows: responses that this process samples at a time.
        length: maximal number of tokens of prompt and response together.
        scratch: an existing folder.
        key: the setting of the engine, in errors.
        lora: of the training, whose adapters the policy does not have yet.

    Raises:
        InputError: as `engines.worker_of`, or the weights of the policy are quantised, which vLLM would not have.
    """
    quantised = getattr(policy, "is_quantized", False)
    if quantised and asked == "vllm":
        what = "the policy trains over a quantised base model, which vLLM is not given"
        raise InputError(what, where=key, do="set it to torch or auto")
    if asked == "torch" or (asked == "auto" and (policy.device.type == "cpu" or quantised)):
        yield None
        return
    dtype = dtype_of(compute)
    adapted, earlier = lora is not None and dtype == torch.bfloat16, attached_adapter(policy)
    rank = earlier.rank + lora.r if lora is not None and adapted else 0
    first = unchanging_adapter(policy)
    shape, most = shape_of(policy), math.inf
    if shape is not None:
        most = shape.parameters * dtype.itemsize + cache_bytes(shape, rows, length, dtype.itemsize) + ROOM
        most += first.elements * roomy_rank(rank) * dtype.itemsize
    elif policy.device.type == "cuda":
        most = GPU_SHARE / 2 * torch.cuda.mem_get_info()[0]
    with ExitStack() as entered:
        given = (compute, length, processes, key, most, rank)
        trial = None
        if adapted:  # whether vLLM takes adapters for this model shows now, and not in the first step
            trial = Path(entered.enter_context(tempfile.TemporaryDirectory(dir=scratch)))
            write_adapter(first, "", trial)
        with written(policy, dtype, scratch, processes, adapted=not adapted) as folder:
            worker = entered.enter_context(worker_of(asked, folder, *given, trial))
        yield None if worker is None else RenewedSampler(worker, dtype, adapted, scratch, processes)


@contextmanager
def written(
    policy: "PreTrainedModel", dtype: torch.dtype, scratch: Path, processes: Processes, *, adapted: bool = True
) -> Iterator[Path]:
    """A folder with the policy's configuration and weights (safetensors), for the duration of the block.

    Args:
        adapted: whether its adapters are merged into the weights, or left out.
    """
    size = sum(parameter.numel() for parameter in policy.parameters()) * dtype.itemsize
    write = partial(write_weights, policy, dtype=dtype, adapted=adapted)
    with room_for(size, scratch, processes, write) as folder:
        yield folder


@contextmanager
def room_for(size: int, scratch: Path, processes: Processes, write: Callable[[Path], None]) -> Iterator[Path]:
    """A folder with what `write` writes there, for the duration of the block.

    It is in main memory where that has room for so many bytes, and one per machine.
    """
    remove_abandoned(MEMORY)
    roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 1.5 * size
    with (
        tempfile.TemporaryDirectory(dir=MEMORY if roomy else scratch, prefix=PREFIX, ignore_cleanup_errors=True) as own,
        FileLock(Path(own) / LOCK),
    ):
        if processes.is_local_main:
            write(Path(own))
        folders = processes.gather(own)
        yield Path(folders[processes.rank - processes.local_rank])
        processes.gather(None)  # until all have read it


def remove_abandoned(folder: Path) -> None:
    """Remove weights that a process which was killed has left in main memory."""
    for path in folder.glob(f"{PREFIX}*"):
        with suppress(OSError, Timeout):  # another user's, or in use
            if time.time() - path.stat().st_mtime > AGE:
                with FileLock(path / LOCK, blocking=False):
                    shutil.rmtree(path)


def write_weights(policy: "PreTrainedModel", folder: Path, dtype: torch.dtype, *, adapted: bool = True) -> None:
    """Write a policy as transformers does, in another dtype, with merged adapters or without its adapters."""
    with quiet(), torch.no_grad():
        added = joined(attached_adapter(policy), trained_adapter(policy)) if adapted else Adapter()
        policy.save_pretrained(folder, state_dict=merged(policy, dtype, added))


def merged(policy: "PreTrainedModel", dtype: torch.dtype, added: Adapter) -> dict[str, Tensor]:
    """The weights by name, on the CPU, with B A of adapters added in float32. The policy is not changed."""
    copies: dict[int, Tensor] = {}  # tied weights stay one tensor
    found = dict[str, Tensor]()
    for name, tensor in policy.state_dict().items():
        module, _, last = name.rpartition(".")
        layer = module.removesuffix(_BASE)
        if ADAPTER in name:
            continue
        if last == "weight" and layer in added.factors:
            a, b = (factor.to(tensor.device) for factor in added.factors[layer])
            change = (b @ a).T if added.transposed else b @ a
            found[f"{layer}.weight"] = (tensor.float() + change).to("cpu", dtype)
            continue
        if tensor.data_ptr() not in copies:
            copies[tensor.data_ptr()] = tensor.to("cpu", dtype) if tensor.is_floating_point() else tensor.cpu()
        found[name.replace(f"{_BASE}.", ".")] = copies[tensor.data_ptr()]
    return found


def check_agreement(computed: Sequence[float], recorded: Sequence[float], lengths: Sequence[int]) -> float:
    """How far vLLM's log-probabilities are from the policy's: the mean absolute difference per token, in nats.

    Args:
        computed: by a forward pass of the policy, a sum for each response.
        recorded: by vLLM.
        lengths: tokens of each response.

    Raises:
        InputError: so far that vLLM cannot have the policy's weights.
    """
    apart = sum(abs(one - other) for one, other in zip(computed, recorded, strict=True)) / max(1, sum(lengths))
    if not apart <= FURTHEST:
        what = f"vLLM's log-probabilities are {apart:.2g} nats per token from the policy's, so it has other weights"
        raise InputError(what, where="rft.policy.engine", do="set it to torch, and report this with the model's name")
    return apart
