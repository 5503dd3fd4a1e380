"""SFT by GEM and by DFT in the training loop: what is trained on, counted and remembered."""

import copy
from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError

from juicer.data.dialogues import Dialogue
from juicer.methods import sft_variants
from juicer.methods.sft_variants import (
    LogNormalisers,
    batches_of,
    mean_tokens_per_step,
    sample_start,
    steps_of,
    train_variant,
)
from juicer.models.log_probability import score_dialogues
from juicer.runtime.processes import SINGLE_PROCESS
from juicer.settings.compute import ComputeSettings
from juicer.settings.sft import DftSettings, SftMatchedSettings, SftSettings
from juicer.settings.training import LoraSettings, OptimiserSettings
from juicer.training.record import TrainingRecord

COMPUTE = ComputeSettings(threads=1, device="cpu")
RATE = OptimiserSettings(learning_rate=3e-3)
DIALOGUES = [Dialogue([5, 6 + i, 7], [8, 9 + i % 2, 11, 0][i % 2 :]) for i in range(8)]
SAMPLES = [[Dialogue(each.prompt, [13, 14, 0]), Dialogue(each.prompt, [15, 0])] for each in DIALOGUES]


def settings_of(objective, **more):
    return SftSettings(**{"objective": objective, "epochs": 3, "batch_size": 4, "optimiser": RATE} | more)


def train(policy, settings, **more):
    samples = SAMPLES if settings.objective == "dft" else []
    return train_variant(policy, DIALOGUES, samples, settings, 1, COMPUTE, 0, **more)


@pytest.mark.parametrize(("objective", "tokens"), [("gem", 28), ("dft", 28 + 8 * 5)])
def test_demonstrations_become_likelier_and_every_step_is_recorded(policy, objective, tokens):
    before = score_dialogues(policy, DIALOGUES, 1).mean()
    record = train(policy, settings_of(objective))
    assert score_dialogues(policy, DIALOGUES, 1).mean() > before + 1
    assert (record.stage, record.steps, record.response_tokens) == ("sft", 6, 3 * tokens)
    assert record.curves["loss"]["step"] == [1, 2, 3, 4, 5, 6]
    assert record.curves["demonstration_log_probability"]["value"][-1] > -10
    facts = {"objective": objective, "epochs": 3.0, "precision": "fp32", "micro_batch_size": 4}
    assert facts.items() <= record.facts.items()
    assert LogNormalisers.FACT not in record.facts


@pytest.mark.parametrize("objective", ["gem", "dft"])
@pytest.mark.parametrize("more", [{"micro_batch_size": 1}, {"gradient_checkpointing": True}])
def test_micro_batches_and_recomputation_do_not_change_the_steps(policy, objective, more):
    one, other = copy.deepcopy(policy), copy.deepcopy(policy)
    train(one, settings_of(objective))
    train(other, settings_of(objective, **more))
    for value, expected in zip(other.parameters(), one.parameters(), strict=True):
        torch.testing.assert_close(value, expected, atol=2e-4, rtol=2e-3)


@pytest.mark.parametrize("objective", ["gem", "dft"])
def test_adapters_train_and_are_merged(policy, objective):
    names, before = list(policy.state_dict()), copy.deepcopy(policy)
    train(policy, settings_of(objective, lora=LoraSettings(r=2)))
    assert list(policy.state_dict()) == names
    changed = [
        name
        for (name, value), old in zip(policy.named_parameters(), before.parameters(), strict=True)
        if not torch.equal(value, old)
    ]
    assert changed and all("layers" in name for name in changed)


@pytest.mark.parametrize("objective", ["gem", "dft"])
def test_a_number_of_steps_goes_over_the_ends_of_epochs(policy, objective):
    settings = settings_of(objective, batch_size=5)
    record = train(policy, settings, stage="sft_matched", steps=7)
    assert (record.stage, record.steps) == ("sft_matched", 7)
    assert record.facts["epochs"] == pytest.approx(35 / 8, abs=1e-3)
    assert (steps_of(8, settings, 7), steps_of(8, settings, None)) == (7, 5)


@pytest.mark.parametrize("rows", [1, 3, 7, 49, 97])
def test_so_many_steps_are_full_batches(rows):
    for steps in (1, 2, 13, 101):
        batches = batches_of(rows, settings_of("gem", batch_size=6), 0, steps)
        assert [len(batch) for batch in batches] == [6] * steps


def test_a_step_of_dft_counts_the_tokens_of_its_samples():
    assert mean_tokens_per_step(DIALOGUES, [], 4) == 14
    assert mean_tokens_per_step(DIALOGUES, SAMPLES, 4) == 14 + 20


def test_dft_s_first_step_is_that_of_the_likelihood_less_the_mean_of_its_samples(policy):
    settings = settings_of("dft", batch_size=8)
    expected = -score_dialogues(policy, DIALOGUES, 1).sum().item() / 8
    expected += score_dialogues(policy, [each for own in SAMPLES for each in own], 1).sum().item() / 16
    record = train(policy, settings, steps=1)
    assert record.curves["loss"]["value"][0] == pytest.approx(expected / 3.5, rel=1e-4)
    assert record.curves["log_normaliser"]["value"][0] == pytest.approx(0, abs=1e-4)


def test_every_demonstration_has_a_normaliser_of_its_own_that_changes_between_steps(policy, monkeypatch):
    seen = []

    class Watched(LogNormalisers):
        def commit(self):
            super().commit()
            seen.append(list(self._record.facts[self.FACT]))

    monkeypatch.setattr(sft_variants, "LogNormalisers", Watched)
    record = train(policy, settings_of("dft", micro_batch_size=2))
    moved = [[one != other for one, other in zip(*two, strict=True)] for two in pairwise(seen)]
    # The warm-up's first step changes nothing, so the policy is the reference in the first two.
    assert [sum(rows) for rows in moved[1:]] == [4] * 4
    second_epoch = moved[1:3]
    assert all(one != other for one, other in zip(*second_epoch, strict=True))
    assert record.facts["mean_log_normaliser"] == pytest.approx(sum(seen[-1]) / 8, rel=1e-4)


def test_normalisers_change_only_with_the_step_and_a_row_counts_in_the_process_that_owns_it():
    class Two:
        def gather(self, value):
            return [value, {1: -7.0, 2: 3.0}]

    record = TrainingRecord("sft")
    values = LogNormalisers(record, 4, Two())
    values.note([0, 1], torch.tensor([1.0, 2.0]))
    assert values.of([1, 0], torch.device("cpu")).tolist() == [0, 0]
    values.commit()
    assert record.facts[LogNormalisers.FACT] == [1.0, 2.0, 3.0, 0.0]
    record.facts = {LogNormalisers.FACT: [4.0, 0.0, 0.0, 0.0]}  # as a resumed run has them
    assert values.of([0], torch.device("cpu")).tolist() == [4.0]
    assert values.close() == 1.0 and record.facts == {}
    LogNormalisers(record, 2, SINGLE_PROCESS).commit()
    assert record.facts[LogNormalisers.FACT] == [0.0, 0.0]


def test_the_start_is_sampled_for_every_demonstration_in_their_order(policy, template):
    prompts = [(str(number), [5, 6, 7 + number]) for number in range(5)]
    settings = DftSettings(samples=3, sampling_batch_size=2)
    found = sample_start(policy, template, prompts, settings, seed=0)
    assert [[each.prompt for each in own] for own in found] == [[prompt] * 3 for _, prompt in prompts]
    assert len({tuple(each.response) for own in found for each in own}) > 5
    assert sample_start(policy, template, prompts, settings, seed=0) == found
    assert sample_start(policy, template, prompts, settings, seed=1) != found


@pytest.mark.parametrize(
    ("objective", "why"), [("dft", "compares pi with itself"), ("gem", "only the objective nll trains with dropout")]
)
def test_adapters_with_dropout_are_refused(objective, why):
    with pytest.raises(ValidationError, match=why):
        settings_of(objective, lora=LoraSettings(dropout=0.1))
    assert settings_of("nll", lora=LoraSettings(dropout=0.1)).objective == "nll"


def test_the_likelihood_is_the_default_of_both_stages():
    assert SftSettings(optimiser=RATE).objective == "nll"
    control = SftMatchedSettings(learning_rates=[1.0])
    assert (control.objective, control.steps, control.response_tokens) == (None, None, None)


@pytest.mark.parametrize("objective", ["gem", "dft"])
def test_watched_demonstrations_are_measured_and_training_is_the_same(policy, objective):
    settings, other = settings_of(objective, watched_times=2), copy.deepcopy(policy)
    before = -score_dialogues(policy, DIALOGUES[:2], 1).sum().item() / 7
    plain, record = train(other, settings), train(policy, settings, watched=DIALOGUES[:2])
    assert all(torch.equal(one, two) for one, two in zip(policy.parameters(), other.parameters(), strict=True))
    curve = record.curves.pop("validation_nll")
    assert curve["step"] == [0, 3, 6] and curve["value"][0] == pytest.approx(before, rel=1e-4)
    assert record == plain
