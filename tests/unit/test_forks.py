"""Two responses in one row have the log-probabilities and gradients that they have in rows of their own."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from juicer.data.dialogues import Dialogue
from juicer.models.forks import Fork, ForkBatch, fork_log_probabilities, forks_are_faster, score_forks
from juicer.models.log_probability import Batch, response_log_probabilities, score_dialogues

CPU = torch.device("cpu")
FORKS = [
    Fork([5, 6, 7], [8, 9, 0], [10, 11, 12, 13]),
    Fork([5], [20, 21, 22, 23, 24, 0], [30]),
    Fork([40, 41, 42, 43, 44], [45], [46, 47, 0]),
]


@pytest.fixture
def models(policy):
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.5,
    )
    return {"gpt_neox": policy, "llama": LlamaForCausalLM(config).eval()}


@pytest.mark.parametrize("name", ["gpt_neox", "llama"])
def test_log_probabilities_and_gradients_are_those_of_separate_rows(models, name):
    model, weights = models[name], torch.tensor([[1.0, -2.0], [3.0, 0.5], [-1.0, 2.0]])
    values, gradients = [], []
    for way in ("separate", "together"):
        model.zero_grad()
        if way == "together":
            both = fork_log_probabilities(model, ForkBatch.of(FORKS, 1, CPU))
        else:
            dialogues = [Dialogue(fork.prompt, each) for fork in FORKS for each in fork.responses]
            both = response_log_probabilities(model, Batch.of(dialogues, 1, CPU)).view(-1, 2)
        (both * weights).sum().backward()
        values.append(both.detach())
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    torch.testing.assert_close(values[1], values[0], atol=2e-5, rtol=1e-5)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_no_response_sees_the_other(policy):
    changed = [Fork(fork.prompt, [token + 100 for token in fork.responses[0]], fork.responses[1]) for fork in FORKS]
    one, other = (fork_log_probabilities(policy, ForkBatch.of(each, 1, CPU)) for each in (FORKS, changed))
    assert torch.equal(one[:, 1], other[:, 1])
    assert not torch.isclose(one[:, 0], other[:, 0]).any()


def test_an_empty_response_has_log_probability_zero(policy):
    forks = [Fork([5, 6], [], [7, 8]), Fork([5, 6], [7, 8], [])]
    values = fork_log_probabilities(policy, ForkBatch.of(forks, 1, CPU))
    assert values[0, 0].item() == values[1, 1].item() == 0.0
    assert values[0, 1].item() == pytest.approx(values[1, 0].item(), abs=1e-5)


def test_models_that_may_need_another_mask_are_not_forked(policy):
    assert forks_are_faster(policy, FORKS)
    policy.config.model_type = "mistral"
    assert not forks_are_faster(policy, FORKS)


def test_long_responses_to_short_prompts_are_not_forked(policy):
    assert forks_are_faster(policy, [Fork([5] * 40, [6] * 20, [7] * 20)])
    assert not forks_are_faster(policy, [Fork([5] * 4, [6] * 200, [7] * 200)])


@pytest.mark.parametrize("name", ["gpt_neox", "llama"])
def test_any_number_of_responses_share_a_row(models, name):
    model = models[name]
    forks = [Fork([5, 6, 7], [8, 9, 0], [10], [11, 12, 13, 14], [15, 0]), Fork([5], [20, 21], [30], [0], [31, 32, 0])]
    batch = ForkBatch.of(forks, 1, CPU)
    dialogues = [Dialogue(fork.prompt, each) for fork in forks for each in fork.responses]
    apart = response_log_probabilities(model, Batch.of(dialogues, 1, CPU)).view(2, 4)
    torch.testing.assert_close(fork_log_probabilities(model, batch), apart, atol=2e-5, rtol=1e-5)
    ends = batch.tokens.flatten()[batch.ends]
    assert ends.tolist() == [dialogue.response[-1] for dialogue in dialogues]


@pytest.mark.parametrize("shared", [True, False])
def test_forks_with_different_numbers_of_responses_are_scored_in_their_order(policy, monkeypatch, shared):
    monkeypatch.setattr("juicer.models.forks.forks_are_faster", lambda model, forks: shared)
    given = [
        Fork([5, 6, 7], [8, 9], [10]),
        Fork([5], [8, 9, 10, 11], [12, 13], [14]),
        Fork([6, 7, 8, 9, 10], [11]),
    ]
    found = score_forks(policy, given, padding=0, batch_size=2)
    assert [len(each) for each in found] == [2, 3, 1]
    for fork, values in zip(given, found, strict=True):
        rows = [Dialogue(fork.prompt, response) for response in fork.responses]
        assert values == pytest.approx(score_dialogues(policy, rows, 0).tolist(), abs=1e-4)
