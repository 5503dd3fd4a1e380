"""The engine that samples a policy's responses: our own decoding, or vLLM where the recipe and the machine have it."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from juicer.data.dialogues import Sample
from juicer.data.template import Template
from juicer.models.adapters import checked_base
from juicer.models.folder import base_record
from juicer.models.loading import device_of, dtype_of, load_policy, whole_folder
from juicer.runtime.command import print_line
from juicer.runtime.context import LOCAL, WorkContext
from juicer.runtime.processes import Processes
from juicer.sampling.decoding import sample_responses
from juicer.sampling.vllm_engine import Worker, WorkerError, opened, sample_by_vllm
from juicer.sampling.vllm_environment import check_vllm, find_vllm
from juicer.settings.compute import ComputeSettings
from juicer.settings.training import Engine, SamplingSettings


@dataclass(frozen=True)
class Sampler:
    """Samples from one policy."""

    taken: Engine
    """`torch` or `vllm`."""
    engine: str
    """The same, vLLM with its version."""
    draw: Callable[..., list[Sample]]
    """`decoding.sample_responses` or `vllm_engine.sample_by_vllm`, for this policy."""

    def __call__(
        self,
        template: Template,
        prompts: Sequence[tuple[str, list[int]]],
        settings: SamplingSettings,
        seed: int,
        context: WorkContext = LOCAL,
    ) -> list[Sample]:
        """As `decoding.sample_responses`."""
        return self.draw(template, prompts, settings, seed, context)


@contextmanager
def sampler(
    asked: Engine, policy: Path, compute: ComputeSettings, length: int, processes: Processes, key: str
) -> Iterator[Sampler]:
    """What samples from the policy in a folder, for the duration of the block.

    Args:
        asked: the engine; `auto` is decided here.
        length: maximal number of tokens of prompt and response together.
        key: the setting of the engine, in errors.

    Raises:
        InputError: as `load_policy`, or vLLM is asked for and cannot be had.
    """
    with worker_of(asked, policy, compute, length, processes, key) as worker:
        if worker is not None:
            yield Sampler("vllm", f"vllm {worker.version}", partial(sample_by_vllm, worker))
        else:
            yield Sampler("torch", "torch", partial(sample_responses, load_policy(policy, compute)))


@contextmanager
def worker_of(
    asked: Engine,
    policy: Path,
    compute: ComputeSettings,
    length: int,
    processes: Processes,
    key: str,
    most: float = math.inf,
    rank: int = 0,
    adapters: Path | None = None,
) -> Iterator[Worker | None]:
    """vLLM with the policy in a folder, for the duration of the block; None where our own decoding samples.

    `auto` takes our own where the run has to be deterministic, which vLLM is not, and where vLLM cannot load the model,
    which it says. All processes take the same.

    Args:
        most, rank: see `vllm_engine.opened`.
        adapters: folder of the first adapters; a policy that is kept as adapters brings its own, and their rank.

    Raises:
        InputError: vLLM is asked for, and has no environment, or cannot load the model.
    """
    if asked == "torch" or (asked == "auto" and (compute.deterministic or device_of(compute).type == "cpu")):
        yield None
        return
    with ExitStack() as entered:
        worker, failed = None, ""
        python = check_vllm(key) if asked == "vllm" else find_vllm()
        try:
            if python is not None:
                record = base_record(policy)
                if record is not None and dtype_of(compute) == torch.bfloat16:
                    # Merged, and rounded to bf16, small differences would be lost.
                    whole, rank = checked_base(policy, record), sum(record.ranks)
                    adapters = policy if record.ranks else None
                else:
                    whole = entered.enter_context(whole_folder(policy))
                made = entered.enter_context(opened(python, whole, compute, length, processes, most, rank))
                if adapters is not None:
                    made.adapt(adapters)
                worker = made  # with its adapters, or not at all
        except WorkerError as error:
            if asked == "vllm":
                raise
            failed = str(error)
        found = processes.gather((worker is not None, failed))
        every = all(has for has, _ in found)
        reasons = [reason for _, reason in found if reason]
        if reasons and processes.rank == 0:
            print_line(f"{key} is auto, and torch samples: {reasons[0]}")
        if not every:
            entered.close()
        yield worker if every else None
