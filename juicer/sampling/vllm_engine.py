"""Sampling by vLLM, which keeps a GPU busier than our own decoder: records of the same kind, of other random numbers.

A sample's seed follows from its own name here too. Its logits may differ in the last digits with what is computed
beside it, so samples are the same again on the same machine and versions, not everywhere.
"""

import math
import multiprocessing
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from juicer.data.samples import Sample
from juicer.data.template import Template
from juicer.models.loading import check_weights, device_of, dtype_of
from juicer.runtime.context import LOCAL, WorkContext
from juicer.runtime.errors import InputError
from juicer.runtime.processes import Processes
from juicer.sampling.decoding import Decoded, Wanted, sample_in_batches, seed_of
from juicer.settings.compute import ComputeSettings
from juicer.settings.training import GenerationSettings

BATCHES_AT_ONCE = 16
"""That vLLM is given at most; it decodes `batch_size` rows of them at any time, and the next as soon as one ends."""
OURS = "JUICER_VLLM"
"""In the environment of the processes that vLLM starts for us."""
LAUNCHED = re.compile(
    r"(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)|TORCH_NCCL_ASYNC_ERROR_HANDLING"
    r"|(TORCHELASTIC|ACCELERATE)_\w+"
)
"""What torch's launcher and accelerate's put into the environment of a process that they start among others.

TORCHELASTIC_USE_AGENT_STORE alone would let vLLM wait for a store that the launcher is to keep, and does not for it.
"""


def sample_by_vllm(
    llm: Any,
    template: Template,
    prompts: Sequence[tuple[str, list[int]]],
    settings: GenerationSettings,
    seed: int,
    context: WorkContext = LOCAL,
) -> list[Sample]:
    """Sample responses to every prompt by the `engine` that is `llm`; otherwise as `decoding.sample_responses`."""
    from vllm import SamplingParams

    limit, end = template.settings.max_response_tokens, template.end_of_text

    def one(batch: Sequence[Wanted]) -> list[Decoded]:
        parameters = [
            SamplingParams(
                temperature=settings.temperature,
                top_p=settings.top_p,
                max_tokens=limit,
                # Only what the template calls the end is one, whatever the model's own configuration says.
                ignore_eos=True,
                stop_token_ids=[end],
                seed=seed_of(seed, wanted) >> 65,  # vLLM takes 63 bits
                logprobs=0,  # of what was sampled, and of no other token
                detokenize=False,
            )
            for wanted in batch
        ]
        asked = [{"prompt_token_ids": wanted.prompt} for wanted in batch]
        return [decoded(each.outputs[0], end) for each in llm.generate(asked, parameters, use_tqdm=False)]

    share = math.ceil(len(prompts) * settings.samples_per_prompt / context.processes.world_size)
    size = min(BATCHES_AT_ONCE * settings.batch_size, share)
    return sample_in_batches(one, prompts, settings.samples_per_prompt, size, context)


def decoded(output: Any, end_of_text: int) -> Decoded:
    """What vLLM says of a response, as our own decoder says it.

    Raises:
        RuntimeError: the engine was ended in the middle of it, which vLLM hands out like any other response.
    """
    if output.finish_reason not in ("stop", "length"):
        raise RuntimeError(f"vLLM did not finish a response: {output.finish_reason}")
    response = list(output.token_ids)
    return response, response[-1] == end_of_text, float(output.cumulative_logprob)


@contextmanager
def engine(folder: Path, compute: ComputeSettings, length: int, rows: int, processes: Processes) -> Iterator[Any]:
    """A vLLM engine for the policy in `folder`, in a process of its own, for as long as the block lasts.

    Args:
        folder: of the policy.
        length: tokens of the longest prompt and response together.
        rows: responses decoded at once.
        processes: each has an engine and a GPU of its own.

    Raises:
        InputError: vLLM is not installed, or there are no weights in `folder`.
    """
    check_weights(folder)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    try:
        from vllm import LLM
    except ImportError as error:
        do = "pip install vllm, or set sampling.engine to torch"
        raise InputError(f"sampling.engine is vllm, which cannot be imported: {error}", do=do) from error
    with _by_itself(processes):
        llm = LLM(
            model=str(folder),
            skip_tokenizer_init=True,
            dtype=str(dtype_of(compute)).removeprefix("torch."),
            max_model_len=length,
            max_num_seqs=rows,
            logprobs_mode="raw_logprobs",  # at temperature 1, as the mathematics asks for
            disable_log_stats=True,
            use_tqdm_on_load=False,
            # vLLM 0.32 turns a sample's generator back after a part of a prompt, which no generator of a CPU can do.
            enable_chunked_prefill=device_of(compute).type != "cpu",
        )
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()


@contextmanager
def _by_itself(processes: Processes) -> Iterator[None]:
    """Let what is started inside know nothing of the other processes, and see the GPU of this one only."""
    before = dict(os.environ)
    for name in filter(LAUNCHED.fullmatch, before):
        del os.environ[name]
    os.environ[OURS] = "1"
    seen = before.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(processes.local_rank + 1)))).split(",")
    if processes.world_size > 1 and len(seen) > processes.local_rank:
        os.environ["CUDA_VISIBLE_DEVICES"] = seen[processes.local_rank]
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def end_with_parent() -> None:
    """Let a process that vLLM has started for us end when the one that started it does, however that ends.

    vLLM calls this in each of its processes, as a plugin that pyproject.toml names; by itself it leaves them behind.
    """
    parent = multiprocessing.parent_process()
    if parent is None or OURS not in os.environ:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
