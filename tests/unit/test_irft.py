"""A round of IRFT: starts at the reference, moves towards the demonstrations and away from the samples."""

import copy
from dataclasses import replace

import pytest
import torch

from juicer.data.dialogues import Dialogue
from juicer.methods.irft import contrast_log_probabilities, irft_round, recorded_log_probabilities
from juicer.methods.pairs import Pair
from juicer.models.loading import TRAINING_DTYPE, mixed_precision
from juicer.models.log_probability import score_dialogues
from juicer.runtime.errors import InputError
from juicer.settings.compute import ComputeSettings
from juicer.settings.irft import IrftTrainingSettings
from juicer.settings.training import LoraSettings, OptimiserSettings
from juicer.training.adapters import add_adapters, merge_adapters

SETTINGS = IrftTrainingSettings(epochs=4, batch_size=4, beta=0.5, optimiser=OptimiserSettings(learning_rate=1e-3))
PAIRS = [Pair(Dialogue([5, 6 + i], [8, 9, 0]), Dialogue([5, 6 + i], [20, 21 + i, 22, 23])) for i in range(8)]


def gap(policy):
    demonstrations, samples = ([getattr(pair, side) for pair in PAIRS] for side in ("demonstration", "sample"))
    return (score_dialogues(policy, demonstrations, 1) - score_dialogues(policy, samples, 1)).mean().item()


def test_a_round_widens_the_gap_between_demonstrations_and_samples(policy):
    before = gap(policy)
    record = irft_round(policy, policy, PAIRS, SETTINGS, padding=1, seed=0)
    assert gap(policy) > before + 1
    assert record.facts["K"] == record.steps == 8
    assert record.curves["accuracy"]["value"][-1] > 0.5


def test_the_implicit_reward_is_zero_before_the_first_step(policy):
    record = irft_round(policy, policy, PAIRS, SETTINGS, padding=1, seed=0)
    assert record.curves["margin"]["value"][0] == pytest.approx(0.0, abs=1e-5)


def test_the_order_of_the_pairs_follows_from_the_seed(policy):
    settings = SETTINGS.model_copy(update={"epochs": 1, "batch_size": 1})
    curves = [irft_round(copy.deepcopy(policy), policy, PAIRS, settings, 1, seed).curves for seed in (0, 0, 1)]
    assert curves[0] == curves[1]
    assert curves[0]["demonstration_log_probability"] != curves[2]["demonstration_log_probability"]


def test_the_reference_is_read_before_the_policy_moves(policy):
    other = copy.deepcopy(policy)
    records = [
        irft_round(policy, policy, PAIRS, SETTINGS, 1, 0),
        irft_round(other, copy.deepcopy(other), PAIRS, SETTINGS, 1, 0),
    ]
    assert records[0].curves == records[1].curves


def test_micro_batches_give_the_same_policy(policy):
    other = copy.deepcopy(policy)
    irft_round(policy, policy, PAIRS, SETTINGS, 1, 0)
    irft_round(other, other, PAIRS, SETTINGS.model_copy(update={"micro_batch_size": 3}), 1, 0)
    for one, two in zip(policy.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=2e-5, rtol=1e-3)


def test_gradient_checkpointing_recomputes_and_changes_nothing(policy):
    other = copy.deepcopy(policy)
    forwards = []
    for each, on in ((policy, False), (other, True)):
        counted = []
        each.base_model.layers[0].attention.register_forward_hook(lambda *_, counted=counted: counted.append(1))
        irft_round(each, each, PAIRS, SETTINGS.model_copy(update={"gradient_checkpointing": on}), 1, 0)
        forwards.append(len(counted))
    assert forwards[1] > forwards[0]
    assert all(torch.equal(one, two) for one, two in zip(policy.parameters(), other.parameters(), strict=True))


def test_the_sft_term_raises_the_demonstrations_likelihood(policy):
    other = copy.deepcopy(policy)
    demonstrations = [pair.demonstration for pair in PAIRS]
    irft_round(policy, policy, PAIRS, SETTINGS, 1, 0)
    irft_round(other, other, PAIRS, SETTINGS.model_copy(update={"sft_weight": 5.0}), 1, 0)
    assert score_dialogues(other, demonstrations, 1).mean() > score_dialogues(policy, demonstrations, 1).mean()


def test_adapters_train_alone_and_merge_into_an_ordinary_model(policy):
    names = [name for name, _ in policy.named_parameters()]
    embedding = policy.get_input_embeddings().weight.clone()
    before = gap(policy)
    handle = add_adapters(policy, LoraSettings(r=4, alpha=8), seed=0)
    irft_round(policy, policy, PAIRS, SETTINGS, 1, 0)
    trained = gap(policy)
    merge_adapters(handle)
    assert [name for name, _ in policy.named_parameters()] == names
    assert torch.equal(policy.get_input_embeddings().weight, embedding)
    assert gap(policy) == pytest.approx(trained, abs=1e-3)
    assert trained > before


def test_response_tokens_count_both_sides_of_every_pair(policy):
    record = irft_round(policy, policy, PAIRS, SETTINGS, 1, 0)
    assert record.response_tokens == 4 * sum(len(p.demonstration.response) + len(p.sample.response) for p in PAIRS)


def test_steps_that_bf16_weights_would_lose_are_taken_in_mixed_precision(policy):
    compute = ComputeSettings(device="cpu", precision="bf16")
    small = SETTINGS.model_copy(update={"optimiser": OptimiserSettings(name="rmsprop", learning_rate=1e-6)})
    moved = []
    for weights in (torch.bfloat16, TRAINING_DTYPE):
        each = copy.deepcopy(policy).to(weights)
        before = each.base_model.layers[0].attention.dense.weight.clone()
        with mixed_precision(compute):
            record = irft_round(each, each, PAIRS, small, 1, 0)
        moved.append(float((each.base_model.layers[0].attention.dense.weight != before).float().mean()))
        # Policy and reference are one model here; how far bf16 kernels differ by batch shape is up to the processor.
        assert record.curves["margin"]["value"][0] == pytest.approx(0.0, abs=0.05)
    assert moved[0] < 0.5 < 0.99 < moved[1]


def with_recorded(policy, error=0.0):
    """The pairs with the log-probabilities that sampling would have recorded, off by `error` nats."""
    values = score_dialogues(policy, [pair.sample for pair in PAIRS], 1).tolist()
    return [replace(pair, sample_log_probability=value + error) for pair, value in zip(PAIRS, values, strict=True)]


def test_log_probabilities_recorded_while_sampling_replace_a_forward_pass(policy):
    other = copy.deepcopy(policy)
    plain = irft_round(policy, policy, PAIRS, SETTINGS, 1, 0)
    captured = irft_round(other, other, with_recorded(other, error=2e-5), SETTINGS, 1, 0)
    assert (plain.facts["captured"], captured.facts["captured"]) == (False, True)
    assert captured.curves["loss"]["value"] == pytest.approx(plain.curves["loss"]["value"], abs=1e-4)
    for one, two in zip(policy.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-3)


def test_recorded_log_probabilities_that_differ_from_teacher_forcing_are_not_used(policy):
    other = copy.deepcopy(policy)
    plain = irft_round(policy, policy, PAIRS, SETTINGS, 1, 0)
    record = irft_round(other, other, with_recorded(other, error=5e-4), SETTINGS, 1, 0)
    assert record == plain


def test_recorded_log_probabilities_are_not_used_for_another_reference(policy):
    reference = copy.deepcopy(policy)
    record = irft_round(policy, reference, with_recorded(policy), SETTINGS, 1, 0)
    assert record.facts["captured"] is False


def test_a_prompt_is_computed_once_for_both_responses_where_that_pays(policy):
    rows = list(range(len(PAIRS)))
    places = []
    policy.get_input_embeddings().register_forward_hook(lambda _, given, __: places.append(given[0].numel()))
    in_one_row = contrast_log_probabilities(policy, PAIRS, 1)(rows)
    policy.config.model_type = "another"
    in_two_rows = contrast_log_probabilities(policy, PAIRS, 1)(rows)
    assert places[0] == len(PAIRS) * 9 < sum(places[1:])
    for one, other in zip(in_one_row, in_two_rows, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-5)


def test_pairs_with_different_prompts_are_not_forked(policy):
    pairs = [Pair(PAIRS[0].demonstration, PAIRS[1].sample)]
    y, y_prime = contrast_log_probabilities(policy, pairs, 1)([0])
    expected = score_dialogues(policy, [pairs[0].demonstration, pairs[0].sample], 1)
    torch.testing.assert_close(torch.cat([y, y_prime[0]]), expected, atol=2e-5, rtol=1e-5)


SEVERAL = [
    Pair(Dialogue([5, 6 + i], [8, 9, 0]), Dialogue([5, 6 + i], [20, 21 + i + 2 * j, 22][: 2 + j]), contrast=i)
    for i in range(4)
    for j in range(2)
]


@pytest.mark.parametrize("model_type", ["gpt_neox", "another"])
def test_samples_of_one_demonstration_are_columns_of_a_row(policy, model_type):
    policy.config.model_type = model_type
    y, y_prime = contrast_log_probabilities(policy, SEVERAL, 1)([2, 0])
    expected = score_dialogues(policy, [SEVERAL[place].demonstration for place in (4, 0)], 1)
    torch.testing.assert_close(y, expected, atol=2e-5, rtol=1e-5)
    columns = score_dialogues(policy, [SEVERAL[place].sample for place in (4, 5, 0, 1)], 1).view(2, 2)
    torch.testing.assert_close(y_prime, columns, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("contrast", ["mean", "best"])
def test_k_counts_demonstrations_and_the_record_counts_all_tokens(policy, contrast):
    settings = SETTINGS.model_copy(update={"epochs": 3, "batch_size": 2, "contrast": contrast})
    record = irft_round(policy, policy, SEVERAL, settings, 1, 0)
    assert (record.steps, record.facts["K"], record.facts["pairs"]) == (6, 6, 8)
    assert record.facts["samples_per_demonstration"] == 2
    assert record.response_tokens == 3 * 4 * (3 + 2 + 3)


def test_the_mean_over_samples_is_the_mean_of_their_pairs(policy):
    """The first step with two samples has the gradient of both pairs, half each."""
    one, other = copy.deepcopy(policy), copy.deepcopy(policy)
    settings = SETTINGS.model_copy(update={"epochs": 1, "batch_size": 4})
    together = irft_round(one, one, SEVERAL, settings, 1, 0)
    alone = [replace(pair, contrast=None) for pair in SEVERAL]
    apart = irft_round(other, other, alone, settings.model_copy(update={"batch_size": 8}), 1, 0)
    assert together.curves["gradient_norm"]["value"] == pytest.approx(apart.curves["gradient_norm"]["value"], rel=1e-5)


def test_demonstrations_with_different_numbers_of_samples_are_refused(policy):
    with pytest.raises(InputError, match="some demonstrations have 1 samples and others 2"):
        irft_round(policy, policy, SEVERAL[1:], SETTINGS, 1, 0)


def test_log_probabilities_of_replayed_samples_are_computed_beside_recorded_ones(policy):
    recorded = with_recorded(policy)
    some = [replace(pair, sample_log_probability=None) if row % 2 else pair for row, pair in enumerate(recorded)]
    values = recorded_log_probabilities(policy, some, 1)
    assert values is not None
    expected = torch.tensor([pair.sample_log_probability for pair in recorded])
    torch.testing.assert_close(values, expected, atol=1e-4, rtol=0)


def test_nothing_is_recorded_where_all_samples_are_of_earlier_policies(policy):
    assert recorded_log_probabilities(policy, PAIRS, 1) is None
