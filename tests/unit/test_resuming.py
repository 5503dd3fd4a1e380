"""A run that is interrupted and resumed gives the same bytes as an uninterrupted one."""

import copy
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch
from transformers import Trainer
from transformers.training_args import ParallelMode

from juicer.data.dialogues import Dialogue
from juicer.methods.irft import irft_round
from juicer.methods.pairs import Pair
from juicer.methods.policy_alignment import align_policy
from juicer.methods.reward import load_reward, train_reward
from juicer.methods.sft import train_sft
from juicer.methods.sft_variants import train_variant
from juicer.models.loading import save_policy
from juicer.runtime.context import WorkContext
from juicer.runtime.memo import CheckpointedMemo
from juicer.sampling import decoding
from juicer.sampling.decoding import decode
from juicer.settings.compute import ComputeSettings
from juicer.settings.irft import IrftTrainingSettings
from juicer.settings.rft import PolicyAlignmentSettings, RewardSettings
from juicer.settings.sft import SftSettings
from juicer.settings.training import LoraSettings, OptimiserSettings, SamplingSettings
from juicer.training.loop import shuffled_batches, train_loop
from juicer.training.passes import PADDED, Passes, before_training
from juicer.training.record import TrainingRecord
from juicer.training.state import load_progress, save_progress
from juicer.training.trainer import LocalGpuRandomState

COMPUTE = ComputeSettings(threads=1, device="cpu")
PACKED = Passes(packed=True, tokens=24)
ADAM = OptimiserSettings(learning_rate=1e-3, warmup_ratio=0.3)
DIALOGUES = [Dialogue([5, 6, 7 + i], [9 + i, 11, 12 + i % 3, 0]) for i in range(10)]
PAIRS = [Pair(each, Dialogue(each.prompt, each.response[::-1])) for each in DIALOGUES]


class Interrupted(Exception):
    """The test interrupts the run."""


class InterruptsAfter:
    """A checkpoint that interrupts the run at the `count`-th call of `due`; with 0 it never does."""

    def __init__(self, folder, count):
        self.folder, self.count = folder, count

    def latest(self):
        return self.folder if self.folder.is_dir() else None

    def due(self):
        self.count -= 1
        return self.count == 0

    def save(self, write):
        self.folder.mkdir()
        write(self.folder)
        raise Interrupted


@pytest.fixture
def interrupted(tmp_path):
    """Runs work without a checkpoint and, from the same start, interrupted and resumed; returns both results."""

    def run(work, start, interrupt_after):
        whole = work(copy.deepcopy(start), None)
        with pytest.raises(Interrupted):
            work(copy.deepcopy(start), InterruptsAfter(tmp_path / "kept", interrupt_after))
        torch.rand(3)  # whatever else the new process has drawn
        return whole, work(copy.deepcopy(start), InterruptsAfter(tmp_path / "kept", 0))

    return run


def assert_same(one, two):
    (model, record), (other_model, other_record) = one, two
    assert asdict(record) == asdict(other_record)
    weights, others = model.state_dict(), other_model.state_dict()
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.parametrize("name", ["adamw", "rmsprop"])
def test_a_resumed_training_loop_restores_optimiser_schedule_order_and_random_state(interrupted, name):
    def work(model, checkpoint):
        def loss_of(rows):
            x = torch.tensor([[float(row)] for row in rows])
            record.response_tokens += len(rows)
            return (model(x) - x + torch.rand(len(rows), 1))[:, 0] ** 2, {
                "first": torch.tensor([float(rows[0])] * len(rows))
            }

        torch.manual_seed(4)
        record = TrainingRecord("test")
        settings = OptimiserSettings(name=name, learning_rate=0.1, warmup_ratio=0.3)
        train_loop(
            model, shuffled_batches(8, 2, 2, 0), 8, loss_of, settings, 1, record, WorkContext(checkpoint=checkpoint)
        )
        return model, record

    whole, parts = interrupted(work, torch.nn.Linear(1, 3), interrupt_after=5)
    assert_same(whole, parts)
    assert parts[1].steps == 8
    assert parts[1].curves["loss"]["step"] == list(range(1, 9))


@pytest.mark.parametrize("on_gpu", [False, True])
def test_only_the_random_state_of_the_gpu_in_use_is_saved(tmp_path, monkeypatch, on_gpu):
    class Gpu:
        state = torch.tensor([1, 2, 3], dtype=torch.uint8)

    def put_back(state):
        Gpu.state = state

    def refused(*_):
        raise AssertionError("opens a context on every GPU")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: on_gpu)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: Gpu.state if on_gpu else refused())
    monkeypatch.setattr(torch.cuda, "set_rng_state", put_back if on_gpu else refused)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", refused)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", refused)
    schedule = torch.optim.lr_scheduler.ConstantLR(torch.optim.SGD([torch.zeros(1)]))
    record = TrainingRecord("test")
    save_progress(tmp_path, schedule, record)
    expected = torch.rand(3)
    Gpu.state = torch.zeros(3, dtype=torch.uint8)
    load_progress(tmp_path, schedule, record)
    assert torch.equal(torch.rand(3), expected)
    assert Gpu.state.tolist() == ([1, 2, 3] if on_gpu else [0, 0, 0])


def test_a_trainer_in_a_distributed_run_opens_no_context_on_other_gpus(tmp_path, monkeypatch):
    class Launched(LocalGpuRandomState, Trainer):
        def __init__(self):
            self.args = SimpleNamespace(parallel_mode=ParallelMode.DISTRIBUTED, world_size=2, process_index=1)

    asked = []

    def refused(*_):
        raise AssertionError("opens a context on every GPU")

    random, trainer = torch.cuda.random, Launched()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(random, "get_rng_state", lambda: torch.tensor([7], dtype=torch.uint8))
    monkeypatch.setattr(random, "set_rng_state", lambda state: asked.append(state.tolist()))
    monkeypatch.setattr(random, "get_rng_state_all", refused)
    monkeypatch.setattr(random, "set_rng_state_all", refused)
    trainer._save_rng_state(str(tmp_path))
    trainer._load_rng_state(str(tmp_path))
    assert asked == [[7]]
    assert random.get_rng_state_all is refused


def test_a_resumed_round_keeps_the_passes_in_which_its_reference_was_computed(interrupted, policy, monkeypatch):
    settings = IrftTrainingSettings(epochs=2, batch_size=4, optimiser=ADAM)
    found = iter([24, 24, 48])  # other memory is free when the third run starts
    monkeypatch.setattr("juicer.training.passes.tokens_per_pass", lambda *_: next(found))
    seen = []

    def listed(compute, batches, tokens, *rest):
        seen.append(tokens)
        return before_training(compute, batches, tokens, *rest)

    monkeypatch.setattr("juicer.methods.irft.before_training", listed)
    passes = Passes(packed=True, copies=True)

    def work(model, checkpoint):
        return model, irft_round(model, model, PAIRS, settings, 1, 0, WorkContext(checkpoint=checkpoint), passes)

    assert_same(*interrupted(work, policy, interrupt_after=3))
    assert seen == [24, 24, 24]


@pytest.mark.parametrize("passes", [PADDED, PACKED, replace(PACKED, copies=True)], ids=["padded", "packed", "bf16"])
def test_a_resumed_round_of_irft_gives_the_same_bytes(interrupted, policy, passes):
    settings = IrftTrainingSettings(epochs=2, batch_size=4, optimiser=ADAM)

    def work(model, checkpoint):
        return model, irft_round(model, model, PAIRS, settings, 1, 0, WorkContext(checkpoint=checkpoint), passes)

    assert_same(*interrupted(work, policy, interrupt_after=3))


def test_a_resumed_reward_gives_the_same_bytes(interrupted, policy, template, tmp_path):
    save_policy(policy, template, tmp_path / "sft", None)
    settings = RewardSettings(epochs=2, batch_size=4, frozen_blocks=1, optimiser=ADAM)

    def work(model, checkpoint):
        return model, train_reward(model, PAIRS, settings, 1, 0, WorkContext(checkpoint=checkpoint))

    assert_same(*interrupted(work, load_reward(tmp_path / "sft", COMPUTE, 0), interrupt_after=2))


@pytest.mark.parametrize(("lora", "interrupt_after"), [(None, 2), (None, 6), (LoraSettings(r=2, dropout=0.1), 5)])
def test_sft_resumed_within_or_after_the_first_epoch_gives_the_same_bytes(
    interrupted, policy, template, tmp_path, lora, interrupt_after
):
    settings = SftSettings(epochs=3, batch_size=4, micro_batch_size=2, optimiser=ADAM, lora=lora)

    def work(model, checkpoint):
        scratch, context = tmp_path / "scratch", WorkContext(checkpoint=checkpoint)
        watched = DIALOGUES[:3]
        return model, train_sft(model, template, DIALOGUES, settings, COMPUTE, 0, scratch, context, watched=watched)

    assert_same(*interrupted(work, policy, interrupt_after))


@pytest.mark.parametrize("lora", [None, LoraSettings(r=2)])
@pytest.mark.parametrize("objective", ["gem", "dft"])
def test_sft_by_another_objective_resumed_in_the_second_epoch_gives_the_same_bytes(
    interrupted, policy, objective, lora
):
    settings = SftSettings(objective=objective, epochs=3, batch_size=4, micro_batch_size=2, optimiser=ADAM, lora=lora)
    samples = [[Dialogue(each.prompt, each.response[::-1]), Dialogue(each.prompt, [7, 0])] for each in DIALOGUES]
    given = samples if objective == "dft" else []

    def work(model, checkpoint):
        context = WorkContext(checkpoint=checkpoint)
        return model, train_variant(model, DIALOGUES, given, settings, 1, COMPUTE, 0, context, watched=DIALOGUES[:3])

    assert_same(*interrupted(work, policy, interrupt_after=4))


@pytest.mark.parametrize(("lora", "interrupt_after"), [(None, 2), (None, 3), (LoraSettings(r=2), 3)])
def test_policy_alignment_resumed_within_or_after_the_first_pass_gives_the_same_bytes(
    interrupted, policy, template, tmp_path, lora, interrupt_after
):
    save_policy(policy, template, tmp_path / "sft", None)
    reward = load_reward(tmp_path / "sft", COMPUTE, seed=3)
    settings = PolicyAlignmentSettings(steps=5, prompts_per_step=4, samples_per_prompt=2, optimiser=ADAM, lora=lora)
    prompts = [[{"role": "user", "content": f"hello {number}"}] for number in range(9)]

    def work(model, checkpoint):
        record = align_policy(model, tmp_path / "sft", reward, (0.0, 1.0), template, prompts, settings, COMPUTE, 0,
                              tmp_path / "scratch", WorkContext(checkpoint=checkpoint))  # fmt: skip
        return model, record

    assert_same(*interrupted(work, policy, interrupt_after))


def test_a_resumed_run_does_not_sample_finished_batches_again(policy, template, tmp_path, monkeypatch):
    prompts = [(str(number), [5, 6, 7 + number]) for number in range(6)]
    settings = SamplingSettings(batch_size=2)
    sampled: list[int] = []
    monkeypatch.setattr(decoding, "decode", lambda *given: sampled.append(1) or decode(*given))

    def sample(interrupt_after):
        context = WorkContext(memo=CheckpointedMemo(InterruptsAfter(tmp_path / "kept", interrupt_after)))
        return decoding.sample_responses(policy, template, prompts, settings, 0, context)

    whole = decoding.sample_responses(policy, template, prompts, settings, 0)
    with pytest.raises(Interrupted):
        sample(interrupt_after=2)
    sampled.clear()
    assert sample(interrupt_after=0) == whole
    assert len(sampled) == 1
