"""One rule chooses: the declared criteria on validation in order, each only where it separates models."""

from typing import Any

import pytest

from juicer.evaluation.choice import Choice, best_on_validation
from juicer.evaluation.results import Merits, Tie
from juicer.reporting.findings import findings
from juicer.reporting.numbers import summarise
from juicer.runtime.errors import InputError
from juicer.settings.choice import ChoiceSettings
from tests.example_evaluations import evaluation, parsed


@pytest.mark.parametrize(
    ("merits", "chosen"),
    [
        # The scorer decides where there is one, whatever the other metrics say.
        ([(0.1, 0.9, 0.0), (0.3, 0.2, 5.0), (0.2, 0.5, 1.0)], (1, "reward_mean", 0.3)),
        ([(-0.3, 0.9, 0.0), (-0.1, 0.2, 5.0)], (1, "reward_mean", -0.1)),
        # A metric that one of them lacks decides nothing.
        ([(0.1, 0.9, 0.0), (None, 0.95, 5.0)], (1, "preference_accuracy", 0.95)),
        ([(None, 0.9, 2.0), (None, None, -1.0), (None, 0.1, 1.5)], (1, "demonstration_gap", -1.0)),
        # The gap nearest to 0 from either side.
        ([(None, None, -2.0), (None, None, 0.5), (None, None, -0.25)], (2, "demonstration_gap", -0.25)),
    ],
)  # fmt: skip
def test_the_best_is_chosen_by_the_first_metric_that_all_have(merits, chosen):
    assert best_on_validation([Merits(*each) for each in merits]) == Choice(*chosen)


def test_without_a_metric_that_all_have_nothing_is_chosen():
    assert best_on_validation([Merits(), Merits()]) is None
    assert best_on_validation([Merits(0.1), Merits(None, 0.5), Merits(None, None, 0.0)]) is None
    assert best_on_validation([]) is None


def test_what_separates_nothing_is_said_and_the_next_criterion_decides():
    accurate = [Merits(None, 1.0, 3.0, gap) for gap in (4.0, 9.0, 7.0)]
    tie = Tie(criterion="preference_accuracy", value=1.0, best=3, compared=3)
    assert best_on_validation(accurate) == Choice(1, "preference_gap", 9.0, (tie,))


def test_a_later_criterion_decides_between_those_that_tie_only():
    merits = [Merits(0.3, 0.1), Merits(0.3, 0.2), Merits(0.2, 0.9)]
    tie = Tie(criterion="reward_mean", value=0.3, best=2, compared=3)
    assert best_on_validation(merits) == Choice(1, "preference_accuracy", 0.2, (tie,))
    # Of the two that tie both have the gap; the third, which lost, need not.
    assert best_on_validation([Merits(0.3, None, -2.0), Merits(0.3, None, 1.0), Merits(0.2)]).place == 1  # type: ignore[union-attr]


def test_where_nothing_separates_them_the_earliest_is_taken_and_the_choice_says_that_nothing_did():
    found = best_on_validation([Merits(0.1, 0.5), Merits(0.3, 0.5), Merits(0.3, 0.5)])
    assert found is not None and not found.settled
    assert (found.place, found.criterion, found.value) == (1, "reward_mean", 0.3)
    assert [(tie.criterion, tie.best, tie.compared) for tie in found.ties] == [
        ("reward_mean", 2, 3),
        ("preference_accuracy", 2, 2),
    ]


def test_the_declared_order_decides_and_costs_are_best_where_they_are_lowest():
    merits = [Merits(0.9, demonstration_nll=40.0), Merits(0.1, demonstration_nll=38.5)]
    assert best_on_validation(merits, ["demonstration_nll", "reward_mean"]) == Choice(1, "demonstration_nll", 38.5)
    judged = [merits[0]._replace(judged_win_rate=0.4), merits[1]._replace(judged_win_rate=0.6)]
    assert best_on_validation(judged, ["preference_accuracy", "judged_win_rate"]) == Choice(1, "judged_win_rate", 0.6)


@pytest.mark.parametrize(
    ("criteria", "said"),
    [
        ([], "at least 1 item"),
        (["reward_mean", "reward_mean"], "reward_mean is listed twice"),
        (["reward_meen"], "criteria.0"),
    ],
)
def test_an_order_of_nothing_or_of_the_unknown_is_refused(criteria: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        ChoiceSettings.parse({"criteria": criteria}, "recipe")


def summary_of(*given: dict[str, Any], **more: Any):
    models = []
    for place, values in enumerate(given):
        method = "irft" if place else "sft"
        model = evaluation(f"irft-r{place}" if place else "sft", method, place, scorer=False, oracle=False, **more)
        model["validation"] |= values
        models.append(model)
    return summarise(parsed({"models": models}), "mine", 0)


def test_the_report_says_that_accuracies_of_1_separate_nothing_and_what_decided():
    summary = summary_of(*({"preference_accuracy": 1.0, "preference_gap": gap} for gap in (3.0, 8.0, 5.0)))
    champion = summary.champion.as_json()
    assert (champion["name"], champion["validation_preference_gap"]) == ("irft-r1", 8.0)
    assert champion["ties"] == [{"criterion": "preference_accuracy", "value": 1.0, "best": 3, "compared": 3}]
    assert findings(summary).sentences[0] == (
        "The champion, irft-r1, was chosen on validation prompts: all 3 models share the preference accuracy 1.000, so "
        "it separates nothing. Of these, it has the highest preference gap there (8.000). All other figures are from "
        "held-out prompts."
    )


def test_the_report_says_that_nothing_separates_the_models():
    same = {"preference_accuracy": 1.0, "preference_gap": 2.0, "demonstration_gap": 1.5}
    found = findings(summary := summary_of(same, same))
    assert summary.champion.name == "sft" and not summary.champion.settled
    assert found.headline == "Nothing on validation prompts tells the models apart: SFT is taken as the simplest"
    assert "Nothing else separates them, so it is the earliest and simplest of these" in found.sentences[0]


def test_a_choice_without_any_judgement_of_responses_says_what_it_cannot_tell():
    found = findings(summary_of({"demonstration_gap": 2.0}, {"demonstration_gap": -0.5}, rejected=False))
    assert "by its demonstration gap alone, which does not measure quality" in found.headline
    assert any("No response was judged by anything in this choice" in caveat for caveat in found.caveats)
