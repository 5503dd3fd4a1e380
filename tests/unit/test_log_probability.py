"""Summed log-probabilities equal a naive loop, whatever the batch and its padding."""

import copy
from functools import partial

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from juicer.data.dialogues import Dialogue
from juicer.models import log_probability
from juicer.models.log_probability import (
    Batch,
    compute_in_chunks,
    length_sorted_batches,
    response_log_probabilities,
    score_dialogues,
)

DIALOGUES = [Dialogue([5, 6, 7], [8, 9, 0]), Dialogue([10], [11, 12, 13, 14, 0]), Dialogue([20, 21, 22, 23], [24])]


def naive(policy, dialogue):
    """Sum over response tokens, one forward pass per token."""
    total = 0.0
    for position, token in enumerate(dialogue.response):
        before = torch.tensor([dialogue.prompt + dialogue.response[:position]])
        total += policy(input_ids=before).logits[0, -1].log_softmax(-1)[token].item()
    return total


def padded(dialogues, side, width):
    """A batch of dialogues padded on one side to `width` tokens."""
    tokens, attention, response = (torch.zeros(len(dialogues), width, dtype=torch.int64) for _ in range(3))
    for row, dialogue in enumerate(dialogues):
        start = width - len(dialogue) if side == "left" else 0
        place = slice(start, start + len(dialogue))
        tokens[row, place] = torch.tensor(dialogue.prompt + dialogue.response)
        attention[row, place] = 1
        response[row, start + len(dialogue.prompt) : start + len(dialogue)] = 1
    return Batch(tokens, attention, response.bool())


@pytest.fixture
def architectures(policy):
    """The architectures of the paper's policies, and Llama's."""
    torch.manual_seed(1)
    size = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    size |= {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.5}
    mistral, llama = MistralForCausalLM(MistralConfig(**size)), LlamaForCausalLM(LlamaConfig(**size))
    return {"gpt-neox": policy, "mistral": mistral.eval(), "llama": llama.eval()}


def test_sums_equal_a_naive_loop_over_tokens(policy):
    expected = [naive(policy, dialogue) for dialogue in DIALOGUES]
    assert score_dialogues(policy, DIALOGUES, padding=1).tolist() == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("architecture", ["gpt-neox", "mistral", "llama"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("extra", [0, 3])
def test_sums_equal_a_naive_loop_with_padding_on_either_side(architectures, architecture, side, extra):
    model = architectures[architecture]
    expected = [naive(model, dialogue) for dialogue in DIALOGUES]
    longest = max(map(len, DIALOGUES))
    with torch.no_grad():
        together = response_log_probabilities(model, padded(DIALOGUES, side, longest + extra)).tolist()
        alone = [
            response_log_probabilities(model, padded([dialogue], side, len(dialogue) + extra)).item()
            for dialogue in DIALOGUES
        ]
    assert together == pytest.approx(expected, abs=5e-5)
    assert alone == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_sums_do_not_depend_on_the_batch(policy, batch_size):
    alone = score_dialogues(policy, DIALOGUES, padding=1, batch_size=1)
    assert score_dialogues(policy, DIALOGUES, 1, batch_size).tolist() == pytest.approx(alone.tolist(), abs=2e-5)


def test_the_padding_token_does_not_matter(policy):
    one, other = (score_dialogues(policy, DIALOGUES, padding) for padding in (0, 17))
    assert one.tolist() == other.tolist()


def test_gradients_flow_through_response_tokens_only(policy):
    batch = Batch.of(DIALOGUES, 1, torch.device("cpu"))
    response_log_probabilities(policy, batch).sum().backward()
    head = policy.get_output_embeddings().weight.grad
    assert head is not None and head.abs().sum() > 0


def test_a_row_without_response_has_log_probability_zero(policy):
    batch = Batch.of([Dialogue([5, 6], []), Dialogue([5], [6])], 1, torch.device("cpu"))
    assert response_log_probabilities(policy, batch)[0].item() == 0.0


def test_batches_by_length_hold_every_row_once_longest_first():
    batches = list(length_sorted_batches([[1], [1, 2, 3], [1, 2], [1, 2, 3]], 2))
    assert batches == [[1, 3], [2, 0]]


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_chunks_by_length_change_neither_values_nor_gradients(policy, chunk):
    weights = torch.tensor([1.0, -2.0, 3.0])
    gradients = []
    for size in (3, chunk):
        policy.zero_grad()
        compute = partial(response_log_probabilities, policy)
        values = compute_in_chunks(compute, DIALOGUES, 1, torch.device("cpu"), size)
        (values * weights).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in policy.parameters()])
    assert values.tolist() == pytest.approx(score_dialogues(policy, DIALOGUES, 1).tolist(), abs=2e-5)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def values_and_gradients(policy):
    policy.zero_grad()
    values = response_log_probabilities(policy, Batch.of(DIALOGUES, 1, torch.device("cpu")))
    (values * torch.tensor([1.0, -2.0, 3.0])).sum().backward()
    return values.detach(), [parameter.grad.clone() for parameter in policy.parameters()]


def sizes_of_calls(policy):
    """Positions of each call of the output head, filled while it is used."""
    sizes = []
    policy.get_output_embeddings().register_forward_hook(lambda _, given, __: sizes.append(len(given[0])))
    return sizes


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_logits_in_chunks_change_neither_values_nor_gradients(policy, monkeypatch, dtype, tolerance):
    policy = copy.deepcopy(policy).to(dtype)
    expected = values_and_gradients(policy)
    sizes = sizes_of_calls(policy)
    monkeypatch.setattr(log_probability, "LOGITS_AT_ONCE", 2 * policy.config.vocab_size)
    values, gradients = values_and_gradients(policy)
    assert max(sizes) == 2, "more logits at once than allowed"
    assert sum(sizes) == 2 * sum(len(dialogue.response) for dialogue in DIALOGUES), (
        "forward, and again for the gradient"
    )
    torch.testing.assert_close(values, expected[0], atol=tolerance, rtol=tolerance)
    for one, other in zip(gradients, expected[1], strict=True):
        torch.testing.assert_close(one, other, atol=tolerance * max(1.0, float(other.abs().max())), rtol=tolerance)


def test_few_logits_are_computed_once(policy):
    sizes = sizes_of_calls(policy)
    values_and_gradients(policy)
    assert sizes == [sum(len(dialogue.response) for dialogue in DIALOGUES)]


def test_with_sharded_weights_the_head_is_called_as_often_as_in_the_process_with_most_chunks(policy, monkeypatch):
    expected = values_and_gradients(policy)
    policy.get_output_embeddings().weight.ds_id = 0
    monkeypatch.setattr(log_probability, "max_over_processes", lambda count, device: count + 11)
    sizes = sizes_of_calls(policy)
    values, _ = values_and_gradients(policy)
    assert len(sizes) == 2 * 12, "some of them without a position"
    torch.testing.assert_close(values, expected[0])
