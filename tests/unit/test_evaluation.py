"""Evaluation measures what its metrics say, and leaves out what it cannot know."""

import copy

import pytest
import torch

from juicer.data.demonstrations import Demonstration
from juicer.data.dialogues import Dialogue, Sample
from juicer.data.template import Template
from juicer.evaluation.metrics import (
    Evaluation,
    distinct_pairs,
    evaluate_policy,
    measure_instruments,
)
from juicer.evaluation.repetition import repeats_itself
from juicer.evaluation.significance import mean_and_error
from juicer.models.log_probability import score_dialogues
from juicer.quickstart.random_models import CHAT
from juicer.runtime.context import WorkContext
from juicer.runtime.processes import Processes
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


WORDS = ("well", "bad", "hello world", "thank you", "nice", "it is", "very", "how are you")


@pytest.fixture
def sft(policy):
    """Another policy."""
    other = copy.deepcopy(policy)
    torch.manual_seed(4)
    with torch.no_grad():
        other.get_output_embeddings().weight.add_(0.3 * torch.randn_like(other.get_output_embeddings().weight))
    return other


def scored(model, template, rows, texts):
    """log pi of texts as responses, and their numbers of tokens."""
    answers = [
        Dialogue(template.prompt(row.prompt), template.response(row.prompt, text))
        for row, text in zip(rows, texts, strict=True)
    ]
    return score_dialogues(model, answers, 1), torch.tensor([len(each.response) for each in answers])


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


def test_implicit_preference_accuracy_is_by_the_log_ratio_to_the_sft_policy(policy, sft, template):
    rows = [
        Demonstration.make([{"role": "user", "content": f"hello {i}"}], WORDS[i], rejected=WORDS[(3 * i + 1) % 8])
        for i in range(8)
    ]
    mine, theirs = (
        scored(model, template, rows, [row.response for row in rows])[0]
        - scored(model, template, rows, [row.rejected for row in rows])[0]
        for model in (policy, sft)
    )
    metrics = evaluate(policy, template, sft=sft, rows=rows).metrics
    accuracy = (mine > theirs).float().mean()
    assert metrics.implicit_preference_accuracy == accuracy != metrics.preference_accuracy
    assert accuracy not in ((mine > -theirs).float().mean(), (theirs > 0).float().mean())


def test_means_have_standard_errors():
    assert mean_and_error([1.0, 2.0, 3.0]) == (2.0, pytest.approx((1 / 3) ** 0.5))
    assert mean_and_error([]) == (None, None)
    assert mean_and_error([5.0]) == (5.0, None), "one value says nothing of how far others would lie"


def test_distinct_pairs_fall_when_a_policy_repeats_itself():
    assert distinct_pairs([[1, 2, 3, 4]]) == 1.0
    assert distinct_pairs([[1, 1, 1, 1]]) == pytest.approx(1 / 3)
    assert distinct_pairs([[1], []]) == 0.0


def test_the_report_samples_keep_their_turns_and_say_which_were_cut(tokenizer):
    row = Demonstration.make([{"role": "user", "content": "hello"}], "hi")
    tokenizer.chat_template = CHAT
    chat, plain = (Template(copy.deepcopy(tokenizer), TemplateSettings(name=name)) for name in ("model", "hh"))

    def shown(template, *ended):
        samples = [Sample(row.id, 0, [1], [2], each, -1.0) for each in ended]
        unknown = [None] * len(ended)
        done = Evaluation(None, samples, ["well"] * len(ended), unknown, unknown, unknown, [], None)
        return [sample.as_json() for sample in report_samples(template, [row] * 2, done)]

    for template in (chat, plain):
        found = [each["turns"] for each in shown(template, True, True, False)]
        assert found == [[{"role": "user", "content": "hello"}]] * 2
    usual = ["prompt", "demonstration", "response", "score", "oracle", "turns"]
    assert [list(each) for each in shown(plain, True, True, False)] == [usual, usual]
    assert [each["ended"] for each in shown(plain, True, False, True)] == [True, False]


def test_preferences_are_told_by_sums_and_by_means_of_log_probabilities(policy, template):
    rows = [
        Demonstration.make(
            [{"role": "user", "content": f"hello {i}"}], f"{WORDS[i]} " * (i % 3 + 1), rejected=WORDS[-i]
        )
        for i in range(8)
    ]
    chosen, lengths = scored(policy, template, rows, [row.response for row in rows])
    rejected, other_lengths = scored(policy, template, rows, [row.rejected for row in rows])
    metrics = evaluate(policy, template, rows=rows).metrics
    assert metrics.preference_accuracy == (chosen > rejected).float().mean()
    assert metrics.preference_accuracy_per_token == (chosen / lengths > rejected / other_lengths).float().mean()
    assert len({metrics.preference_accuracy, metrics.preference_accuracy_per_token, 0.0, 1.0}) == 4
    gaps = (chosen - rejected).double()
    assert metrics.preference_gap == pytest.approx(gaps.mean().item(), abs=1e-4)
    assert metrics.preference_gap_sem == pytest.approx((gaps.std() / 8**0.5).item(), rel=1e-4)


def test_small_differences_decide_a_preference_and_equals_are_none(policy, sft, template):
    for model in (policy, sft):
        with torch.no_grad():
            model.get_output_embeddings().weight.mul_(1e-3)
    letters = "bcdfgjklm"  # a token each
    rows = [
        Demonstration.make([{"role": "user", "content": "hello"}], letters[i], rejected=letters[i + 1])
        for i in range(8)
    ]
    chosen, rejected, chosen_sft, rejected_sft = (
        scored(model, template, rows, texts)[0]
        for model in (policy, sft)
        for texts in ([row.response for row in rows], [row.rejected for row in rows])
    )
    gaps, implicit = chosen - rejected, (chosen - chosen_sft) - (rejected - rejected_sft)
    assert max(gaps.abs().max(), implicit.abs().max()) < 1
    metrics = evaluate(policy, template, sft=sft, rows=rows).metrics
    assert 0 < metrics.preference_accuracy == (gaps > 0).float().mean() < 1
    assert 0 < metrics.implicit_preference_accuracy == (implicit > 0).float().mean() < 1

    same = [row.model_copy(update={"rejected": row.response}) for row in rows]
    metrics = evaluate(policy, template, sft=sft, rows=same).metrics
    assert (metrics.preference_accuracy, metrics.preference_accuracy_per_token) == (0.0, 0.0)
    assert (metrics.implicit_preference_accuracy, metrics.preference_gap) == (0.0, 0.0)


def test_an_empty_rejected_response_is_a_response(policy, template):
    row = Demonstration.make([{"role": "user", "content": "hello"}], "well", rejected="")
    chosen, rejected = (scored(policy, template, [row], [text])[0] for text in ("well", ""))
    metrics = evaluate(policy, template, rows=[row]).metrics
    assert metrics.preference_gap == pytest.approx((chosen - rejected).item(), abs=1e-4)
    assert metrics.pairs == 1


def test_figures_of_the_policy_s_own_samples_are_means_over_them(policy, sft, template):
    done = evaluate(policy, template, sft=sft, scorer=LengthScorer(), oracle=lambda prompt, text: len(text) ** 0.5)
    metrics, own = done.metrics, [Dialogue(each.prompt, each.response) for each in done.samples]
    log_pi, log_sft = (score_dialogues(model, own, 1) for model in (policy, sft))
    chosen, _ = scored(policy, template, ROWS, [row.response for row in ROWS])
    assert metrics.kl_to_sft == pytest.approx((log_pi - log_sft).mean().item(), abs=1e-4)
    assert metrics.demonstration_gap == pytest.approx((chosen - log_pi).mean().item(), abs=1e-4)
    assert (metrics.prompts, metrics.pairs, len(own)) == (8, 4, 8)
    assert metrics.response_tokens == sum(len(each.response) for each in own) / 8
    assert metrics.ended == sum(each.ended for each in done.samples) / 8
    assert metrics.distinct_2 == distinct_pairs([each.response for each in own])
    assert done.texts == [template.decode(each.response) for each in own]
    assert done.scores == [float(len(text)) for text in done.texts]
    assert done.oracles == [len(text) ** 0.5 for text in done.texts]
    assert (metrics.reward_mean, metrics.reward_sem) == mean_and_error(done.scores)
    assert (metrics.oracle_mean, metrics.oracle_sem) == mean_and_error(done.oracles)
    assert evaluate(policy, template).metrics.kl_to_sft == 0.0


def test_one_response_is_evaluated_per_prompt_however_many_the_settings_name(policy, template):
    done = evaluate_policy(policy, None, None, None, template, ROWS, SamplingSettings(samples_per_prompt=3), seed=0)
    assert [sample.id for sample in done.samples] == [row.id for row in ROWS]


def test_the_scorer_and_the_oracle_are_asked_about_prompt_and_response(policy, template):
    asked = []

    class Scorer:
        def score(self, rows, context):
            asked.extend(rows)
            return [0.0] * len(rows)

    done = evaluate(policy, template, scorer=Scorer(), oracle=lambda *row: asked.append(row) or 0.0)
    assert asked == 2 * [(row.prompt, text) for row, text in zip(ROWS, done.texts, strict=True)]


def test_sampling_and_scoring_are_divided_over_the_processes_and_the_scorer_is_told_of_them(policy, sft, template):
    divided, told = [], []

    class Counting(Processes):
        def distribute(self, batches, compute):
            divided.append(1)
            return super().distribute(batches, compute)

    class Scorer:
        def score(self, rows, context):
            told.append(context)
            return [0.0] * len(rows)

    context = WorkContext(Counting())
    evaluate_policy(policy, sft, Scorer(), None, template, ROWS, SamplingSettings(), seed=0, context=context)
    # Sampling, and the log-probabilities of all responses by the policy and by SFT.
    assert len(divided) == 1 + 1 + 1
    assert told == [context]


def test_the_error_of_two_values_is_half_their_difference():
    assert mean_and_error([1.0, 3.0]) == (2.0, 1.0)


def test_the_nll_of_the_demonstrations_is_per_response_and_per_token(policy, template):
    done = evaluate(policy, template)
    logs, tokens = scored(policy, template, ROWS, [row.response for row in ROWS])
    assert done.nll == pytest.approx((-logs).tolist(), rel=1e-5)
    assert done.metrics.demonstration_nll == pytest.approx(float(-logs.mean()), rel=1e-5)
    assert done.metrics.demonstration_nll_per_token == pytest.approx(float(-logs.sum() / tokens.sum()), rel=1e-5)
    assert done.metrics.perplexity == pytest.approx(float((-logs.sum() / tokens.sum()).exp()), rel=1e-5)
    assert done.metrics.perplexity_per_response == pytest.approx(float((-logs / tokens).mean().exp()), rel=1e-5)
    assert done.metrics.perplexity_sem is not None and done.metrics.demonstration_gap_sem is not None
    assert done.rows.demonstration_tokens == tokens.tolist()


def test_what_is_measured_on_each_prompt_adds_up_to_the_metrics(policy, sft, template):
    done = evaluate(policy, template, sft=sft)
    rows, metrics = done.rows, done.metrics
    assert rows.id == [row.id for row in ROWS]
    gaps = [gap for gap in rows.gap if gap is not None]
    assert [gap is not None for gap in rows.gap] == [row.rejected is not None for row in ROWS]
    assert sum(gaps) / len(gaps) == pytest.approx(metrics.preference_gap, rel=1e-4)
    assert sum(gap > 0 for gap in gaps) / len(gaps) == metrics.preference_accuracy
    per_token = [gap for gap in rows.gap_per_token if gap is not None]
    assert sum(gap > 0 for gap in per_token) / len(per_token) == metrics.preference_accuracy_per_token
    assert sum(rows.kl) / len(rows.kl) == pytest.approx(metrics.kl_to_sft, rel=1e-4)
    assert sum(rows.response_tokens) / len(rows.response_tokens) == metrics.response_tokens
    assert sum(rows.ended) / len(rows.ended) == metrics.ended
    assert rows.empty == [not text.strip() for text in done.texts]
    assert sum(rows.repeated) / len(rows.repeated) == metrics.repeated


def test_sft_has_no_divergence_from_itself_on_any_prompt(policy, template):
    assert evaluate(policy, template).rows.kl == [0.0] * len(ROWS)


def test_the_judge_scores_the_same_responses_apart_from_the_scorer(policy, template):
    class Judge(LengthScorer):
        def score(self, rows, context=None):
            return [-score for score in super().score(rows)]

    done = evaluate_policy(
        policy, None, LengthScorer(), None, template, ROWS, SamplingSettings(), seed=0, judge=Judge()
    )
    assert done.judged == [-score for score in done.scores]
    assert done.metrics.judge_mean == pytest.approx(-done.metrics.reward_mean)
    assert evaluate(policy, template, scorer=LengthScorer()).metrics.judge_mean is None


@pytest.mark.parametrize(
    ("text", "repeated"),
    [
        ("", False),
        ("I am sorry, but I cannot help with that.", False),
        ("you can do it. " * 3, True),
        ("you can do it. " * 2, False),
        ("No no no no no no no", False),
        ("no " * 12, True),
        ("First you boil the egg, then you boil the water, then you boil the pan", False),
        ("1. Take a large egg 2. take a large egg 3. TAKE A LARGE EGG", True),
    ],
)
def test_a_response_repeats_itself_if_four_words_occur_three_times(text, repeated):
    assert repeats_itself(text) is repeated


def test_scorer_and_judge_are_measured_on_the_held_out_pairs_and_on_how_often_they_agree():
    class Likes(LengthScorer):
        def __init__(self, word):
            self.word = word

        def score(self, rows, context=None):
            return [float(self.word in response) for _, response in rows]

    texts = [("good", "bad"), ("good", "awful"), ("fine", "bad"), ("fine", "awful")]
    rows = [Demonstration.make([{"role": "user", "content": "a"}], chosen, rejected=worse) for chosen, worse in texts]
    rows.append(Demonstration.make([{"role": "user", "content": "b"}], "good"))
    found = measure_instruments(rows, Likes("good"), Likes("bad"))
    assert found.as_json() == {"pairs": 4, "scorer_accuracy": 0.75, "judge_accuracy": 0.25, "agreement": 0.375}
    assert measure_instruments(rows, Likes("good"), None).as_json() == {
        "pairs": 4, "scorer_accuracy": 0.75, "judge_accuracy": None, "agreement": None,
    }  # fmt: skip
    assert measure_instruments(rows[4:], Likes("good"), None) is None
    assert measure_instruments(rows, None, None) is None
