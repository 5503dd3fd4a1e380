"""Training on packed rows: the same steps as on padded ones, and in bf16 the same numbers as before the first step."""

import copy
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from juicer.data.dialogues import Dialogue
from juicer.methods.irft import irft_round
from juicer.methods.pairs import Pair
from juicer.methods.reward import load_reward, train_reward
from juicer.methods.sft_variants import train_variant
from juicer.models.loading import mixed_precision
from juicer.models.log_probability import score_dialogues
from juicer.models.packing import packed_passes
from juicer.runtime.context import WorkContext
from juicer.runtime.errors import InputError
from juicer.runtime.processes import Processes
from juicer.settings.compute import ComputeSettings
from juicer.settings.irft import IrftTrainingSettings
from juicer.settings.rft import RewardSettings
from juicer.settings.sft import SftSettings
from juicer.settings.training import LoraSettings, OptimiserSettings
from juicer.stages.fine_tuning import has_dropout
from juicer.training.adapters import add_adapters, merge_adapters
from juicer.training.masters import Masters
from juicer.training.passes import PADDED, Passes, before_training, passes_of, token_passes

PAIRS = [
    Pair(Dialogue([5, 6 + i, 7][: 1 + i % 3], [8, 9, 0]), Dialogue([5, 6 + i, 7][: 1 + i % 3], [20, 21 + i, 22, 23]))
    for i in range(8)
]
RATE = OptimiserSettings(learning_rate=1e-3)
IRFT = IrftTrainingSettings(epochs=4, batch_size=4, beta=0.5, optimiser=RATE)
COMPUTE = ComputeSettings(device="cpu")
PACKED = Passes(packed=True, tokens=30)
LOWER = replace(PACKED, copies=True)
CURVES = {"atol": 2e-4, "rtol": 2e-3}


def close(one, two):
    """Whether all curves of two records are the same but for rounding, which decides the accuracy of equal rewards."""
    assert one.curves.keys() == two.curves.keys()
    for name, curve in ((name, curve) for name, curve in one.curves.items() if name != "accuracy"):
        values, others = (torch.tensor(each["value"]) for each in (curve, two.curves[name]))
        torch.testing.assert_close(values, others, **CURVES, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("more", [{}, {"gradient_checkpointing": True}, {"objective": "space"}])
def test_a_round_of_irft_takes_the_same_steps_on_packed_rows(policy, more):
    other, settings = copy.deepcopy(policy), IRFT.model_copy(update=more)
    padded = irft_round(policy, policy, PAIRS, settings, 1, 0)
    packed = irft_round(other, other, PAIRS, settings, 1, 0, passes=PACKED)
    close(padded, packed)
    assert packed.facts["tokens_per_pass"] == 30
    assert "tokens_per_pass" not in padded.facts
    for one, two in zip(policy.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=2e-5, rtol=1e-3)


def test_a_reward_takes_the_same_steps_on_packed_rows(policy, tmp_path):
    policy.save_pretrained(tmp_path / "trunk")
    settings = RewardSettings(epochs=3, batch_size=4, optimiser=RATE)
    records = [
        train_reward(load_reward(tmp_path / "trunk", COMPUTE, 0), PAIRS, settings, 1, 0, passes=each)
        for each in (PADDED, PACKED)
    ]
    close(*records)
    assert records[1].facts["normaliser_mean"] == pytest.approx(records[0].facts["normaliser_mean"], abs=1e-4)


def test_a_reward_trains_with_bf16_copies_on_padded_rows_too(policy, tmp_path):
    policy.save_pretrained(tmp_path / "trunk")
    settings = RewardSettings(epochs=3, batch_size=4, optimiser=RATE)
    curves = [
        train_reward(load_reward(tmp_path / "trunk", COMPUTE, 0), PAIRS, settings, 1, 0, passes=each).curves["loss"]
        for each in (PADDED, Passes(copies=True))
    ]
    assert curves[0]["value"] != curves[1]["value"] == pytest.approx(curves[0]["value"], abs=0.05)


@pytest.mark.parametrize("objective", ["nll", "gem", "dft"])
def test_sft_takes_the_same_steps_on_packed_rows(policy, objective):
    other = copy.deepcopy(policy)
    rows = [pair.demonstration for pair in PAIRS]
    samples = [[pair.sample] for pair in PAIRS] if objective == "dft" else []
    settings = SftSettings(objective=objective, epochs=2, batch_size=4, optimiser=RATE, dft={"samples": 1})
    given = (rows, samples, settings, 1, COMPUTE, 0)
    close(
        train_variant(policy, *given, watched=rows[:3]), train_variant(other, *given, watched=rows[:3], passes=PACKED)
    )


def test_the_likelihood_is_a_mean_over_the_tokens_of_a_batch(policy):
    rows = [Dialogue([5], [8, 0]), Dialogue([5], [9, 10, 11, 0])]
    settings = SftSettings(epochs=1, batch_size=2, optimiser=RATE)
    wanted = -float(score_dialogues(policy, rows, 1).sum()) / 6
    record = train_variant(policy, rows, [], settings, 1, COMPUTE, 0, passes=PACKED)
    assert record.curves["loss"]["value"][0] == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("passes", [LOWER, replace(PACKED, tokens=16), PACKED])
def test_in_bf16_the_implicit_reward_is_exactly_zero_at_the_start_of_a_round(policy, passes):
    with mixed_precision(ComputeSettings(device="cpu", precision="bf16")):
        record = irft_round(policy, policy, PAIRS, IRFT, 1, 0, passes=passes)
    assert record.curves["margin"]["value"][0] == 0.0
    assert record.curves["loss"]["value"][0] == pytest.approx(math.log(2), rel=1e-5)
    assert record.facts["precision"] == "bf16"


def test_bf16_in_other_passes_differs_by_less_than_a_twentieth_of_a_nat(policy):
    dialogues = [each for pair in PAIRS for each in (pair.demonstration, pair.sample)]
    masters = Masters(policy)
    with masters.entered(), packed_passes(policy):
        found = [score_dialogues(policy, dialogues, 1, tokens=tokens) for tokens in (8, 16, 64, 512)]
    assert max(float((each - found[0]).abs().max()) for each in found) < 0.05


def test_a_step_too_small_for_bf16_is_kept_by_the_masters(policy):
    before = {name: weight.detach().clone() for name, weight in policy.named_parameters()}
    small = IRFT.model_copy(update={"optimiser": OptimiserSettings(name="rmsprop", learning_rate=1e-6)})
    with mixed_precision(ComputeSettings(device="cpu", precision="bf16")):
        irft_round(policy, policy, PAIRS, small, 1, 0, passes=LOWER)
    moved = {name: weight != before[name] for name, weight in policy.named_parameters()}
    weight = "gpt_neox.layers.0.attention.dense.weight"
    assert policy.get_parameter(weight).dtype == torch.float32
    assert float(moved[weight].float().mean()) > 0.99


def test_bf16_copies_take_the_steps_of_float32_but_for_rounding(policy):
    other = copy.deepcopy(policy)
    exact = irft_round(policy, policy, PAIRS, IRFT, 1, 0, passes=PACKED)
    lower = irft_round(other, other, PAIRS, IRFT, 1, 0, passes=LOWER)
    assert lower.curves["margin"]["value"][-1] == pytest.approx(exact.curves["margin"]["value"][-1], rel=0.05)
    assert lower.facts["weights"] == "bf16"


def test_adapters_train_alone_in_packed_passes_over_a_base_in_bf16(policy):
    base = copy.deepcopy(policy).to(torch.bfloat16)
    before = base.get_parameter("gpt_neox.layers.0.attention.dense.weight").clone()
    handle = add_adapters(base, LoraSettings(r=4, alpha=8), 0)
    with mixed_precision(ComputeSettings(device="cpu", precision="bf16")):
        record = irft_round(base, base, PAIRS, IRFT, 1, 0, passes=LOWER)
    trained = {name: weight.dtype for name, weight in base.named_parameters() if weight.requires_grad}
    assert trained
    assert all("lora" in name for name in trained)
    frozen = next(
        weight for name, weight in base.named_parameters() if name.endswith("0.attention.dense.base_layer.weight")
    )
    assert torch.equal(frozen, before)
    assert record.curves["margin"]["value"][0] == 0.0
    assert record.curves["margin"]["value"][-1] > 0.01
    merge_adapters(handle)


def test_masters_give_the_weights_back_with_frozen_ones_untouched(policy):
    frozen = policy.get_input_embeddings().weight.requires_grad_(False)
    before, masters = frozen.detach().clone(), Masters(policy)
    with masters.entered():
        assert {weight.dtype for weight in policy.parameters()} == {torch.bfloat16}
        assert {master.dtype for master in masters.named.values()} == {torch.float32}
        for master in masters.named.values():
            master.data.add_(1e-7)
        masters.renew()
    assert torch.equal(frozen, before)
    assert "gpt_neox.embed_in.weight" not in masters.named


def test_gradients_of_several_passes_are_summed_in_float32(policy):
    masters = Masters(policy)
    with masters.entered():
        weight = policy.get_parameter("gpt_neox.layers.0.attention.dense.weight")
        for value in (1.0, 2**-10):  # their sum has more digits than bf16
            (weight * torch.full_like(weight, value)).sum().backward()
        assert weight.grad is None
        assert float(masters.named["gpt_neox.layers.0.attention.dense.weight"].grad[0, 0]) == 1 + 2**-10


LENGTHS = [9, 4, 7, 2, 5, 3, 8, 6]


def test_passes_hold_every_row_once_within_their_tokens():
    passes = token_passes([*range(8)], 12, LENGTHS)
    assert sorted(row for rows, _ in passes for row in rows) == [*range(8)]
    assert all(sum(LENGTHS[row] for row in rows) <= 12 for rows, _ in passes)
    assert [counted for _, counted in passes] == [len(rows) for rows, _ in passes]
    assert len(passes) == math.ceil(sum(LENGTHS) / 12)


def test_a_row_longer_than_a_pass_has_one_of_its_own():
    assert token_passes([0, 3], 5, LENGTHS) == [([0], 1), ([3], 1)]


def test_processes_share_a_batch_by_its_tokens_and_run_as_many_passes():
    shares = [token_passes([*range(7)], 10, LENGTHS, Processes(rank, 2)) for rank in range(2)]
    counted = [row for share in shares for rows, count in share for row in rows[:count]]
    assert sorted(counted) == [*range(7)]
    tokens = [sum(LENGTHS[row] for rows, count in share for row in rows[:count]) for share in shares]
    assert abs(tokens[0] - tokens[1]) <= 2
    assert len(shares[0]) == len(shares[1])


def test_a_process_without_rows_repeats_one_that_does_not_count():
    assert token_passes([3], 10, LENGTHS, Processes(1, 2)) == [([3], 0)]


def test_values_before_training_come_from_the_passes_in_which_training_meets_the_rows():
    seen = []

    def compute(rows):
        seen.append(tuple(rows))
        return [10 * row for row in rows]

    batches = [[2, 0], [1, 2], [0, 1]]  # the third is of a second epoch
    assert before_training(compute, batches, 100, LENGTHS[:3]) == [0, 10, 20]
    assert seen == [tuple(rows) for batch in batches[:2] for rows, _ in token_passes(batch, 100, LENGTHS)]


def test_rows_that_a_part_of_an_epoch_does_not_meet_have_a_value_too(policy):
    assert before_training(lambda rows: [10 * row for row in rows], [[2]], 100, LENGTHS[:4]) == [0, 10, 20, 30]
    half = irft_round(policy, policy, PAIRS, IRFT.model_copy(update={"epochs": 0.5}), 1, 0, passes=PACKED)
    assert half.steps == 1


def test_values_before_training_are_remembered_by_an_interrupted_run():
    kept = iter([[5, 6]])
    context = WorkContext(memo=lambda compute: next(kept))
    assert sorted(before_training(lambda rows: [], [[0, 1]], 100, [3, 3], context)) == [5, 6]


def test_a_cpu_pads_unless_the_recipe_packs(policy):
    assert passes_of(COMPUTE, policy) == PADDED
    packed = passes_of(ComputeSettings(device="cpu", packing=True, precision="bf16", tokens_per_pass=64), policy)
    assert packed == Passes(packed=True, tokens=64)
    lower = passes_of(ComputeSettings(device="cpu", packing=True, precision="bf16", weights="bf16"), policy)
    assert lower.copies


def test_packing_that_a_model_cannot_do_is_refused_where_it_is_asked_for(policy, monkeypatch):
    monkeypatch.setattr("juicer.training.passes.can_pack", lambda model: False)
    with pytest.raises(InputError, match=r"set compute\.packing to auto or false"):
        passes_of(ComputeSettings(device="cpu", packing=True), policy)


@pytest.mark.parametrize(
    ("lora", "model", "dropout"),
    [(None, 0.0, False), (LoraSettings(dropout=0.1), 0.0, True), (LoraSettings(), 0.0, False), (None, 0.1, True)],
)
def test_sft_with_dropout_is_left_to_trl_s_trainer(policy, lora, model, dropout):
    for module in policy.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = model
    assert has_dropout(policy, SftSettings(optimiser=RATE, lora=lora)) == dropout


@pytest.fixture
def on_gpu(monkeypatch):
    """A model on a GPU with bf16, as far as the choice of passes goes; it packs if the argument is true."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: True)
    return lambda packs: SimpleNamespace(device=SimpleNamespace(type="cuda"), _juicer_packs=packs)


@pytest.mark.parametrize(
    ("attention", "packed"),
    [("auto", True), ("varlen", True), ("sdpa", False), ("eager", False), ("flash_attention_2", False)],
)
def test_rows_are_packed_only_where_the_recipe_asks_for_no_other_attention(on_gpu, attention, packed):
    assert passes_of(ComputeSettings(attention=attention), on_gpu(True)).packed == packed


def test_varlen_that_a_recipe_asks_for_is_not_replaced_by_padded_rows(on_gpu):
    with pytest.raises(InputError, match="packed rows in bf16, and SimpleNamespace cannot be packed"):
        passes_of(ComputeSettings(attention="varlen"), on_gpu(False))
    with pytest.raises(InputError, match="packed rows in bf16, and it computes in fp32"):
        passes_of(ComputeSettings(attention="varlen", precision="fp32"), on_gpu(True))


def test_a_deterministic_run_is_not_compiled_unless_its_recipe_says_so(on_gpu):
    assert passes_of(ComputeSettings(), on_gpu(True)).compiled
    assert not passes_of(ComputeSettings(deterministic=True), on_gpu(True)).compiled
    assert passes_of(ComputeSettings(deterministic=True, compile=True), on_gpu(True)).compiled
