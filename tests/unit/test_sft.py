"""SFT through TRL: on our tokens, response only, stopping at the first loss that is no number."""

import copy

import pytest
import torch

import juicer.methods.sft
from juicer.data.dialogues import Dialogue
from juicer.methods.sft import train_sft
from juicer.models.log_probability import score_dialogues
from juicer.runtime.errors import InputError
from juicer.settings.compute import ComputeSettings
from juicer.settings.sft import SftSettings
from juicer.settings.training import LoraSettings, OptimiserSettings

COMPUTE = ComputeSettings(threads=1, device="cpu")
SETTINGS = SftSettings(epochs=3, batch_size=4, optimiser=OptimiserSettings(learning_rate=3e-3))
DIALOGUES = [Dialogue([5, 6 + i, 7], [8, 9 + i % 2, 0]) for i in range(8)]


def train(policy, template, folder, settings=SETTINGS, **more):
    return train_sft(policy, template, DIALOGUES, settings, COMPUTE, 0, folder, **more)


def test_demonstrations_become_likelier_and_every_step_is_recorded(policy, template, tmp_path):
    before = score_dialogues(policy, DIALOGUES, 1).mean()
    record = train(policy, template, tmp_path)
    assert score_dialogues(policy, DIALOGUES, 1).mean() > before + 1
    assert record.steps == 6
    assert record.curves["loss"]["step"] == [1, 2, 3, 4, 5, 6]
    assert record.response_tokens == 6 * 4 * 3


def test_what_is_recorded_is_what_was_trained_on_though_an_epoch_s_last_step_is_short(
    policy, template, tmp_path, monkeypatch
):
    seen, dialogues_of = [], juicer.methods.sft.dialogues_of

    def watched(*given):
        seen.extend(found := dialogues_of(*given))
        return found

    monkeypatch.setattr(juicer.methods.sft, "dialogues_of", watched)
    settings = SETTINGS.model_copy(update={"batch_size": 5, "micro_batch_size": 1})
    record = train(policy, template, tmp_path, settings, steps=5)
    assert len(seen) == 5 + 3 + 5 + 3 + 5
    assert record.facts["epochs"] == pytest.approx(len(seen) / 8, abs=1e-3)
    assert record.response_tokens == sum(len(each.response) for each in seen)
    assert juicer.methods.sft.mean_tokens_per_step(DIALOGUES, 5) == 12


def test_the_first_loss_is_the_mean_over_response_tokens_only(policy, template, tmp_path):
    settings = SETTINGS.model_copy(update={"batch_size": 8})
    expected = -score_dialogues(policy, DIALOGUES, 1).sum().item() / sum(len(each.response) for each in DIALOGUES)
    record = train(policy, template, tmp_path, settings, steps=1)
    assert record.curves["loss"]["value"][0] == pytest.approx(expected, rel=1e-4)


def test_the_same_seed_gives_the_same_weights(policy, template, tmp_path):
    other = copy.deepcopy(policy)
    train(policy, template, tmp_path)
    train(other, template, tmp_path)
    assert all(torch.equal(one, two) for one, two in zip(policy.parameters(), other.parameters(), strict=True))


def test_the_order_of_the_demonstrations_follows_from_the_seed(policy, template, tmp_path):
    losses = []
    for seed in (0, 1):
        record = train_sft(copy.deepcopy(policy), template, DIALOGUES, SETTINGS, COMPUTE, seed, tmp_path, steps=2)
        losses.append(record.curves["loss"]["value"][0])
    assert losses[0] != losses[1]


def test_adapters_are_merged_into_an_ordinary_model(policy, template, tmp_path):
    names = [name for name, _ in policy.named_parameters()]
    before = score_dialogues(policy, DIALOGUES, 1).mean()
    train(policy, template, tmp_path, SETTINGS.model_copy(update={"lora": LoraSettings(r=4, alpha=8)}))
    assert [name for name, _ in policy.named_parameters()] == names
    assert score_dialogues(policy, DIALOGUES, 1).mean() > before


def test_a_loss_that_is_no_number_stops_the_training_and_names_the_step(policy, template, tmp_path):
    with torch.no_grad():
        policy.get_input_embeddings().weight[5] = float("nan")
    with pytest.raises(InputError, match=r"sft: loss is nan at step 1 of 6 .*nothing was saved"):
        train(policy, template, tmp_path)


WATCHED = [Dialogue([5, 7, 9], [8, 9, 0]), Dialogue([5, 6, 7], [9, 0])]


@pytest.mark.parametrize("lora", [None, LoraSettings(r=4, alpha=8, dropout=0.5)])
def test_watched_demonstrations_are_measured_at_a_few_steps_and_training_is_the_same(policy, template, tmp_path, lora):
    settings = SETTINGS.model_copy(
        update={"lora": lora, "gradient_checkpointing": lora is not None, "watched_times": 2}
    )
    alone, before = copy.deepcopy(policy), -score_dialogues(policy, WATCHED, 1).sum().item() / 5
    plain = train(alone, template, tmp_path, settings)
    record = train(policy, template, tmp_path, settings, watched=WATCHED)
    assert all(torch.equal(one, two) for one, two in zip(alone.parameters(), policy.parameters(), strict=True))
    curve = record.curves.pop("validation_nll")
    assert record == plain
    after = -score_dialogues(policy.eval(), WATCHED, 1).sum().item() / 5
    assert curve["step"] == [0, 3, 6]
    assert (curve["value"][0], curve["value"][-1]) == (pytest.approx(before, rel=1e-4), pytest.approx(after, rel=1e-3))


def test_without_watched_demonstrations_there_is_no_curve_of_them(policy, template, tmp_path):
    assert "validation_nll" not in train(policy, template, tmp_path, steps=1).curves
