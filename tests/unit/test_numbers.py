"""The numbers of the report: win rates, paired differences, the champion, the contract of metrics/summary.json."""

import json
from typing import Any

import pytest

from juicer.reporting.contract import Champion, LeaderboardRow, LeaderboardSummary, Summary, SummaryRow
from juicer.reporting.formatting import shown
from juicer.reporting.leaderboard_table import HEADINGS
from juicer.reporting.numbers import (
    COLUMNS,
    best_names,
    choose_champion,
    flat,
    paired_difference,
    separates_nothing,
    shown_columns,
    summarise,
    win_rate,
)
from juicer.runtime.errors import InputError
from tests.example_evaluations import evaluation, parsed, table

CONTRACT = {
    "reward_mean",
    "reward_sem",
    "win_rate_vs_sft",
    "preference_accuracy",
    "preference_accuracy_per_token",
    "preference_gap",
    "demonstration_gap",
    "response_tokens",
    "ended",
    "kl_to_sft",
    "distinct_2",
}
"""Keys that every model of metrics/summary.json has; null where a metric cannot be computed."""


def rows_of(summary: Summary) -> dict[str, SummaryRow]:
    return {model.name: model for model in summary.models}


def champion_of(models: list[dict[str, Any]]) -> Champion:
    return choose_champion(parsed({"models": models}).models)


def test_a_win_counts_one_and_a_tie_half() -> None:
    assert win_rate([2.0, 1.0, 0.0, 5.0], [1.0, 1.0, 1.0, 1.0]) == pytest.approx((1 + 0.5 + 0 + 1) / 4)


def test_a_model_wins_half_of_the_prompts_against_itself() -> None:
    assert rows_of(summarise(parsed(table()), "quickstart", 0))["sft"].win_rate_vs_sft == 0.5


def test_prompts_without_a_score_take_no_part() -> None:
    assert win_rate([2.0, None], [1.0, 1.0]) == 1.0
    assert win_rate([None], [None]) is None
    assert paired_difference([None], [None]) == (None, None)


def test_a_paired_difference_has_the_standard_error_of_the_differences() -> None:
    mean, error = paired_difference([1.0, 2.0, 6.0], [0.0, 0.0, 0.0])
    assert mean == pytest.approx(3.0)
    assert error == pytest.approx((7.0 / 3) ** 0.5)
    assert paired_difference([5.0, 7.0], [4.0, 6.0]) == (1.0, 0.0)


def test_models_that_answered_different_prompts_are_not_compared() -> None:
    broken = table(1, 0)
    broken["models"][-1]["held_out_scores"].pop()
    with pytest.raises(InputError, match="irft-r1: scores of 59 and of 60 held-out prompts"):
        summarise(parsed(broken), "quickstart", 0)


def test_a_table_without_sft_is_refused() -> None:
    with pytest.raises(InputError, match="no model named sft"):
        summarise(parsed({"models": [evaluation("base", "base", 0)]}), "quickstart", 0)


def test_the_summary_keeps_its_contract() -> None:
    summary = summarise(parsed(table(3, 2)), "quickstart", 7)
    assert (summary.recipe, summary.seed) == ("quickstart", 7)
    names = ["base", "sft", "sft-matched", "irft-r1", "irft-r2", "irft-r3", "rft-r1", "rft-r2"]
    assert [model.name for model in summary.models] == names
    for model in summary.models:
        written = model.as_json()
        assert list(written)[:4] == ["name", "method", "round", "path"]
        assert set(written) >= CONTRACT
        assert "oracle_mean" in written
    assert summary.champion.selected_on == "validation"
    json.dumps(summary.as_json(), allow_nan=False)


def test_figures_are_held_out_and_not_those_of_validation() -> None:
    evaluated = table(1, 0)
    evaluated["models"][-1]["validation"]["reward_mean"] = 99.0
    row = rows_of(summarise(parsed(evaluated), "quickstart", 0))["irft-r1"]
    assert row.reward_mean == evaluated["models"][-1]["held_out"]["reward_mean"]
    assert row.validation_reward_mean == 99.0


def test_a_model_says_of_how_many_pairs_its_preferences_are_shares() -> None:
    evaluated = table(1, 0)
    evaluated["models"][-1]["held_out"]["pairs"] = 20
    rows = rows_of(summarise(parsed(evaluated), "quickstart", 0))
    assert (rows["irft-r1"].pairs, rows["irft-r1"].prompts, rows["sft"].pairs) == (20, 60, 60)


def test_a_figure_that_cannot_be_had_is_null_and_the_oracle_is_left_out() -> None:
    summary = summarise(parsed(table(1, 1, scorer=False, rejected=False, oracle=False)), "paper", 0)
    for model in summary.models:
        assert model.reward_mean is model.win_rate_vs_sft is model.preference_gap is None
        assert model.as_json()["reward_mean"] is None
        assert "oracle_mean" not in model.as_json()
        assert model.response_tokens is not None and model.response_tokens > 0


def test_differences_are_taken_to_the_control_and_to_sft_where_there_is_none() -> None:
    assert summarise(parsed(table(1, 1)), "quickstart", 0).control == "sft-matched"
    summary = summarise(parsed(table(1, 1, control=False)), "quickstart", 0)
    assert summary.control == "sft"
    assert rows_of(summary)["sft"].reward_difference == 0.0


def test_the_difference_of_every_model_is_to_the_control_and_its_wins_are_over_sft() -> None:
    evaluated = parsed(table(1, 1))
    scores = {model.name: model.held_out_scores for model in evaluated.models}
    summary = summarise(evaluated, "quickstart", 0)
    for row in summary.models:
        difference, error = paired_difference(scores[row.name], scores["sft-matched"])
        to_sft, _ = paired_difference(scores[row.name], scores["sft"])
        assert row.reward_difference == pytest.approx(difference, rel=1e-4) != pytest.approx(to_sft, rel=1e-4)
        assert row.reward_difference_sem == pytest.approx(error, rel=1e-4)
        assert row.win_rate_vs_sft == pytest.approx(win_rate(scores[row.name], scores["sft"]), rel=1e-4)


def test_the_champion_is_the_best_on_validation_even_when_held_out_disagrees() -> None:
    models = [
        evaluation("sft", "sft", 0, quality=0.5, validation=0.5),
        evaluation("irft-r1", "irft", 1, quality=0.4, validation=0.9),
        evaluation("rft-r1", "rft", 1, quality=0.9, validation=0.4),
    ]
    summary = summarise(parsed({"models": models}), "quickstart", 0)
    assert summary.champion.name == "irft-r1"
    assert summary.champion.criterion == "reward_mean"
    assert summary.champion.validation_reward_mean == models[1]["validation"]["reward_mean"]


def test_base_is_never_the_champion() -> None:
    models = [evaluation("base", "base", 0, quality=0.9), evaluation("sft", "sft", 0, quality=0.1)]
    assert champion_of(models).name == "sft"
    with pytest.raises(InputError, match="no model besides base"):
        champion_of(models[:1])


def test_of_equals_the_earlier_model_is_the_champion() -> None:
    models = [evaluation("sft", "sft", 0, quality=0.5), evaluation("irft-r1", "irft", 1, quality=0.5)]
    assert champion_of(models).name == "sft"


def test_without_a_scorer_preference_accuracy_chooses() -> None:
    models = [
        evaluation("sft", "sft", 0, quality=0.5, scorer=False),
        evaluation("irft-r1", "irft", 1, quality=0.1, validation=0.9, scorer=False),
    ]
    champion = champion_of(models)
    assert (champion.name, champion.criterion) == ("irft-r1", "preference_accuracy")


def test_without_scorer_and_rejected_responses_the_demonstration_gap_nearest_to_zero_chooses() -> None:
    # The made-up gap is -3 + 4 * quality: 1.0, -0.2 and -2.2.
    models = [
        evaluation(f"irft-r{number}", "irft", number, quality=quality, scorer=False, rejected=False)
        for number, quality in ((1, 1.0), (2, 0.7), (3, 0.2))
    ]
    champion = champion_of(models)
    assert (champion.name, champion.criterion) == ("irft-r2", "demonstration_gap")


def test_with_nothing_measured_on_validation_the_first_model_stands() -> None:
    models = [evaluation("sft", "sft", 0), evaluation("irft-r1", "irft", 1)]
    for model in models:
        model["validation"] = None
    assert champion_of(models).as_json() == {"name": "sft", "selected_on": "validation", "criterion": None}


def test_dvc_metrics_get_mappings_of_numbers_alone() -> None:
    metrics: Any = flat(summarise(parsed(table(1, 1)), "quickstart", 0)).as_json()
    assert metrics["champion"] == "rft-r1"
    assert metrics["models"]["irft-r1"]["reward_mean"] == pytest.approx(1.648)
    for model in metrics["models"].values():
        assert all(isinstance(value, int | float) for value in model.values())


def test_a_column_in_which_nobody_has_a_value_is_not_shown() -> None:
    models = summarise(parsed(table(1, 0, scorer=False, oracle=False)), "paper", 0).models
    assert {"reward_mean", "win_rate_vs_sft", "oracle_mean"}.isdisjoint(column.key for column in shown_columns(models))


def test_all_models_that_look_best_are_marked_and_none_where_all_are_equal() -> None:
    column = next(column for column in COLUMNS if column.key == "ended")
    models = [
        SummaryRow(name=name, method="irft", round=1, path="", ended=ended, response_tokens=10 * ended)
        for name, ended in (("a", 0.98), ("b", 0.98004), ("c", 0.5))
    ]
    assert best_names(models, column) == {"a", "b"}
    assert best_names(models[:2], column) == set()
    neutral = next(column for column in COLUMNS if column.key == "response_tokens")
    assert best_names(models, neutral) == set()


@pytest.mark.parametrize(
    ("value", "digits", "signed", "text"),
    [
        (None, 2, False, "–"),
        (-1.5, 2, False, "−1.50"),
        (1.5, 1, True, "+1.5"),
        (-0.001, 2, True, "0.00"),
        (28000, 0, False, "28\u202f000"),
    ],
)
def test_numbers_are_set_with_true_signs(value: float | None, digits: int, signed: bool, text: str) -> None:
    assert shown(value, digits, signed=signed) == text


def test_every_figure_of_the_summary_is_the_held_out_one_of_its_name() -> None:
    evaluated = table(1, 0)
    held_out, validation = ({} for _ in range(2))
    for place, name in enumerate(evaluated["models"][-1]["held_out"]):
        held_out[name], validation[name] = 3 + place, 103 + place
    evaluated["models"][-1] |= {"held_out": held_out, "validation": validation}
    row = rows_of(summarise(parsed(evaluated), "quickstart", 0))["irft-r1"].as_json()
    assert {name: row[name] for name in held_out} == held_out
    chosen_by = ("reward_mean", "preference_accuracy", "demonstration_gap")
    assert [row[f"validation_{name}"] for name in chosen_by] == [validation[name] for name in chosen_by]
    assert [row[name] for name in ("name", "method", "round", "path")] == ["irft-r1", "irft", 1, "models/irft/r1"]


def test_steps_and_tokens_are_those_since_sft_and_of_sft_those_since_base() -> None:
    rows = rows_of(summarise(parsed(table(2, 1)), "quickstart", 0))
    assert (rows["base"].steps, rows["base"].response_tokens_trained) == (None, None)
    assert (rows["irft-r2"].steps, rows["irft-r2"].response_tokens_trained) == (60, 60 * 700)
    evaluated = table(2, 1)
    evaluated["models"][1]["training"] |= {"total_steps": 0, "total_response_tokens": 0}
    sft = rows_of(summarise(parsed(evaluated), "quickstart", 0))["sft"]
    assert (sft.steps, sft.response_tokens_trained) == (40, 40 * 700)


def test_the_reward_s_training_accuracy_is_told_of_models_that_have_a_reward() -> None:
    rows = rows_of(summarise(parsed(table(1, 1)), "quickstart", 0))
    accuracies = {name: row.reward_training_accuracy for name, row in rows.items()}
    assert accuracies == dict.fromkeys(rows, None) | {"rft-r1": 0.8}


def test_without_validation_a_model_has_no_figures_of_it() -> None:
    evaluated = table(1, 0)
    evaluated["models"][-1]["validation"] = None
    row = rows_of(summarise(parsed(evaluated), "quickstart", 0))["irft-r1"]
    assert (row.validation_reward_mean, row.validation_demonstration_gap) == (None, None)


def test_one_pair_of_scores_has_a_difference() -> None:
    difference, error = paired_difference([5.0], [3.0])
    assert difference == 2.0
    assert not error, "one pair tells nothing about its spread"
    assert paired_difference([5.0, 2.0, None], [3.0, None, 1.0])[0] == 2.0
    assert paired_difference([1.0, 5.0], [0.0, 0.0]) == (3.0, 2.0)


def test_the_champion_is_told_with_the_value_that_decided() -> None:
    models = [evaluation("sft", "sft", 0, quality=0.5), evaluation("irft-r1", "irft", 1, quality=0.7)]
    assert champion_of(models).as_json() == {
        "name": "irft-r1", "selected_on": "validation", "criterion": "reward_mean", "validation_reward_mean": 1.8,
    }  # fmt: skip


def test_the_leaderboard_s_scores_are_among_dvc_s_metrics() -> None:
    summary = summarise(parsed(table(1, 0)), "quickstart", 0)
    assert "leaderboard" not in flat(summary).as_json() or flat(summary).leaderboard == {}
    scores = dict.fromkeys(HEADINGS, 50.0)
    board = LeaderboardSummary.model_construct(models=[LeaderboardRow.model_construct(name="irft-r1", **scores)])
    metrics = flat(summary.model_copy(update={"leaderboard": board}))
    assert metrics.leaderboard == {"irft-r1": scores}
    assert metrics.champion == summary.champion.name


def test_a_column_is_shown_where_one_model_has_a_value() -> None:
    models = [
        SummaryRow(name="a", method="irft", round=1, path="", kl_to_sft=1.0),
        SummaryRow(name="b", method="irft", round=2, path=""),
    ]
    assert [column.key for column in shown_columns(models)] == ["kl_to_sft"]


def test_gaps_and_differences_are_shown_with_their_sign() -> None:
    assert [column.key for column in COLUMNS if column.signed] == [
        "preference_gap",
        "nll_difference",
        "demonstration_gap",
    ]


def test_without_a_judge_the_summary_has_no_column_for_one() -> None:
    rows = rows_of(summarise(parsed(table()), "quickstart", 0))
    assert not any(key.startswith(("judge", "nll")) for row in rows.values() for key in row.as_json())


def test_the_judge_s_wins_and_difference_are_against_the_control_over_the_same_prompts() -> None:
    evaluated = table(1, 0)
    count = len(evaluated["models"][0]["held_out_scores"])
    for model in evaluated["models"]:
        added = {"sft-matched": 0.0, "irft-r1": 1.0}.get(model["name"], -1.0)
        model["held_out_judged"] = [place % 4 + (added if place % 2 else 0.0) for place in range(count)]
        model["held_out_nll"] = [10.0 - added for _ in range(count)]
    rows = rows_of(summarise(parsed(evaluated), "quickstart", 0))
    row = rows["irft-r1"]
    assert row.judge_win_rate == 0.75
    assert row.judge_difference == 0.5
    assert row.judge_difference_low is not None and row.judge_difference_high is not None
    assert row.judge_difference_low < 0.5 < row.judge_difference_high
    assert row.nll_difference == -1.0
    assert rows["sft-matched"].judge_difference == 0.0


def test_of_costs_the_lowest_is_the_best() -> None:
    column = next(column for column in COLUMNS if column.key == "perplexity")
    models = [
        SummaryRow(name=name, method="irft", round=1, path=name, perplexity=value)
        for name, value in {"a": 2.5, "b": 2.25, "c": None}.items()
    ]
    assert best_names(models, column) == {"b"}


def test_a_column_of_faults_is_shown_once_one_occurs() -> None:
    def rows(*shares: float | None) -> list[SummaryRow]:
        return [SummaryRow(name="a", method="irft", round=1, path="a", repeated=share) for share in shares]

    assert "repeated" in [column.key for column in shown_columns(rows(0.0, 0.01))]
    assert "repeated" not in [column.key for column in shown_columns(rows(0.0, 0.0, None))]


def with_likelihoods(added: dict[str, float], *, tokens: bool = True) -> dict[str, Any]:
    """A table in which a demonstration of n tokens costs n nats, and a share more or less of it."""
    evaluated = table(1, 0)
    lengths = [5 + place % 7 for place in range(len(evaluated["models"][0]["held_out_scores"]))]
    for model in evaluated["models"]:
        share = 1 + added.get(model["name"], 0.5)
        model["held_out_nll"] = [share * length + place % 2 for place, length in enumerate(lengths)]
        model["held_out_tokens"] = lengths if tokens else []
        model["validation"]["demonstration_nll"] = 9.5
        model["validation"]["perplexity"] = 3.0
    return evaluated


def test_differences_in_likelihood_are_to_the_control_and_to_sft_per_response_and_per_token() -> None:
    evaluated = with_likelihoods({"sft": 0.25, "sft-matched": 0.125, "irft-r1": 0.0})
    rows = rows_of(summarise(parsed(evaluated), "mine", 0))
    row = rows["irft-r1"]
    assert (row.nll_per_token_difference, row.nll_per_token_difference_vs_sft) == (-0.125, -0.25)
    assert row.nll_difference is not None and row.nll_difference_vs_sft is not None
    assert row.nll_difference_vs_sft == pytest.approx(2 * row.nll_difference, rel=1e-5)
    assert row.nll_per_token_difference_sem == pytest.approx(0.0, abs=1e-9), "the same on every token"
    assert row.nll_difference_vs_sft_low is not None and row.nll_difference_vs_sft_low < row.nll_difference_vs_sft
    assert (row.validation_demonstration_nll, row.validation_perplexity) == (9.5, 3.0)
    assert "nll_difference_vs_sft" in flat(summarise(parsed(evaluated), "mine", 0)).models["irft-r1"]


def test_without_tokens_or_another_control_there_is_less_to_compare() -> None:
    rows = rows_of(summarise(parsed(with_likelihoods({}, tokens=False)), "mine", 0))
    assert rows["irft-r1"].nll_difference == 0.0 and rows["irft-r1"].nll_per_token_difference is None
    evaluated = with_likelihoods({})
    evaluated["models"] = [model for model in evaluated["models"] if model["name"] != "sft-matched"]
    row = rows_of(summarise(parsed(evaluated), "mine", 0))["irft-r1"].as_json()
    assert "nll_difference" in row and "nll_difference_vs_sft" not in row


@pytest.mark.parametrize(("against", "name"), [("sft-matched", "judged_win_rate"), ("sft", "judged_win_rate_vs_sft")])
def test_the_win_rate_by_the_pairwise_judge_stands_in_the_summary_with_its_error_and_prompts(against, name):
    evaluated = table(1, 0)
    evaluated["models"][-1]["pairwise"] = {
        "against": against, "judge": "a program", "prompts": 48, "win_rate": 0.625, "win_rate_sem": 0.05,
        "consistent": 0.9, "questions": 96, "failed": 0,
    }  # fmt: skip
    rows = rows_of(summarise(parsed(evaluated), "mine", 0))
    row = rows["irft-r1"]
    assert (row.metric(name), row.metric(f"{name}_sem"), row.metric(f"{name}_prompts")) == (0.625, 0.05, 48)
    assert name in [column.key for column in shown_columns(list(rows.values()))]
    assert name not in rows["sft"].as_json()


def test_a_column_separates_nothing_if_all_trained_models_look_the_same_in_it() -> None:
    column = next(column for column in COLUMNS if column.key == "preference_accuracy")

    def rows(*accuracies: float | None) -> list[SummaryRow]:
        methods = ("base", "sft", "irft", "irft")
        return [
            SummaryRow(name=f"m{place}", method=method, round=place, path="m", preference_accuracy=value)
            for place, (method, value) in enumerate(zip(methods, accuracies, strict=True))
        ]

    assert separates_nothing(rows(0.4, 1.0, 1.0, 0.9999), column)
    assert best_names(rows(0.4, 1.0, 1.0, 1.0), column) == set()
    assert not separates_nothing(rows(1.0, 1.0, 1.0, 0.99), column)
    assert not separates_nothing(rows(0.4, 1.0, None, None), column), "one model has nobody to be told from"
    assert not separates_nothing(rows(1.0, 1.0, 1.0, 1.0), next(each for each in COLUMNS if each.best is None))


def test_the_pairwise_judge_chooses_by_validation_prompts_with_the_control_at_one_half():
    models = table(2, 0, scorer=False, oracle=False, rejected=False)["models"]

    def champion(**rates: float) -> Champion:
        for model in models:
            rate = rates.get(model["name"].replace("-", "_"))
            model.pop("pairwise", None)
            if rate is not None:
                model["pairwise"] = {
                    "against": "sft-matched", "judge": "a program", "prompts": 40, "win_rate": 0.9,
                    "win_rate_sem": 0.05, "consistent": 0.9, "questions": 80, "failed": 0,
                    "validation_win_rate": rate,
                }  # fmt: skip
        return choose_champion(parsed({"models": models}).models)

    chosen = champion(sft=0.4, irft_r1=0.7, irft_r2=0.6)
    assert (chosen.name, chosen.criterion, chosen.value) == ("irft-r1", "judged_win_rate", 0.7)
    assert champion(sft=0.4, irft_r1=0.45, irft_r2=0.3).name == "sft-matched"
    assert champion(sft=0.4, irft_r1=0.7).criterion == "demonstration_gap", "one of them was not judged"


def test_votes_stand_in_the_summary_with_their_number_and_people():
    models = table(1, 0)["models"]
    models[-1]["voted"] = {
        "against": "sft-matched", "votes": 60, "prompts": 50, "voters": 2, "outdated": 3, "win_rate": 0.6,
        "win_rate_sem": 0.07, "agreement": {"share": 0.8, "of": 10},
    }  # fmt: skip
    summary = summarise(parsed({"models": models}), "mine", 0)
    row = summary.model("irft-r1")
    assert (row.voted_win_rate, row.voted_win_rate_sem, row.voted_win_rate_prompts) == (0.6, 0.07, 50)
    assert (row.voted_win_rate_votes, row.voted_win_rate_voters) == (60, 2)
    assert flat(summary).models["irft-r1"]["voted_win_rate"] == 0.6
    assert "voted_win_rate" in [column.key for column in shown_columns(summary.models)]
    assert "voted_win_rate" not in summary.model("sft").as_json()
