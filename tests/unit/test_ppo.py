"""Policy alignment by PPO, with the release of TRL that has it: `make test-ppo`."""

import copy
import importlib.metadata
from typing import ClassVar

import pytest
import torch
from packaging.version import Version

from juicer.data.dialogues import Dialogue
from juicer.methods.ppo import NormalisedReward, align_policy_by_ppo, with_padding_token
from juicer.methods.reward import load_reward, score_rewards
from juicer.models.loading import save_policy
from juicer.runtime.context import LOCAL, WorkContext
from juicer.runtime.errors import InputError
from juicer.sampling.decoding import sample_responses
from juicer.settings.compute import ComputeSettings
from juicer.settings.rft import PolicyAlignmentSettings, PpoSettings
from juicer.settings.training import OptimiserSettings, SamplingSettings

INSTALLED = importlib.metadata.version("trl")
pytestmark = pytest.mark.skipif(
    Version(INSTALLED) >= Version("1.13"), reason=f"TRL {INSTALLED} has no PPO; make test-ppo installs 1.12 beside it"
)
COMPUTE = ComputeSettings(threads=1, device="cpu")
SETTINGS = PolicyAlignmentSettings(
    steps=8,
    prompts_per_step=8,
    samples_per_prompt=2,
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
    model = load_reward(initial, COMPUTE, seed=3)
    with torch.no_grad():
        model.score.weight.mul_(20)
    return model


def align(policy, template, initial, reward, settings=SETTINGS, context=LOCAL):
    scratch = initial.parent / "scratch"
    return align_policy_by_ppo(
        policy,
        initial,
        reward,
        (0.0, 1.0),
        template,
        PROMPTS,
        settings,
        COMPUTE,
        0,
        scratch,
        context,
        ppo=PpoSettings(),
    )


def mean_reward(policy, template, reward):
    prompts = [(str(i), template.prompt(prompt)) for i, prompt in enumerate(PROMPTS)]
    samples = sample_responses(policy.eval(), template, prompts, SamplingSettings(samples_per_prompt=8), seed=9)
    return score_rewards(reward, [Dialogue(each.prompt, each.response) for each in samples], 1).mean().item()


def test_the_policy_earns_more_of_the_learnt_reward(policy, template, initial, reward):
    before = mean_reward(policy, template, reward)
    record = align(policy, template, initial, reward)
    assert mean_reward(policy, template, reward) > before + 0.05
    assert record.steps == 8 * PpoSettings().epochs
    assert len(record.curves["reward"]["value"]) == 8
    most = 8 * 16 * template.settings.max_response_tokens * PpoSettings().epochs
    assert 0 < record.response_tokens <= most


def test_observers_receive_the_count_of_every_token_that_is_trained_on(policy, template, initial, reward):
    class Observer:
        told: ClassVar[list[float]] = []

        def on_metrics(self, step, values):
            pass

        def on_tokens(self, count):
            self.told.append(count)

    record = align(policy, template, initial, reward, context=WorkContext(observers=(Observer(),)))
    assert len(Observer.told) == 8
    assert sum(Observer.told) == record.response_tokens


def test_the_reference_is_the_sft_policy(policy, template, initial, reward):
    moved = copy.deepcopy(policy)
    with torch.no_grad():
        moved.get_output_embeddings().weight.mul_(0.5)
    settings = SETTINGS.model_copy(update={"kl_coefficient": 0.1, "steps": 1})
    from_sft = align(policy, template, initial, reward, settings).curves["kl"]["value"][0]
    from_elsewhere = align(moved, template, initial, reward, settings).curves["kl"]["value"][0]
    assert from_sft == pytest.approx(0.0, abs=1e-3)
    assert from_elsewhere > 0.1


@pytest.mark.parametrize("padding_is_end_of_text", [False, True])
def test_trl_reads_the_reward_where_it_was_trained(template, reward, padding_is_end_of_text):
    from trl.experimental.utils import get_reward

    if padding_is_end_of_text:
        template.tokenizer.pad_token = template.tokenizer.eos_token
    padding = with_padding_token(template.tokenizer, reward.config.vocab_size + 1).pad_token_id
    end = template.end_of_text
    assert padding != end
    dialogues = [Dialogue([5, 6, 7], [8, 9, end]), Dialogue([6, 7], [9, 10, 11, 12]), Dialogue([7], [end])]
    rows = [
        [padding] * (3 - len(each.prompt)) + each.prompt + each.response + [padding] * (4 - len(each.response))
        for each in dialogues
    ]
    _, read, _ = get_reward(NormalisedReward(reward, 0.5, 2.0), torch.tensor(rows), padding, 3)
    expected = (score_rewards(reward, dialogues, padding) - 0.5) / 2.0
    torch.testing.assert_close(read.detach(), expected, atol=1e-5, rtol=1e-4)


def test_a_vocabulary_without_room_for_padding_is_refused(template):
    template.tokenizer.pad_token = template.tokenizer.eos_token
    with pytest.raises(InputError, match="no room"):
        with_padding_token(template.tokenizer, 1)


def test_too_few_prompts_are_refused(policy, template, initial, reward):
    settings = SETTINGS.model_copy(update={"prompts_per_step": 9})
    with pytest.raises(InputError, match="there are 16 prompts, but a step of PPO takes 18"):
        align(policy, template, initial, reward, settings)
