"""Evaluation measures what its metrics say, and leaves out what it cannot know."""

import copy

import pytest
import torch

from juicer.data.demonstrations import Demonstration
from juicer.data.dialogues import Dialogue, Sample
from juicer.data.template import Template
from juicer.evaluation.metrics import Evaluation, distinct_pairs, evaluate_policy, mean_and_error
from juicer.models.log_probability import score_dialogues
from juicer.quickstart.random_models import CHAT
from juicer.settings.data import TemplateSettings
from juicer.settings.training import SamplingSettings
from tasks.evaluate import report_samples

ROWS = [
    Demonstration.make([{"role": "user", "content": f"hello {i}"}], "well", rejected="bad world" if i % 2 else None)
    for i in range(8)
]


class LengthScorer:
    """Scores a response by its number of characters."""

    def score(self, rows, context=None):
        return [float(len(response)) for _, response in rows]


def evaluate(policy, template, sft=None, scorer=None, oracle=None, rows=ROWS):
    return evaluate_policy(policy, sft, scorer, oracle, template, rows, SamplingSettings(), seed=0)


def test_reward_and_oracle_are_means_over_the_policys_own_responses(policy, template):
    done = evaluate(policy, template, scorer=LengthScorer(), oracle=lambda prompt, text: float("e" in text))
    assert done.metrics.reward_mean == pytest.approx(sum(map(len, done.texts)) / 8)
    assert done.metrics.oracle_mean == sum("e" in text for text in done.texts) / 8


def test_without_scorer_oracle_or_rejected_responses_their_metrics_are_left_out(policy, template):
    metrics = evaluate(policy, template, rows=ROWS[::2]).metrics
    assert (metrics.reward_mean, metrics.oracle_mean, metrics.preference_accuracy, metrics.preference_gap) == (
        None,
    ) * 4
    assert metrics.prompts == 4


def test_the_preference_gap_is_the_mean_difference_of_log_probabilities(policy, template):
    metrics = evaluate(policy, template).metrics
    gaps = []
    for row in ROWS[1::2]:
        prompt = template.prompt(row.prompt)
        answers = [Dialogue(prompt, template.response(row.prompt, text)) for text in (row.response, row.rejected)]
        chosen, rejected = score_dialogues(policy, answers, 1).tolist()
        gaps.append(chosen - rejected)
    assert metrics.preference_gap == pytest.approx(sum(gaps) / 4, abs=1e-4)
    assert metrics.preference_accuracy == sum(gap > 0 for gap in gaps) / 4


def test_kl_to_an_identical_policy_is_zero_and_to_another_is_not(policy, template):
    same = evaluate(policy, template, sft=copy.deepcopy(policy)).metrics
    other = copy.deepcopy(policy)
    with torch.no_grad():
        other.get_output_embeddings().weight.mul_(0.5)
    assert same.kl_to_sft == pytest.approx(0.0, abs=1e-4)
    assert evaluate(policy, template, sft=other).metrics.kl_to_sft > 0.1


def test_the_sft_policy_has_no_implicit_reward(policy, template):
    assert evaluate(policy, template).metrics.implicit_preference_accuracy is None
    assert evaluate(policy, template, sft=copy.deepcopy(policy)).metrics.implicit_preference_accuracy is not None


def test_implicit_preference_accuracy_is_by_the_log_ratio_to_the_sft_policy(policy, template):
    sft = copy.deepcopy(policy)
    torch.manual_seed(4)
    with torch.no_grad():
        sft.get_output_embeddings().weight.add_(0.3 * torch.randn_like(sft.get_output_embeddings().weight))
    words = ("well", "bad", "hello world", "thank you", "nice", "it is", "very", "how")
    rows = [
        Demonstration.make([{"role": "user", "content": f"hello {i}"}], words[i], rejected=words[(3 * i + 1) % 8])
        for i in range(8)
    ]
    gaps = []
    for row in rows:
        prompt = template.prompt(row.prompt)
        answers = [Dialogue(prompt, template.response(row.prompt, text)) for text in (row.response, row.rejected)]
        gaps.append([score_dialogues(model, answers, 1) @ torch.tensor([1.0, -1.0]) for model in (policy, sft)])
    metrics = evaluate(policy, template, sft=sft, rows=rows).metrics
    accuracy = sum(mine > theirs for mine, theirs in gaps) / 8
    assert metrics.implicit_preference_accuracy == accuracy != metrics.preference_accuracy
    assert accuracy != sum(mine > -theirs for mine, theirs in gaps) / 8
    assert accuracy != sum(theirs > 0 for _, theirs in gaps) / 8


def test_means_have_standard_errors():
    assert mean_and_error([1.0, 2.0, 3.0]) == (2.0, pytest.approx((1 / 3) ** 0.5))
    assert mean_and_error([]) == (None, None)
    assert mean_and_error([5.0]) == (5.0, 0.0)


def test_distinct_pairs_fall_when_a_policy_repeats_itself():
    assert distinct_pairs([[1, 2, 3, 4]]) == 1.0
    assert distinct_pairs([[1, 1, 1, 1]]) == pytest.approx(1 / 3)
    assert distinct_pairs([[1], []]) == 0.0


def test_the_report_samples_a_chat_model_keep_their_turns_and_say_which_were_cut(tokenizer):
    row = Demonstration.make([{"role": "user", "content": "hello"}], "hi")
    tokenizer.chat_template = CHAT
    chat, plain = (Template(copy.deepcopy(tokenizer), TemplateSettings(name=name)) for name in ("model", "hh"))

    def shown(template, *ended):
        samples = [Sample(row.id, 0, [1], [2], each, -1.0) for each in ended]
        done = Evaluation(None, samples, ["well"] * len(ended), [None] * len(ended), [None] * len(ended))
        return [sample.as_json() for sample in report_samples(template, [row] * 2, done)]

    assert [each["turns"] for each in shown(chat, True, True, False)] == [[{"role": "user", "content": "hello"}]] * 2
    usual = ["prompt", "demonstration", "response", "score", "oracle"]
    assert [list(each) for each in shown(plain, True, True, False)] == [usual, usual]
    assert [each["ended"] for each in shown(plain, True, False, True)] == [True, False]
