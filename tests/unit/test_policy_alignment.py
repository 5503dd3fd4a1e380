"""Policy alignment by RLOO: seeks the learnt reward, stays near the SFT policy, reads the reward on token ids."""

import copy
import dataclasses

import pytest
import torch

from juicer.data.dialogues import Dialogue
from juicer.data.template import Template
from juicer.methods import policy_alignment
from juicer.methods.policy_alignment import align_policy, group_rewards, per_token
from juicer.methods.reward import load_reward, score_rewards
from juicer.models import log_probability
from juicer.models.casts import WeightCasts
from juicer.models.loading import save_policy
from juicer.models.log_probability import score_dialogues
from juicer.runtime.errors import InputError
from juicer.sampling.decoding import sample_responses
from juicer.settings.compute import ComputeSettings
from juicer.settings.data import TemplateSettings
from juicer.settings.rft import PolicyAlignmentSettings
from juicer.settings.training import OptimiserSettings, SamplingSettings
from tests.chat_tokenizers import gemma

COMPUTE = ComputeSettings(threads=1, device="cpu")
SETTINGS = PolicyAlignmentSettings(
    steps=15,
    prompts_per_step=8,
    samples_per_prompt=4,
    kl_coefficient=0.0,
    optimiser=OptimiserSettings(learning_rate=3e-4),
)
PROMPTS = [[{"role": "user", "content": f"hello {i}"}] for i in range(16)]


@pytest.fixture
def initial(policy, template, tmp_path):
    save_policy(policy, template, tmp_path / "sft", None)
    return tmp_path / "sft"


@pytest.fixture
def reward(initial):
    return load_reward(initial, COMPUTE, seed=3)


def align(policy, template, initial, reward, settings=SETTINGS, compute=COMPUTE):
    scratch = initial.parent / "scratch"
    return align_policy(policy, initial, reward, (0.0, 1.0), template, PROMPTS, settings, compute, 0, scratch)


def mean_reward(policy, template, reward):
    prompts = [(str(i), template.prompt(prompt)) for i, prompt in enumerate(PROMPTS)]
    samples = sample_responses(policy, template, prompts, SamplingSettings(samples_per_prompt=8), seed=9)
    return score_rewards(reward, [Dialogue(each.prompt, each.response) for each in samples], 1).mean().item()


def test_the_policy_earns_more_of_the_learnt_reward(policy, template, initial, reward):
    with torch.no_grad():
        reward.score.weight.mul_(20)
    before = mean_reward(policy, template, reward)
    record = align(policy, template, initial, reward)
    assert mean_reward(policy, template, reward) > before + 0.2
    assert record.steps == 15
    assert record.response_tokens > 0
    assert len(record.curves["reward"]["value"]) == 15


def test_prompts_are_sampled_as_the_template_makes_them(policy, initial, reward, monkeypatch):
    tokenizer = gemma()
    policy.resize_token_embeddings(len(tokenizer))
    reward.resize_token_embeddings(len(tokenizer))
    policy.save_pretrained(initial)
    template = Template(tokenizer, TemplateSettings(max_response_tokens=4))
    read = []

    def sampled(model, template, prompts, *rest):
        read.extend(prompt for _, prompt in prompts)
        return sample_responses(model, template, prompts, *rest)

    monkeypatch.setattr("juicer.methods.policy_alignment.sample_responses", sampled)
    align(policy, template, initial, reward, SETTINGS.model_copy(update={"steps": 1}))
    assert {tuple(prompt) for prompt in read} <= {tuple(template.prompt(prompt)) for prompt in PROMPTS}
    assert {prompt[0] for prompt in read} == {tokenizer.bos_token_id}


def test_the_kl_term_refers_to_the_sft_policy_and_not_to_where_the_round_starts(policy, template, initial, reward):
    moved = copy.deepcopy(policy)
    with torch.no_grad():
        moved.get_output_embeddings().weight.mul_(0.5)
    settings = SETTINGS.model_copy(update={"kl_coefficient": 0.1, "steps": 1})
    from_sft = align(policy, template, initial, reward, settings).curves["kl_per_token"]["value"][0]
    from_elsewhere = align(moved, template, initial, reward, settings).curves["kl_per_token"]["value"][0]
    assert from_sft == pytest.approx(0.0, abs=1e-5)
    assert from_elsewhere > 0.1


def test_a_large_kl_coefficient_keeps_the_policy_where_it_is(policy, template, initial, reward):
    with torch.no_grad():
        reward.score.weight.mul_(20)
    dialogues = [Dialogue(template.prompt(prompt), [8, 9, 0]) for prompt in PROMPTS]
    start = score_dialogues(policy, dialogues, 1)
    moves = []
    for coefficient in (0.0, 10.0):
        moved = copy.deepcopy(policy)
        align(moved, template, initial, reward, SETTINGS.model_copy(update={"kl_coefficient": coefficient}))
        moves.append((score_dialogues(moved, dialogues, 1) - start).abs().mean().item())
    assert moves[1] < moves[0]


def test_the_same_seed_gives_the_same_policy(policy, template, initial, reward):
    other = copy.deepcopy(policy)
    settings = SETTINGS.model_copy(update={"steps": 3})
    for each in (policy, other):
        align(each, template, initial, reward, settings)
    assert all(torch.equal(one, two) for one, two in zip(policy.parameters(), other.parameters(), strict=True))


def test_every_response_of_every_step_is_drawn_with_random_numbers_of_its_own(
    policy, template, initial, reward, monkeypatch
):
    drawn = []

    def noted(*given):
        samples = sample_responses(*given)
        drawn.append([tuple(sample.response) for sample in samples])
        return samples

    monkeypatch.setattr("juicer.methods.policy_alignment.sample_responses", noted)
    still = OptimiserSettings(learning_rate=1e-12)
    settings = SETTINGS.model_copy(update={"steps": 2, "prompts_per_step": 2, "optimiser": still})
    asked, scratch = [PROMPTS[0]] * 4, initial.parent / "scratch"
    for seed in (0, 1):
        moved = copy.deepcopy(policy)
        align_policy(moved, initial, reward, (0.0, 1.0), template, asked, settings, COMPUTE, seed, scratch)
    # The prompt is the same and the policy hardly moves, so only random numbers can tell responses apart.
    assert [len(step) for step in drawn] == [8] * 4
    long = [[response for response in step if len(response) > 2] for step in drawn]
    assert all(long) and len(set().union(*long)) == sum(map(len, long))


def test_micro_batches_give_the_same_steps(policy, template, initial, reward):
    records = [
        align(each, template, initial, reward, SETTINGS.model_copy(update={"steps": 2, "micro_batch_size": micro}))
        for each, micro in ((copy.deepcopy(policy), None), (policy, 8))
    ]
    whole, parts = (record.curves["reward"]["value"] for record in records)
    assert parts == pytest.approx(whole, rel=1e-3)
    assert records[0].response_tokens == records[1].response_tokens


@pytest.mark.parametrize("packing", [False, True])
def test_the_steps_are_trl_s_own(policy, template, initial, reward, monkeypatch, packing):
    ours, trl = policy, copy.deepcopy(policy)
    settings = SETTINGS.model_copy(update={"steps": 4, "kl_coefficient": 0.1})
    with torch.no_grad():
        reward.score.weight.mul_(20)
    records = [align(ours, template, initial, reward, settings, COMPUTE.model_copy(update={"packing": packing}))]
    assert records[0].facts.get("packed_attention") == ("mask" if packing else None)
    monkeypatch.setattr("juicer.methods.policy_alignment.on_single_cpu", lambda policy, processes: False)
    records.append(align(trl, template, initial, reward, settings))
    for name in ("reward", "kl_per_token", "entropy", "length"):
        one, other = (record.curves[name]["value"] for record in records)
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5), name
    for one, other in zip(ours.parameters(), trl.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_policy_with_dropout_in_attention_is_not_packed(policy, template, initial, reward):
    policy.config.attention_dropout = 0.1
    for layer in policy.base_model.layers:
        layer.attention.attention_dropout = 0.1
    packed = COMPUTE.model_copy(update={"packing": True})
    record = align(policy, template, initial, reward, SETTINGS.model_copy(update={"steps": 1}), packed)
    assert "packed_attention" not in record.facts


def test_log_probabilities_per_token_stand_where_the_tokens_do(policy):
    dialogues = [Dialogue([5, 6, 7], [8, 9]), Dialogue([5], [9, 8, 0])]
    values, entropies = per_token(policy, dialogues, 4, 1, temperature=2.0)
    for row, dialogue in enumerate(dialogues):
        logits = policy(torch.tensor([dialogue.prompt + dialogue.response])).logits[0] / 2.0
        expected = logits.log_softmax(-1)[len(dialogue.prompt) - 1 : -1]
        count = len(dialogue.response)
        tokens = torch.tensor(dialogue.response)
        torch.testing.assert_close(values[row, :count], expected.gather(1, tokens[:, None])[:, 0])
        torch.testing.assert_close(entropies[row, :count], torch.distributions.Categorical(logits=expected).entropy())
        assert values[row, count:].tolist() == [0.0] * (4 - count)


def test_logits_in_chunks_change_neither_log_probabilities_nor_their_gradient(policy, monkeypatch):
    dialogues = [Dialogue([5, 6, 7], [8, 9]), Dialogue([5], [9, 8, 0])]
    results = []
    for chunks in (1, 3):
        monkeypatch.setattr(log_probability, "LOGITS_AT_ONCE", 5 * policy.config.vocab_size // chunks)
        policy.zero_grad()
        values, entropies = per_token(policy, dialogues, 4, 1, temperature=0.7)
        assert not entropies.requires_grad
        (values * torch.arange(8).reshape(2, 4)).sum().backward()
        results.append([values, entropies, *(parameter.grad for parameter in policy.parameters())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5 * max(1.0, float(other.detach().abs().max())), rtol=1e-5)


def test_gradient_checkpointing_recomputes_and_changes_nothing(policy, template, initial, reward):
    ours, other = policy, copy.deepcopy(policy)
    for each, on in ((ours, False), (other, True)):
        settings = SETTINGS.model_copy(update={"steps": 2, "gradient_checkpointing": on})
        align(each, template, initial, reward, settings)
    for one, two in zip(ours.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-6)


def test_mixed_precision_trains_float32_weights(policy, template, initial, reward):
    compute = ComputeSettings(threads=1, device="cpu", precision="bf16")
    before = [parameter.clone() for parameter in policy.parameters()]
    settings = SETTINGS.model_copy(update={"steps": 2})
    scratch = initial.parent / "scratch"
    record = align_policy(policy, initial, reward, (0.0, 1.0), template, PROMPTS, settings, compute, 0, scratch)
    assert all(parameter.dtype == torch.float32 for parameter in policy.parameters())
    assert any(not torch.equal(one, two) for one, two in zip(before, policy.parameters(), strict=True))
    assert len(record.curves["loss"]["value"]) == 2


def test_only_copies_of_the_policy_s_weights_are_kept_for_its_pass(policy, template, initial, reward, monkeypatch):
    casts, kept, released = WeightCasts(), [], []

    def release(*models):
        kept.append(len(casts._copies))
        released.append([model is reward for model in models])

    monkeypatch.setattr(policy_alignment, "WeightCasts", lambda: casts)
    monkeypatch.setattr(policy_alignment, "release", release)
    settings = SETTINGS.model_copy(update={"steps": 1, "kl_coefficient": 0.1})
    scratch, compute = initial.parent / "scratch", COMPUTE.model_copy(update={"precision": "bf16"})
    align_policy(policy, initial, reward, (0.0, 1.0), template, PROMPTS, settings, compute, 0, scratch)
    assert kept[-1] == sum(isinstance(module, torch.nn.Linear) for module in policy.modules())
    assert released == [[False], [True, False]]  # the reference before the reward is read


def test_fewer_prompts_than_a_step_takes_are_refused(policy, template, initial, reward):
    settings = SETTINGS.model_copy(update={"prompts_per_step": 17})
    with pytest.raises(InputError, match="there are 16 prompts, but a step of RLOO takes 17"):
        align(policy, template, initial, reward, settings)


GROUPS = [Dialogue([5, 6, 7] * 9, [8, 9]), Dialogue([5] * 20, [9, 8, 0]), Dialogue([5, 6, 7] * 9, [8, 0])]


def test_responses_to_one_prompt_are_read_as_if_each_stood_alone(policy, reward, monkeypatch):
    assert policy_alignment.forks_are_faster(policy, policy_alignment.forks_of(GROUPS)[0])
    values, entropies = per_token(policy, GROUPS, 4, 1, temperature=0.7)
    scores = group_rewards(reward, GROUPS, 1)
    monkeypatch.setattr(policy_alignment, "forks_are_faster", lambda *_: False)
    for one, other in zip((values, entropies), per_token(policy, GROUPS, 4, 1, temperature=0.7), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(scores, score_rewards(reward, GROUPS, 1), atol=2e-5, rtol=1e-5)


def passes_of(policy, monkeypatch, rows=None):
    """Notes for each pass over responses whether it was the policy's, and whether it kept its activations.

    Its number of responses is added to `rows`.
    """
    rows = [] if rows is None else rows
    found = []

    def noted(model, dialogues, **given):
        rows.append(len(dialogues))
        found.append((model is policy, torch.is_grad_enabled()))
        return per_token(model, dialogues, **given)

    monkeypatch.setattr(policy_alignment, "per_token", noted)
    return found


def test_one_pass_gives_the_old_log_probabilities_and_the_gradient(policy, template, initial, reward, monkeypatch):
    settings = SETTINGS.model_copy(update={"steps": 2, "kl_coefficient": 0.1})
    ours, thrice = policy, copy.deepcopy(policy)
    found = passes_of(ours, monkeypatch)
    records = [align(ours, template, initial, reward, settings)]
    assert found == [(True, True), (False, False)] * 2
    found = passes_of(thrice, monkeypatch)
    # With recomputed activations nothing is kept, and without recorded log-probabilities three passes are computed.
    monkeypatch.setattr(policy_alignment, "confirmed_log_probabilities", lambda *_: None)
    settings = settings.model_copy(update={"gradient_checkpointing": True})
    records.append(align(thrice, template, initial, reward, settings))
    assert found == [(True, False), (False, False), (True, True)] * 2
    assert records[0].curves["reward"] == records[1].curves["reward"]
    for one, other in zip(ours.parameters(), thrice.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("error", [0.0, 1e-3])
def test_micro_batches_take_the_old_log_probabilities_from_sampling_if_they_are_right(
    policy, template, initial, reward, monkeypatch, error
):
    settings = SETTINGS.model_copy(update={"steps": 2, "kl_coefficient": 0.1, "micro_batch_size": 8})
    ours, plain, rows = policy, copy.deepcopy(policy), []
    monkeypatch.setattr(policy_alignment, "confirmed_log_probabilities", lambda *_: None)
    align(plain, template, initial, reward, settings)
    monkeypatch.undo()

    def sampled(*given):
        return [
            dataclasses.replace(each, log_probability=each.log_probability + error) for each in sample_responses(*given)
        ]

    monkeypatch.setattr(policy_alignment, "sample_responses", sampled)
    found = passes_of(ours, monkeypatch, rows)
    align(ours, template, initial, reward, settings)
    separate = [] if not error else [(True, False)]
    assert found == ([(True, False), *separate, (False, False)] + [(True, True)] * 4) * 2
    assert rows[: 2 + len(separate)] == [8, *[32] * len(separate), 32]
    for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
