"""Sampling by vLLM, which uses a GPU better than `decoding`: the same records, from other random numbers.

Each sample has its own seed here too. Its logits may differ in the last digits with the rest of the batch, so samples
are reproducible on the same machine with the same versions, but not across machines.
"""

import math
import multiprocessing
import os
import re
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from juicer.data.dialogues import Sample
from juicer.data.template import Template
from juicer.models.folder import check_folder
from juicer.models.loading import device_of, dtype_of
from juicer.runtime.context import LOCAL, WorkContext
from juicer.runtime.errors import InputError
from juicer.runtime.processes import Processes
from juicer.sampling.decoding import Decoded, Report, SampleRequest, sample_in_batches, seed_of
from juicer.settings.compute import ComputeSettings
from juicer.settings.training import GenerationSettings

BATCHES_AT_ONCE = 16
"""Batches passed to vLLM at a time. It decodes `batch_size` rows at once, and starts the next as soon as one ends."""
MARK = "JUICER_VLLM"
"""Environment variable that marks the processes that vLLM starts for Juicer."""
LAUNCHER_VARIABLES = re.compile(
    r"(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)|TORCH_NCCL_ASYNC_ERROR_HANDLING"
    r"|(TORCHELASTIC|ACCELERATE)_\w+"
)
"""Environment variables that torch's and accelerate's launchers set in the processes of a group.

TORCHELASTIC_USE_AGENT_STORE, for one, would make vLLM wait for a store that the launcher does not provide to it.
"""


def sample_by_vllm(
    llm: Any,
    template: Template,
    prompts: Sequence[tuple[str, list[int]]],
    settings: GenerationSettings,
    seed: int,
    context: WorkContext = LOCAL,
) -> list[Sample]:
    """Sample responses to every prompt by the `engine` `llm`; otherwise like `decoding.sample_responses`."""
    from vllm import SamplingParams

    limit, ends = template.settings.max_response_tokens, template.ends

    def decode_batch(batch: Sequence[SampleRequest], _: Report) -> list[Decoded]:
        parameters = [
            SamplingParams(
                temperature=settings.temperature,
                top_p=settings.top_p,
                max_tokens=limit,
                # The template has the ends of the model's configuration too, and those that vLLM does not know.
                ignore_eos=True,
                stop_token_ids=list(ends),
                seed=seed_of(seed, wanted) >> 65,  # vLLM takes 63 bits
                logprobs=0,  # only of the sampled token
                detokenize=False,
            )
            for wanted in batch
        ]
        asked = [{"prompt_token_ids": wanted.prompt} for wanted in batch]
        return [decoded(each.outputs[0], ends) for each in llm.generate(asked, parameters, use_tqdm=False)]

    share = math.ceil(len(prompts) * settings.samples_per_prompt / context.processes.world_size)
    size = min(BATCHES_AT_ONCE * settings.batch_size, share)
    return sample_in_batches(decode_batch, prompts, settings.samples_per_prompt, size, context)


def decoded(output: Any, ends: Collection[int]) -> Decoded:
    """A response of vLLM in the form of `decoding.decode`.

    Raises:
        RuntimeError: the engine was stopped before the response ended; vLLM returns it like any other.
    """
    if output.finish_reason not in ("stop", "length"):
        raise RuntimeError(f"vLLM did not finish a response: {output.finish_reason}")
    response = list(output.token_ids)
    return response, response[-1] in ends, float(output.cumulative_logprob)


@contextmanager
def engine(folder: Path, compute: ComputeSettings, length: int, rows: int, processes: Processes) -> Iterator[Any]:
    """A vLLM engine for the policy in `folder`, in a separate process, for the duration of the block.

    Args:
        folder: the policy's.
        length: maximal number of tokens of prompt and response together.
        rows: responses decoded at once.
        processes: each has its own engine and GPU.

    Raises:
        InputError: vLLM cannot be imported, or `folder` holds no weights.
    """
    check_folder(folder)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    try:
        from vllm import LLM
    except ImportError as error:
        do = "pip install vllm, or set sampling.engine to torch"
        raise InputError(f"sampling.engine is vllm, but vLLM cannot be imported: {error}", do=do) from error
    with _isolated_environment(processes):
        llm = LLM(
            model=str(folder),
            skip_tokenizer_init=True,
            trust_remote_code=False,
            dtype=str(dtype_of(compute)).removeprefix("torch."),
            max_model_len=length,
            max_num_seqs=rows,
            logprobs_mode="raw_logprobs",  # at temperature 1, as `Sample.log_probability` requires
            disable_log_stats=True,
            use_tqdm_on_load=False,
            # After a part of a prompt vLLM 0.32 rewinds the sample's generator, which CPU generators do not support.
            enable_chunked_prefill=device_of(compute).type != "cpu",
        )
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()


@contextmanager
def _isolated_environment(processes: Processes) -> Iterator[None]:
    """Hide the process group from processes that are started in the block, and show them this process's GPU only."""
    before = dict(os.environ)
    for name in filter(LAUNCHER_VARIABLES.fullmatch, before):
        del os.environ[name]
    os.environ[MARK] = "1"
    visible = before.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(processes.local_rank + 1)))).split(",")
    if processes.world_size > 1 and len(visible) > processes.local_rank:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[processes.local_rank]
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def end_with_parent() -> None:
    """End a process that vLLM started for Juicer when its parent ends, for whatever reason.

    vLLM calls this plug-in, registered in pyproject.toml, in each of its processes. Without it they would survive.
    """
    parent = multiprocessing.parent_process()
    if parent is None or MARK not in os.environ:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
