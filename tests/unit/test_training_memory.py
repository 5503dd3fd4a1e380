"""`micro_batch_size: auto` takes what fits by the plan's arithmetic, the same on every machine that is large enough."""

import platform
from dataclasses import replace

import psutil
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from juicer.models.shape import Shape
from juicer.planning.costs import shape_of, training_of
from juicer.runtime.devices import GIB
from juicer.runtime.memory import return_freed
from juicer.runtime.processes import Processes
from juicer.settings.training import LoraSettings, OptimiserSettings
from juicer.training import loop, memory
from juicer.training.adapters import add_adapters
from juicer.training.loop import micro_batches, train_loop
from juicer.training.memory import CPU_BUDGET, Step, Training, micro_batch, training_of_model
from juicer.training.record import TrainingRecord

SMOL = Shape("smol", 134_515_008, 0, 28_311_552, 30, 576, 3072, 192, 49_152, 2048, 10**6, 3_540_096)
STEP = Step(Training(SMOL, SMOL.parameters, 1.0, False, "adamw"), 1, 200, 64, in_chunks=True, bytes_=4, on_cpu=True)
SIZE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture
def machine(monkeypatch):
    def of(total: float, free: float | None = None) -> None:
        monkeypatch.setattr(memory, "main_memory", lambda: (total, total if free is None else free))

    return of


def tiny():
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, **SIZE)).eval()


def test_a_number_and_the_whole_share_are_taken_as_they_are():
    assert micro_batch(3, 32, STEP) == 3
    assert micro_batch(None, 32, STEP) == 32
    assert micro_batch(None, 32, STEP, Processes(0, 4)) == 8
    assert micro_batch("auto", 32, None) == 32  # nobody knows what the architecture takes


def test_a_small_model_takes_the_whole_batch(machine):
    machine(8 * GIB)
    how = training_of_model(tiny(), "adamw", recomputed=False)
    assert how is not None
    assert micro_batch("auto", 32, replace(STEP, training=how)) == 32


def test_a_larger_one_takes_the_largest_part_that_fits_on_every_machine_of_8_gb_or_more(machine):
    taken = set()
    for total in (8 * GIB, 64 * GIB, 512 * GIB):
        machine(total)
        taken.add(micro_batch("auto", 16, STEP))
    (micro,) = taken
    assert 1 < micro < 16 and 16 % micro == 0
    assert STEP.peak(micro) <= CPU_BUDGET < STEP.peak(2 * micro)


def test_it_does_not_exceed_what_is_free(machine):
    machine(64 * GIB, free=1 * GIB)
    assert micro_batch("auto", 16, STEP) == 1


def test_a_large_model_may_take_more_than_the_budget(machine):
    machine(64 * GIB)
    large = replace(SMOL, parameters=10**9)
    step = replace(STEP, training=replace(STEP.training, shape=large, trained=10**9))
    assert step.peak(0) > CPU_BUDGET and micro_batch("auto", 64, step) > 1


def test_a_loaded_model_is_counted_as_a_plan_counts_its_configuration():
    model = tiny()
    planned = training_of(shape_of("LlamaForCausalLM", model.config, "policy"), "adamw")
    assert training_of_model(model, "adamw", recomputed=False) == planned
    lora = LoraSettings(r=4)
    add_adapters(model, lora, seed=0)
    with_adapters = training_of(planned.shape, "adamw", lora=lora)
    found = training_of_model(model, "adamw", recomputed=False)
    assert found is not None
    assert (found.trained, found.shape.parameters) == (with_adapters.trained, planned.shape.parameters)


def test_several_micro_batches_take_the_rows_by_length():
    lengths = [5, 1, 9, 3]
    assert [rows for rows, _ in micro_batches([0, 1, 2, 3], 2, lengths=lengths)] == [[2, 0], [3, 1]]
    # The whole batch keeps its order, and with it its last bits.
    assert [rows for rows, _ in micro_batches([0, 1, 2, 3], 4, lengths=lengths)] == [[0, 1, 2, 3]]


def test_a_checkpoint_goes_on_with_its_micro_batches(monkeypatch, tmp_path):
    from juicer.runtime.context import WorkContext

    class Kept:
        """A checkpoint that is due after the second step, as the first run is cancelled."""

        folder, cancelled = tmp_path, False

        def latest(self):
            return tmp_path if self.cancelled else None

        def due(self):
            return not self.cancelled and len(passes) >= 2

        def save(self, write):
            write(tmp_path)
            self.cancelled = True
            raise KeyboardInterrupt

    passes = []
    monkeypatch.setattr(loop, "micro_batches", lambda rows, micro, *rest: passes.append(micro) or [(rows, len(rows))])
    model = torch.nn.Linear(1, 1)

    def loss_of(rows):
        return model(torch.ones(len(rows), 1))[:, 0], {}

    def run(micro):
        settings, record = OptimiserSettings(learning_rate=0.1), TrainingRecord("test")
        batches, context = [[0, 1]] * 4, WorkContext(checkpoint=kept)
        train_loop(model, batches, 4, loss_of, settings, micro, record, context)
        return record

    kept = Kept()
    with pytest.raises(KeyboardInterrupt):
        run(2)
    assert run(1).facts["micro_batch_size"] == 2  # another machine would have taken 1
    assert passes == [2, 2, 2, 2]


BLOCK = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4, "vocab_size": 64}


def saved_bytes(kind: str, layers: int, **values) -> float:
    """Bytes per token that the blocks of a bf16 model keep for the backward pass."""
    config = AutoConfig.for_model(kind, num_hidden_layers=layers, **BLOCK, **values)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").bfloat16()
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor):
        if (storage := tensor.untyped_storage()).data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    given = torch.randn(1, 64, 128, dtype=torch.bfloat16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.base_model(inputs_embeds=given, use_cache=False)
    return sum(storage.nbytes() for storage in kept.values()) / 64


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("llama", {"num_key_value_heads": 2}),
        ("mistral", {"num_key_value_heads": 1}),
        ("qwen3", {"num_key_value_heads": 2, "head_dim": 32}),
        ("gpt_neox", {}),
        ("gpt_neox", {"use_parallel_residual": False}),
    ],
)
def test_the_bytes_of_a_block_are_those_that_torch_keeps_for_its_backward_pass(kind, values):
    config = AutoConfig.for_model(kind, num_hidden_layers=1, **BLOCK, **values)
    found = saved_bytes(kind, 3, **values) - saved_bytes(kind, 2, **values)
    assert shape_of(kind, config, "policy").block_bytes(2, 2) == pytest.approx(found, rel=0.06)


ON_GPU = Step(Training(SMOL, SMOL.parameters, 1.0, False, "adamw"), 1, 200, 64, in_chunks=True, bytes_=2)


def test_float32_hidden_states_and_casts_take_more_than_bf16_copies_do():
    cast, copied = (replace(ON_GPU, copies=copies) for copies in (False, True))
    state = [each.packed_peak(0) for each in (cast, copied)]
    per_token = [each.packed_peak(1000) - each.packed_peak(0) for each in (cast, copied)]
    # Both hold 2 bytes a weight beside float32; the copies have a gradient besides.
    assert state[1] - state[0] == 2 * SMOL.embedding + 2 * SMOL.head
    assert per_token[0] > per_token[1]


def test_rmsprop_takes_the_root_of_all_moments_at_once_and_fused_adamw_nothing():
    rmsprop, adamw = (
        replace(ON_GPU, training=replace(ON_GPU.training, optimiser=name, recomputed=True))
        for name in ("rmsprop", "adamw")
    )
    assert adamw.peak(0) - rmsprop.peak(0) == pytest.approx(0)  # a moment more, and a temporary less
    cpu = [replace(each, on_cpu=True).peak(0) for each in (adamw, rmsprop)]
    assert cpu[0] - cpu[1] == 4 * SMOL.parameters


def test_a_sharded_model_is_whole_while_it_is_loaded():
    large = replace(SMOL, parameters=10**10)
    how = replace(ON_GPU.training, shape=large, trained=10**8, lora=True, recomputed=True)
    sharded = replace(ON_GPU, training=how, devices=64, zero_stage=3)
    assert sharded.peak(1) == 4 * 10**10 + GIB
    assert replace(sharded, on_cpu=True).peak(1) < 10**10


def test_a_frozen_base_in_fewer_bits_takes_less_and_its_adapters_stay_float32():
    shape = shape_of("tiny", tiny().config, "policy")
    weights = [training_of(shape, "adamw", lora=LoraSettings(r=4), base=base).weights() for base in ("bf16", "nf4")]
    adapters = 4 * 4 * shape.adapters
    assert weights[0] == 2 * shape.parameters + adapters
    blocks = shape.layers * shape.block
    assert weights[1] == pytest.approx(weights[0] - (2 - 0.55) * blocks)


def test_a_packed_pass_takes_what_fits_in_multiples_of_512_and_one_row_at_least():
    budget = ON_GPU.packed_peak(5000)
    tokens = ON_GPU.packed_tokens(65_536, budget)
    assert tokens % 512 == 0 and tokens <= 5000 < tokens + 512
    assert ON_GPU.packed_tokens(2048, budget) == 2048
    assert replace(ON_GPU, sequences=4).packed_tokens(65_536, 0) == 1024  # 800 tokens that are not divided


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries return it themselves")
def test_what_was_freed_between_allocations_that_stay_goes_back_to_the_system():
    pieces = [bytearray(8192) for _ in range(20_000)]
    held = psutil.Process().memory_info().rss
    del pieces[1::2]
    del pieces[: len(pieces) // 2]
    return_freed()
    assert held - psutil.Process().memory_info().rss > 8192 * 10_000
