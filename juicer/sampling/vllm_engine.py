"""Sampling by vLLM, which uses a GPU better than `decoding`: the same records, from other random numbers.

vLLM runs in an environment and a process of its own (`vllm_worker`), and schedules the rows itself. Each sample has its
own seed here too. Its logits may differ in the last digits with the rest of the batch, so samples are reproducible on
the same machine with the same versions, but not across machines.
"""

import json
import math
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from juicer.data.dialogues import Sample
from juicer.data.template import Template
from juicer.models.folder import check_folder
from juicer.models.loading import device_of, dtype_of
from juicer.runtime.context import LOCAL, WorkContext
from juicer.runtime.devices import GIB
from juicer.runtime.errors import InputError
from juicer.runtime.process_groups import GROUP, WARM
from juicer.runtime.processes import Processes
from juicer.sampling import vllm_worker
from juicer.sampling.decoding import Decoded, Report, SampleRequest, sample_in_batches, seed_of
from juicer.sampling.vllm_environment import RANKS, roomy_rank
from juicer.settings.compute import ComputeSettings
from juicer.settings.training import SamplingSettings

PORTION = 8192
"""Responses that vLLM gets at a time. A run that is interrupted repeats as many at most; while the last of a portion
are decoded, some of vLLM's rows stand empty."""
GPU_SHARE = 0.9
"""Share of a GPU's free memory that vLLM may take."""
CPU_CACHE = GIB
"""Bytes of keys and values on a CPU, where vLLM would take half of the memory."""
ROOM = 2 * GIB
"""Bytes that vLLM needs on a GPU beside weights, keys and values: activations, its graphs, CUDA's context."""
HIDDEN = re.compile(
    r"(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)|TORCH_NCCL_ASYNC_ERROR_HANDLING"
    rf"|(TORCHELASTIC|ACCELERATE)_\w+|PYTHON(PATH|HOME)|VIRTUAL_ENV|PYTORCH_(CUDA_)?ALLOC_CONF|{GROUP}|{WARM}"
)
"""Environment variables that vLLM does not see: what torch's and accelerate's launchers set in the processes of a group
(with TORCHELASTIC_USE_AGENT_STORE vLLM would wait for a store that nobody provides to it), what leads to this process's
packages, how this process allocates memory, and the mark of a group, whose members are signalled one by one."""
_GENERIC = re.compile(r"engine core|see (the )?(root cause|stack trace)|EngineDeadError", re.IGNORECASE)
"""Errors of vLLM that refer to another one."""
_ERROR = re.compile(r"\b\w+(Error|Exception|Exit): \S.*")


class WorkerError(InputError):
    """vLLM's process failed, or has ended."""


def sample_by_vllm(
    worker: "Worker",
    template: Template,
    prompts: Sequence[tuple[str, list[int]]],
    settings: SamplingSettings,
    seed: int,
    context: WorkContext = LOCAL,
) -> list[Sample]:
    """Sample responses to every prompt by vLLM; otherwise like `decoding.sample_responses`."""
    ends = template.ends
    parameters = {
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "max_tokens": template.settings.max_response_tokens,
        # The template has the ends of the model's configuration too, and those that vLLM does not know.
        "ignore_eos": True,
        "stop_token_ids": list(ends),
        "logprobs": 0,  # only of the sampled token
        "detokenize": False,
    }

    def decode_batch(batch: Sequence[SampleRequest], report: Report) -> list[Decoded]:
        # vLLM takes seeds of 63 bits.
        asked = [(wanted.prompt, {"seed": seed_of(seed, wanted) >> 65}) for wanted in batch]
        found = worker.sample(asked, parameters, lambda count: report(count, 0))
        return [decoded(*each, ends) for each in found]

    share = math.ceil(len(prompts) * settings.samples_per_prompt / context.processes.world_size)
    size = math.ceil(share / math.ceil(share / PORTION))
    return sample_in_batches(decode_batch, prompts, settings.samples_per_prompt, size, context)


def decoded(response: list[int], log_probability: float, reason: str, ends: Collection[int]) -> Decoded:
    """A response of vLLM in the form of `decoding.decode`.

    Raises:
        RuntimeError: the engine was stopped before the response ended; vLLM returns it like any other.
    """
    if reason not in ("stop", "length") or not response or not math.isfinite(log_probability):
        raise RuntimeError(f"vLLM did not finish a response: {reason}, log-probability {log_probability}")
    return response, response[-1] in ends, log_probability


class Worker:
    """vLLM in a process of its own, as `opened` starts it; one message at a time."""

    def __init__(self, messages: IO[str], answers: IO[str], cause: Callable[[], str]) -> None:
        """
        Args:
            messages: what the process reads.
            answers: what it writes.
            cause: what the process printed about its failure, or how it ended.
        """
        self._messages, self._answers, self._cause = messages, answers, cause
        self.version = ""
        """vLLM's."""

    def load(self, options: Mapping[str, Any]) -> None:
        """Load a model with these arguments of vllm.LLM."""
        self.version = self._asked({"load": dict(options)})["ready"]

    def sample(
        self,
        requests: Sequence[tuple[list[int], Mapping[str, Any]]],
        parameters: Mapping[str, Any],
        report: Callable[[int], None] = lambda count: None,
    ) -> list[tuple[list[int], float, str]]:
        """A response to each request, a prompt's token ids and arguments of vllm.SamplingParams for it alone.

        Args:
            parameters: those for all requests.
            report: is called with how many responses have ended since the last call.

        Returns:
            per request: token ids, log-probability at temperature 1 in nats, vLLM's reason why it ended.
        """
        message = {"sample": [[prompt, dict(own)] for prompt, own in requests], "parameters": dict(parameters)}
        found = self._asked(message, report)["samples"]
        if len(found) != len(requests):
            raise WorkerError(f"vLLM gave {len(found)} responses to {len(requests)} prompts")
        return [(tokens, log_probability, reason) for tokens, log_probability, reason in found]

    def reload(self, folder: Path) -> None:
        """Take the weights (safetensors) in a folder, of the model that is loaded."""
        self._asked({"reload": str(folder)})

    def adapt(self, folder: Path) -> None:
        """Take the LoRA adapters in a folder, in place of those before; the model was opened with their rank."""
        self._asked({"adapt": str(folder.resolve())})

    def _asked(self, message: Mapping[str, Any], report: Callable[[int], None] = lambda count: None) -> dict[str, Any]:
        with suppress(BrokenPipeError):  # it has ended; what it said says why
            self._messages.write(json.dumps(message) + "\n")
            self._messages.flush()
        for line in self._answers:
            answer: dict[str, Any] = json.loads(line)
            if "ended" in answer:
                report(answer["ended"])
            elif "error" in answer:
                raise WorkerError(f"vLLM failed: {self._explained(answer['error'])}")
            else:
                return answer
        raise WorkerError(f"vLLM's process ended: {self._cause() or 'it said nothing'}")

    def _explained(self, error: str) -> str:
        """The error, or the one that it refers to."""
        return (self._cause() if _GENERIC.search(error) else "") or error


@contextmanager
def opened(
    python: Path,
    folder: Path,
    compute: ComputeSettings,
    length: int,
    processes: Processes,
    most: float = math.inf,
    rank: int = 0,
) -> Iterator[Worker]:
    """A vLLM engine for the policy in `folder`, in a process of its own, for the duration of the block.

    That process ends with the block, and with this process, however it ends.

    Args:
        python: of vLLM's environment.
        folder: the policy's.
        length: maximal number of tokens of prompt and response together.
        processes: each has its own engine and GPU.
        most: bytes of the GPU that vLLM may take at most; it never takes more than `GPU_SHARE` of what is free.
        rank: of the adapters that are to come (`Worker.adapt`); 0 for none.

    Raises:
        WorkerError: vLLM cannot load the model, or takes no adapters of this rank or for this model.
        InputError: `folder` holds no weights.
    """
    check_folder(folder)
    options: dict[str, Any] = {
        "model": str(folder.resolve()),
        "skip_tokenizer_init": True,
        "dtype": str(dtype_of(compute)).removeprefix("torch."),
        "max_model_len": length,
        "logprobs_mode": "raw_logprobs",  # at temperature 1, as `Sample.log_probability` requires
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        **memory_options(compute, most),
        **adapter_options(rank),
    }
    with process(python, environment(processes)) as worker:
        worker.load(options)
        yield worker


def memory_options(compute: ComputeSettings, most: float = math.inf) -> dict[str, Any]:
    """The arguments of vllm.LLM that bound its memory, and those that depend on the device."""
    if device_of(compute).type == "cpu":
        # After a part of a prompt vLLM 0.32 rewinds the sample's generator, which CPU generators do not support.
        # Compiling takes minutes there, and nobody samples much by it.
        return {"kv_cache_memory_bytes": CPU_CACHE, "enable_chunked_prefill": False, "enforce_eager": True}
    import torch

    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    return {"gpu_memory_utilization": min(GPU_SHARE * free, most) / total}


def adapter_options(rank: int) -> dict[str, Any]:
    """The arguments of vllm.LLM that make room for adapters of a rank.

    Raises:
        WorkerError: it is larger than vLLM takes.
    """
    if not rank:
        return {}
    if rank > RANKS[-1]:
        do = "set save: merged for LoRA, or the engine to torch"
        raise WorkerError(f"vLLM takes adapters of rank {RANKS[-1]} at most, and these add up to {rank}", do=do)
    return {"enable_lora": True, "max_lora_rank": roomy_rank(rank)}


def environment(processes: Processes) -> dict[str, str]:
    """The environment of vLLM's process: without the process group, and with this process's GPU only."""
    own = {name: value for name, value in os.environ.items() if not HIDDEN.fullmatch(name)}
    visible = own.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(processes.local_rank + 1)))).split(",")
    if processes.world_size > 1 and len(visible) > processes.local_rank:
        own["CUDA_VISIBLE_DEVICES"] = visible[processes.local_rank]
    defaults = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    # A process that CUDA is in use in cannot be forked.
    return {**defaults, **own, "VLLM_WORKER_MULTIPROCESSING_METHOD": "spawn"}


@contextmanager
def process(python: Path, variables: Mapping[str, str], script: Path = Path(vllm_worker.__file__)) -> Iterator[Worker]:
    """The process of a worker, and of all that it starts, for the duration of the block."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        started = subprocess.Popen(
            # Without the variables, packages and folders of this Python; the script's folder has modules of ours.
            [python, "-I", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            encoding="utf-8",
            env=dict(variables),
            start_new_session=True,
        )
        assert started.stdin is not None and started.stdout is not None
        try:
            yield Worker(started.stdin, started.stdout, lambda: _cause(started, said))
        finally:
            with suppress(OSError):  # the group has ended
                os.killpg(started.pid, signal.SIGKILL)
            started.wait()
            for pipe in (started.stdin, started.stdout):
                with suppress(BrokenPipeError):
                    pipe.close()


def _cause(started: "subprocess.Popen[str]", said: IO[str]) -> str:
    """The last error that is no reference to another, of what a process has printed; else how it ended."""
    said.seek(0)
    found = [match[0] for match in map(_ERROR.search, said) if match and not _GENERIC.search(match[0])]
    with suppress(subprocess.TimeoutExpired):
        started.wait(timeout=1)
    code = started.poll()
    how = "" if code is None else f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
    return found[-1] if found else how
