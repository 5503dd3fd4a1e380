"""What vLLM's process is told, sees and answers, over pipes in place of a process (tests/pipeline/test_vllm.py)."""

import io
import json
import os
import queue
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock

from juicer.models.adapters import Adapter
from juicer.models.loading import load_policy, save_policy
from juicer.runtime.errors import InputError
from juicer.runtime.processes import SINGLE_PROCESS, Processes
from juicer.sampling import vllm_worker
from juicer.sampling.renewed import check_agreement, merged, remove_abandoned, write_weights
from juicer.sampling.rows import MOST_ROWS, cache_bytes, fitting_rows, rows_for, shape_of
from juicer.sampling.vllm_engine import (
    Worker,
    WorkerError,
    adapter_options,
    decoded,
    environment,
    memory_options,
    sample_by_vllm,
)
from juicer.settings.compute import ComputeSettings
from juicer.settings.training import LoraSettings, SamplingSettings
from juicer.training.adapters import add_adapters, merge_adapters

ROOT = Path(__file__).parents[2]
CPU = ComputeSettings(device="cpu")


class Engine:
    """Answers a request with its seed's last digit, its prompt's length and the end."""

    def __init__(self, **options):
        self.options, self.weights, self.forgets = options, [], True
        if options["model"] == "broken":
            raise ValueError("no such\n  architecture")

    @property
    def llm_engine(self):
        return self

    def add_lora(self, request):
        self.weights.append((request.lora_name, request.lora_path))

    def generate(self, prompts, parameters, use_tqdm, lora_request):
        if lora_request is not None:
            self.weights.append(("sampled by", lora_request.lora_path))
        bar = use_tqdm(total=len(prompts))
        found = []
        for prompt, wanted in zip(use_tqdm(prompts, desc="read"), parameters, strict=True):
            tokens = [wanted.seed % 10, len(prompt["prompt_token_ids"]), wanted.stop_token_ids[0]]
            found.append(
                SimpleNamespace(token_ids=tokens, cumulative_logprob=-float(len(tokens)), finish_reason="stop")
            )
            bar.update(1)
        return [SimpleNamespace(outputs=[each]) for each in found]

    def collective_rpc(self, method, kwargs):
        self.weights.append((method, kwargs["weights_path"]))

    def reset_prefix_cache(self):
        return self.weights[-1][1] != "/sticky"


def request(name, number, path, load_inplace=False):
    """vLLM's name of adapters."""
    return SimpleNamespace(lora_name="read" if load_inplace else "named", lora_int_id=number, lora_path=path)


@pytest.fixture
def worker(monkeypatch):
    """A client and a worker in this process, with a pipe each way."""
    engines = []

    def load(**options):
        engines.append(Engine(**options))
        return engines[-1]

    fake = SimpleNamespace(LLM=load, SamplingParams=SimpleNamespace, __version__="9.9")
    monkeypatch.setitem(sys.modules, "vllm", fake)
    lora = SimpleNamespace(LoRARequest=request)
    monkeypatch.setitem(sys.modules, "vllm.lora", SimpleNamespace(request=lora))
    monkeypatch.setitem(sys.modules, "vllm.lora.request", lora)
    (asking, asked), (answering, answered) = os.pipe(), os.pipe()
    messages = queue.SimpleQueue()
    with (
        os.fdopen(asking) as lines, os.fdopen(asked, "w") as question,
        os.fdopen(answering) as answers, os.fdopen(answered, "w") as answer,
    ):  # fmt: skip
        for target, given in ((vllm_worker.answer, (messages, answer)), (pump, (lines, messages))):
            threading.Thread(target=target, args=given, daemon=True).start()
        made = Worker(question, answers, lambda: "what it printed")
        made.engines = engines
        yield made


def pump(lines, messages):
    """Pass on messages, without the end of the process that their end is."""
    for line in lines:
        messages.put(line)


def test_samples_are_drawn_by_name_and_come_back_in_order(worker, template, prompts):
    worker.load({"model": "a policy"})
    assert worker.version == "9.9"
    settings = SamplingSettings(samples_per_prompt=2)
    samples = sample_by_vllm(worker, template, prompts, settings, seed=3)
    assert [(each.id, each.index) for each in samples] == [(name, index) for name, _ in prompts for index in range(2)]
    assert [each.response[1] for each in samples] == [len(prompt) for _, prompt in prompts for _ in range(2)]
    assert all(each.ended and each.response[-1] == template.end_of_text for each in samples)
    assert {each.log_probability for each in samples} == {-3.0}
    again = sample_by_vllm(worker, template, prompts[2:4], settings, seed=3)
    assert [each.response for each in again] == [each.response for each in samples[4:8]]
    assert len({each.response[0] for each in samples}) > 1


@pytest.fixture
def prompts():
    return [(f"prompt {number}", list(range(3, 5 + number))) for number in range(6)]


def test_an_error_is_one_line_and_the_next_message_is_answered(worker):
    with pytest.raises(WorkerError) as failed:
        worker.load({"model": "broken"})
    assert str(failed.value) == "vLLM failed: ValueError: no such architecture"
    worker.load({"model": "whole"})
    with pytest.raises(WorkerError, match="stop_token_ids"):
        worker.sample([([1], {"seed": 2})], {})


def test_weights_whose_predecessors_are_not_forgotten_are_an_error(worker):
    worker.load({"model": "a policy"})
    worker.reload(Path("/some/weights"))
    with pytest.raises(WorkerError, match="did not forget"):
        worker.reload(Path("/sticky"))


def test_adapters_are_read_when_they_come_and_named_with_every_request_from_then_on(worker, template, prompts):
    worker.load({"model": "a policy"})
    sample_by_vllm(worker, template, prompts, SamplingSettings(), seed=3)
    (engine,) = worker.engines
    assert engine.weights == []
    worker.adapt(Path("/some/adapters"))
    for _ in range(2):
        sample_by_vllm(worker, template, prompts, SamplingSettings(), seed=3)
    assert engine.weights == [("read", "/some/adapters"), *[("sampled by", "/some/adapters")] * 2]
    with pytest.raises(WorkerError, match="did not forget"):
        worker.adapt(Path("/sticky"))


def test_vllm_makes_room_for_the_rank_of_the_adapters():
    assert adapter_options(0) == {}
    for rank, room in ((1, 1), (2, 8), (64, 64), (65, 128), (512, 512)):
        assert adapter_options(rank) == {"enable_lora": True, "max_lora_rank": room}
    with pytest.raises(WorkerError, match="adapters of rank 512 at most, and these add up to 513"):
        adapter_options(513)


def test_an_error_that_refers_to_another_gives_way_to_it():
    ended = Worker(io.StringIO(), [json.dumps({"error": "RuntimeError: Engine core failed"})], lambda: "why")
    with pytest.raises(WorkerError, match=r"^vLLM failed: why$"):
        ended.load({})
    silent = Worker(io.StringIO(), [], lambda: "signal SIGKILL")
    with pytest.raises(WorkerError, match=r"^vLLM's process ended: signal SIGKILL$"):
        silent.load({})


def test_a_response_that_vllm_was_ended_in_is_no_sample():
    assert decoded([5, 6], -1.0, "length", (6,)) == ([5, 6], True, -1.0)
    for tokens, value, reason in (([5, 6], -1.0, "abort"), ([], 0.0, "stop"), ([5], float("nan"), "stop")):
        with pytest.raises(RuntimeError, match=f"did not finish a response: {reason}"):
            decoded(tokens, value, reason, (6,))


def test_the_worker_imports_nothing_of_ours_and_nothing_but_vllm():
    from tests.unit.test_house import imported

    names = {name.split(".")[0] for name in imported(Path(vllm_worker.__file__))}
    assert names - sys.stdlib_module_names == {"vllm"}


@pytest.mark.parametrize(("seen", "own"), [("4,5,6", "6"), (None, "2"), ("", "")])
def test_what_vllm_starts_sees_one_gpu_and_no_other_process(monkeypatch, seen, own):
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("PYTHONPATH", "/of/juicer")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if seen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    given = environment(Processes(rank=2, world_size=3, local_rank=2))
    assert given["CUDA_VISIBLE_DEVICES"] == own
    assert not {"WORLD_SIZE", "PYTHONPATH"} & set(given)


def test_what_a_stage_of_one_process_starts_sees_the_gpu_that_it_has_taken(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert environment(SINGLE_PROCESS)["CUDA_VISIBLE_DEVICES"] == "3"


def test_vllm_takes_what_is_free_of_a_gpu_and_no_more_than_it_is_given(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (40, 80))
    gpu = ComputeSettings(device="cuda")
    assert memory_options(gpu) == {"gpu_memory_utilization": pytest.approx(0.45)}
    assert memory_options(gpu, most=20) == {"gpu_memory_utilization": pytest.approx(0.25)}
    assert "gpu_memory_utilization" not in memory_options(CPU)


def test_rows_come_from_memory_and_are_as_ever_on_a_cpu(policy, template):
    shape = shape_of(policy)
    assert shape is not None
    one = fitting_rows(shape, 64, 0, 4)
    few, many = (fitting_rows(shape, 64, memory, 4) for memory in (3e6, 10e6))
    assert one == 1 < few < many < MOST_ROWS == fitting_rows(shape, 64, 1e12, 4)
    assert many % 64 == 0
    assert cache_bytes(shape, many, 64, 4) < 10e6
    assert rows_for(policy, SamplingSettings(), 64) == 128
    assert rows_for(policy, SamplingSettings(batch_size=7), 64) == 7


def test_on_a_gpu_all_processes_take_the_rows_of_the_one_with_least_memory(policy, monkeypatch):
    monkeypatch.setattr(type(policy), "device", torch.device("meta"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4e6, 8e6))
    for name in ("memory_reserved", "memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda device: 0)

    class Two(Processes):
        def gather(self, value):
            return [value, 3]

    alone = rows_for(policy, SamplingSettings(), 64)
    assert 3 < alone < 128
    assert rows_for(policy, SamplingSettings(), 64, Two(world_size=2)) == 3


def test_weights_are_written_with_their_adapters_and_the_policy_stays_as_it_is(policy, template, tmp_path):
    save_policy(policy, template, tmp_path / "start", None)
    policy = load_policy(tmp_path / "start", CPU)
    handle = add_adapters(policy, LoraSettings(r=2, alpha=8), seed=1)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(0))
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    write_weights(policy, tmp_path / "now", torch.float32)
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.state_dict().items())
    written = load_policy(tmp_path / "now", CPU)
    merge_adapters(handle)
    tokens = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.allclose(written(tokens).logits, policy(tokens).logits, atol=1e-4)
        assert not torch.allclose(load_policy(tmp_path / "start", CPU)(tokens).logits, policy(tokens).logits, atol=0.1)


def test_weights_that_a_killed_process_left_in_memory_are_removed_and_those_in_use_are_not(tmp_path):
    left, used, new = (tmp_path / f"juicer-weights-{name}" for name in ("left", "used", "new"))
    for folder in (left, used, new):
        folder.mkdir()
        (folder / "model.safetensors").write_text("weights")
    with FileLock(used / ".lock"):
        for folder in (left, used):
            os.utime(folder, (0, 0))
        remove_abandoned(tmp_path)
    assert (left.exists(), used.exists(), new.exists()) == (False, True, True)


def test_tied_weights_stay_tied_in_another_dtype(policy):
    policy.get_output_embeddings().weight = policy.get_input_embeddings().weight
    found = merged(policy, torch.bfloat16, Adapter())
    assert {tensor.dtype for tensor in found.values() if tensor.is_floating_point()} == {torch.bfloat16}
    wide = [tensor.data_ptr() for tensor in found.values() if tensor.shape[0] == policy.config.vocab_size]
    assert len(wide) == 2 and len(set(wide)) == 1


def test_log_probabilities_of_other_weights_are_refused():
    assert check_agreement([-10.0, -20.0], [-10.2, -19.8], [10, 10]) == pytest.approx(0.02)
    for other in ([-14.0, -20.0], [float("nan"), -20.0]):
        with pytest.raises(InputError, match="so it has other weights"):
            check_agreement([-10.0, -20.0], other, [10, 10])
