"""The explicit reward: read at the last real token, carried between rounds, trained to prefer demonstrations."""

import copy

import pytest
import torch

from juicer.data.dialogues import Dialogue
from juicer.methods.pairs import Pair
from juicer.methods.reward import freeze_blocks, load_reward, rewards, score_rewards, train_reward
from juicer.models.loading import save_model, save_policy
from juicer.models.log_probability import Batch
from juicer.runtime.errors import InputError
from juicer.settings.compute import ComputeSettings
from juicer.settings.rft import RewardSettings
from juicer.settings.training import OptimiserSettings

COMPUTE = ComputeSettings(threads=1)
PAIRS = [Pair(Dialogue([5, 6 + i], [8, 9, 0]), Dialogue([5, 6 + i], [20, 21 + i, 22, 23])) for i in range(8)]
SETTINGS = RewardSettings(epochs=6, batch_size=4, optimiser=OptimiserSettings(learning_rate=3e-3))


@pytest.fixture
def trunk(policy, template, tmp_path):
    save_policy(policy, template, tmp_path / "trunk", None)
    return tmp_path / "trunk"


def test_the_reward_is_the_head_at_the_last_real_token(trunk):
    model = load_reward(trunk, COMPUTE, seed=0)
    short, long = Dialogue([5, 6], [7, 0]), Dialogue([5, 6], [7, 8, 9, 10])
    batch = Batch.of([short, long], padding=0, device=torch.device("cpu"))
    hidden = model.base_model(input_ids=torch.tensor([[5, 6, 7, 0]])).last_hidden_state[0, -1]
    assert rewards(model, batch)[0].item() == pytest.approx(model.score(hidden).item(), abs=1e-5)


def test_rewards_do_not_depend_on_the_padding_token(trunk):
    model = load_reward(trunk, COMPUTE, seed=0)
    dialogues = [pair.demonstration for pair in PAIRS] + [pair.sample for pair in PAIRS]
    assert score_rewards(model, dialogues, 0).tolist() == pytest.approx(score_rewards(model, dialogues, 9).tolist())


def test_a_fresh_head_follows_from_its_seed(trunk):
    heads = [load_reward(trunk, COMPUTE, seed).score.weight for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_training_prefers_demonstrations(trunk):
    model = load_reward(trunk, COMPUTE, seed=0)
    record = train_reward(model, PAIRS, SETTINGS, padding=1, seed=0)
    assert record.facts["training_accuracy"] == 1.0
    assert record.curves["margin"]["value"][-1] > record.curves["margin"]["value"][0]


def test_the_normaliser_is_made_of_demonstrations_and_samples_alike(trunk):
    model = load_reward(trunk, COMPUTE, seed=0)
    facts = train_reward(model, PAIRS, SETTINGS, padding=1, seed=0).facts
    sides = [[getattr(pair, side) for pair in PAIRS] for side in ("demonstration", "sample")]
    both, *one = (score_rewards(model, each, 1).double() for each in (sides[0] + sides[1], *sides))
    assert facts["normaliser_mean"] == pytest.approx(both.mean().item())
    assert facts["normaliser_deviation"] == pytest.approx(both.std(correction=0).item())
    for side in one:
        assert abs(side.mean() - both.mean()) > 0.1 * both.std()
        assert side.std(correction=0) < 0.9 * both.std()


def test_the_order_of_the_pairs_follows_from_the_seed(trunk):
    model, settings = load_reward(trunk, COMPUTE, seed=0), SETTINGS.model_copy(update={"epochs": 1, "batch_size": 1})
    curves = [train_reward(copy.deepcopy(model), PAIRS, settings, padding=1, seed=seed).curves for seed in (0, 0, 1)]
    assert curves[0] == curves[1]
    assert curves[0]["margin"] != curves[2]["margin"]


def test_the_next_round_carries_the_rewards_weights(trunk, template, tmp_path):
    model = load_reward(trunk, COMPUTE, seed=0)
    train_reward(model, PAIRS, SETTINGS, padding=1, seed=0)
    save_model(model, template, tmp_path / "reward", {"stage": "rft_reward"})
    again = load_reward(tmp_path / "reward", COMPUTE, seed=1)
    dialogues = [pair.sample for pair in PAIRS]
    assert score_rewards(again, dialogues, 1).tolist() == score_rewards(model, dialogues, 1).tolist()


def test_frozen_blocks_do_not_train(trunk):
    model = load_reward(trunk, COMPUTE, seed=0)
    before = {name: value.clone() for name, value in model.named_parameters()}
    train_reward(model, PAIRS, SETTINGS.model_copy(update={"frozen_blocks": 1}), padding=1, seed=0)
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert not any(".layers.0." in name or "embed_in" in name for name in moved)
    assert any(".layers.1." in name for name in moved)


def test_freezing_more_blocks_than_there_are_is_refused(trunk):
    with pytest.raises(InputError, match="frozen_blocks is 3, but the trunk has 2 blocks"):
        freeze_blocks(load_reward(trunk, COMPUTE, seed=0), 3)


def test_padding_on_the_left_does_not_move_the_token_that_is_read(trunk):
    model = load_reward(trunk, COMPUTE, seed=0)
    dialogues = [Dialogue([5, 6], [7, 0]), Dialogue([5, 6], [7, 8, 9, 10])]
    right = Batch.of(dialogues, padding=3, device=torch.device("cpu"))
    tokens = torch.tensor([[3, 3, 5, 6, 7, 0], [5, 6, 7, 8, 9, 10]])
    real = (torch.arange(6) >= torch.tensor([[2], [0]])).long()
    response = torch.arange(6) >= torch.tensor([[4], [2]])
    assert torch.equal(rewards(model, Batch(tokens, real, response)), rewards(model, right))
