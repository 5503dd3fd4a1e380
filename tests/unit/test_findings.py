"""The headline says what the intervals say, whatever their sign."""

import statistics
from typing import Any

import pytest

from juicer.reporting.contract import Summary
from juicer.reporting.findings import Findings, best_round, findings
from juicer.reporting.numbers import paired_interval, summarise
from juicer.settings.report import MattersSettings
from tests.example_evaluations import evaluation, parsed, table


def summary_of(**quality: float) -> Summary:
    """A summary whose rft-r1 leads on validation, with held-out scores of the given quality."""
    models = [
        evaluation("sft", "sft", 0, quality=0.5, validation=0.5),
        evaluation("sft-matched", "sft-matched", 0, quality=quality.get("control", 0.5), validation=0.6),
        evaluation("rft-r1", "rft", 1, quality=quality["rft"], validation=quality.get("validation", 0.9)),
    ]
    return summarise(parsed({"models": models}), "quickstart", 0)


def without_a_scorer(pairs: int, rft: float, validation: float = 0.9) -> Findings:
    """What is found without a scorer, where accuracy is 0.2 + 0.6 quality and that of the control 0.5."""
    only: dict[str, Any] = {"scorer": False, "oracle": False, "prompts": pairs, "shown": 0}
    models = [
        evaluation("sft", "sft", 0, quality=0.45, validation=0.5, **only),
        evaluation("sft-matched", "sft-matched", 0, quality=0.5, validation=0.6, **only),
        evaluation("rft-r1", "rft", 1, quality=rft, validation=validation, **only),
    ]
    return findings(summarise(parsed({"models": models}), "mine", 0))


def test_seventy_eight_pairs_cannot_tell_that_nothing_beat_sft_and_say_how_many_could() -> None:
    found = without_a_scorer(78, rft=0.5, validation=0.1)
    assert found.headline == (
        "Cannot tell from 78 held-out pairs whether reward learning beats SFT with the same training budget"
    )
    (said,) = (sentence for sentence in found.sentences if sentence.startswith("RFT round 1"))
    assert "cannot be told apart in preference accuracy from sft-matched: 0.500 against 0.500, 0.000 (95% inter" in said
    assert "78 held-out pairs could have shown a difference of 0.230 in preference accuracy" in said
    assert "what matters is 0.050, which takes about 1\u202f600 pairs." in said


def test_with_enough_pairs_nothing_beat_sft_is_a_finding() -> None:
    found = without_a_scorer(4000, rft=0.5, validation=0.1)
    assert found.headline == "No round of reward learning beat supervised fine-tuning on validation prompts"
    (said,) = (sentence for sentence in found.sentences if sentence.startswith("RFT round 1"))
    assert "does not differ significantly in preference accuracy from sft-matched" in said
    assert said.endswith("with a probability of 80%; what matters is 0.050.")


@pytest.mark.parametrize(
    ("rft", "said"),
    [
        (0.9, "RFT round 1 has a preference accuracy 0.24 higher than SFT with the same training budget"),
        (0.1, "RFT round 1 was best on validation prompts, but has a preference accuracy 0.24 lower than SFT with the "
              "same training budget on held-out pairs"),
        (0.5, "RFT round 1 is chosen, but 200 held-out pairs cannot tell whether it beats SFT with the same training "
              "budget"),
    ],
)  # fmt: skip
def test_without_a_scorer_preference_accuracies_are_compared(rft: float, said: str) -> None:
    assert without_a_scorer(200, rft=rft).headline == said


@pytest.mark.parametrize("prompts", [1, 2, 9])
def test_of_too_few_prompts_no_model_is_called_better(prompts: int) -> None:
    evaluated = table(0, 1, prompts=prompts, shown=0)
    found = findings(summarise(parsed(evaluated), "mine", 0))
    units = f"{prompts} held-out prompt{'s' if prompts > 1 else ''}"
    assert found.headline == (
        f"RFT round 1 is chosen, but {units} cannot tell whether it beats SFT with the same training budget"
    )
    (said,) = (sentence for sentence in found.sentences if sentence.startswith("RFT round 1"))
    assert "has too few prompts to be told apart from sft-matched" in said
    assert ("(no interval)" in said) is (prompts == 1)
    assert said.endswith("Below 10 prompts nothing is called a difference.")


def test_what_matters_is_the_recipe_s_to_say() -> None:
    models = parsed(table(0, 1, scorer=False, oracle=False, prompts=200, shown=0))
    lenient = findings(summarise(models, "mine", 0, MattersSettings(share=0.3)))
    assert "does not differ significantly" in lenient.headline
    assert "cannot tell" in findings(summarise(models, "mine", 0)).headline


def test_what_matters_in_score_is_in_deviations_of_the_control_s_scores() -> None:
    evaluated = table(0, 1)
    names = [model["name"] for model in evaluated["models"]]
    control = evaluated["models"][names.index("sft-matched")]
    control["held_out_scores"] = [1.0, 3.0] * 30
    summary = summarise(parsed(evaluated), "mine", 0, MattersSettings(score=0.5))
    assert summary.matters is not None
    assert summary.matters.score == pytest.approx(0.5 * statistics.stdev([1.0, 3.0] * 30), rel=1e-5)
    row, scores = summary.model("rft-r1"), evaluated["models"][names.index("rft-r1")]["held_out_scores"]
    assert row.reward_difference_low is not None and row.reward_difference_high is not None
    low, high = paired_interval(scores, control["held_out_scores"])
    assert (row.reward_difference_low, row.reward_difference_high) == pytest.approx((low, high), rel=1e-5)


def test_a_summary_of_before_is_still_read() -> None:
    summary = summary_of(rft=0.9)
    fields = ("reward_difference_low", "reward_difference_high")
    models = [model.model_copy(update=dict.fromkeys(fields)) for model in summary.models]
    found = findings(summary.model_copy(update={"models": models, "matters": None}))
    assert "does not differ significantly" in found.headline


def test_a_champion_that_is_better_is_called_better() -> None:
    found = findings(summary_of(rft=0.9))
    assert found.headline.startswith("RFT round 1 scores 1.")
    assert found.headline.endswith("higher than SFT with the same training budget")
    assert any("scores higher than sft-matched: +" in sentence for sentence in found.sentences)


def test_the_headline_and_the_sentences_compare_with_the_control_and_not_with_sft() -> None:
    # Its score is 1.6 above that of sft, and 0.8 below that of sft-matched.
    summary = summary_of(rft=0.7, control=0.9)
    difference = summary.model("rft-r1").reward_difference
    assert difference is not None and difference == pytest.approx(-0.8, abs=0.2)
    found = findings(summary)
    by = f"{-difference:.2f}"
    assert found.headline.endswith(f"scores {by} lower than SFT with the same training budget on held-out prompts")
    assert f"scores lower than sft-matched: −{-difference:.3f} (" in found.sentences[1]
    assert found.sentences[2].endswith("gives rft-r1 0.700 and sft-matched 0.900.")
    assert found.sentences[3] == "Preference accuracy on held-out pairs is 0.620 against 0.740."


def test_a_champion_within_the_noise_is_not_called_better() -> None:
    found = findings(summary_of(rft=0.51))
    assert found.headline == (
        "RFT round 1 is chosen, but its score does not differ significantly from that of SFT with the same training "
        "budget"
    )
    assert not any("scores higher" in sentence for sentence in found.sentences)


def test_a_champion_that_is_worse_on_held_out_prompts_is_called_worse() -> None:
    headline = findings(summary_of(rft=0.2)).headline
    assert "was best on validation prompts, but scores" in headline
    assert "lower than" in headline


def test_when_nothing_beat_sft_the_headline_says_so_and_the_rounds_are_still_compared() -> None:
    found = findings(summary_of(rft=0.3, validation=0.1))
    assert found.headline == "No round of reward learning beat supervised fine-tuning on validation prompts"
    assert any(sentence.startswith("RFT round 1") and "scores lower than" in sentence for sentence in found.sentences)


def test_with_both_methods_off_there_is_nothing_to_compare() -> None:
    found = findings(summarise(parsed(table(0, 0)), "quickstart", 0))
    assert found.headline == "Supervised fine-tuning alone: both methods are switched off"
    assert len(found.sentences) == 1


def test_without_a_control_the_reader_is_warned() -> None:
    found = findings(summarise(parsed(table(1, 0, control=False)), "quickstart", 0))
    assert any("no sft-matched" in caveat for caveat in found.caveats)
    assert not any(
        "no sft-matched" in caveat for caveat in findings(summarise(parsed(table(1, 0)), "quickstart", 0)).caveats
    )


def test_a_method_s_best_round_is_the_one_that_the_champion_s_criterion_prefers() -> None:
    only = {"scorer": False, "rejected": False, "oracle": False}
    models = [evaluation("sft", "sft", 0, quality=0.1, **only)]
    # Their demonstration gaps on validation are 0.2, -0.04 and -1.
    models += [
        evaluation(f"irft-r{t}", "irft", t, quality=quality, **only) for t, quality in enumerate((0.8, 0.74, 0.5), 1)
    ]
    summary = summarise(parsed({"models": models}), "paper", 0)
    best = best_round(summary.models, "irft")
    assert best is not None and best.name == summary.champion.name == "irft-r2"


def test_without_a_scorer_no_score_is_mentioned() -> None:
    found = findings(summarise(parsed(table(2, 1, scorer=False, oracle=False)), "paper", 0))
    assert "score" not in found.headline
    assert not any("scores" in sentence and "neither" not in sentence for sentence in found.sentences)
    assert not any("judges" in caveat for caveat in found.caveats)


@pytest.mark.parametrize(("sft", "chosen"), [(0.75, "SFT"), (0.3, "IRFT round 1")])
def test_where_nothing_measures_quality_the_headline_claims_none(sft: float, chosen: str) -> None:
    only = {"scorer": False, "rejected": False, "oracle": False}
    models = [evaluation("sft", "sft", 0, quality=sft, **only), evaluation("irft-r1", "irft", 1, quality=0.7, **only)]
    found = findings(summarise(parsed({"models": models}), "paper", 0))
    assert found.headline == f"{chosen} is chosen by its demonstration gap alone, which does not measure quality"


def test_where_nothing_can_be_chosen_the_headline_says_so() -> None:
    evaluated = table(1, 0)
    for model in evaluated["models"]:
        model["validation"] = None
    found = findings(summarise(parsed(evaluated), "paper", 0))
    assert found.headline == "No model was chosen: there are no metrics on validation prompts"


def test_a_round_is_called_best_on_validation_only_where_it_has_figures_there() -> None:
    evaluated = table(2, 0)
    rounds = [
        sentence
        for sentence in findings(summarise(parsed(evaluated), "paper", 0)).sentences
        if "IRFT round" in sentence
    ]
    assert rounds[0].startswith("IRFT round 1, the method's best round on validation prompts,")
    for model in evaluated["models"]:
        model["validation"] = None
    rounds = [
        sentence
        for sentence in findings(summarise(parsed(evaluated), "paper", 0)).sentences
        if "IRFT round" in sentence
    ]
    assert rounds[0].startswith("IRFT round 2, the last round,")


def test_the_reader_is_warned_where_most_responses_of_sft_or_the_champion_are_cut() -> None:
    evaluated = table(0, 1)
    assert not any("were cut" in caveat for caveat in findings(summarise(parsed(evaluated), "paper", 0)).caveats)
    for model in evaluated["models"]:
        model["held_out"]["ended"] = {"base": 0.0, "sft": 0.4, "rft-r1": 0.05}.get(model["name"], 0.5)
    (caveat,) = (each for each in findings(summarise(parsed(evaluated), "paper", 0)).caveats if "were cut" in each)
    assert "sft (60%), rft-r1 (95%)" in caveat
    assert "base" not in caveat


def test_the_first_caveat_names_the_command_that_repeats_any_recipe_over_seeds() -> None:
    for recipe in ("quickstart", "mine"):
        caveat = findings(summarise(parsed(table(1, 1)), recipe, 3)).caveats[0]
        assert "one seed (3)" in caveat and "‘juicer claim’ repeats the comparison over several seeds" in caveat


def judged(by_judge: float, by_scorer: float = 0.9, nll: float = 30.0) -> Summary:
    """A summary of a run with a judge, whose scores of rft-r1 are `by_judge` above those of the control."""
    models = [
        evaluation("sft", "sft", 0, quality=0.5, validation=0.5),
        evaluation("sft-matched", "sft-matched", 0, quality=0.5, validation=0.6),
        evaluation("rft-r1", "rft", 1, quality=by_scorer, validation=0.9),
    ]
    for model in models:
        added, cost = (by_judge, nll) if model["name"] == "rft-r1" else (0.0, 30.0)
        model["held_out_judged"] = [-2.0 * (place % 5) + added * (place % 3) for place in range(120)]
        model["held_out_nll"] = [cost + place % 7 for place in range(120)]
        model["held_out"] = {**model["held_out"], "judge_mean": added - 4.0, "demonstration_nll_per_token": cost / 12}
        model["held_out"]["prompts"] = 120
        if model["name"] == "sft":
            model["held_out"]["judge_mean"] = -4.5
        model["held_out_scores"] = model["held_out_scores"][:120]
    models[0]["instruments"] = {"pairs": 400, "scorer_accuracy": 0.55, "judge_accuracy": 0.64, "agreement": 0.58}
    return summarise(parsed({"models": models}), "mine", 0)


def test_with_a_judge_models_are_compared_by_the_judge_and_still_chosen_by_the_scorer() -> None:
    summary = judged(by_judge=-1.5)
    assert summary.champion.name == "rft-r1"
    assert findings(summary).headline == (
        "RFT round 1 was best on validation prompts, but is scored by the judge 1.50 lower than SFT with the same "
        "training budget on held-out prompts"
    )
    better = findings(judged(by_judge=1.5))
    assert better.headline == "RFT round 1 is scored by the judge 1.50 higher than SFT with the same training budget"
    (said,) = (sentence for sentence in better.sentences if sentence.startswith("RFT round 1, the method's best round"))
    assert "is scored higher by the judge than sft-matched: +1.500" in said


def test_a_judge_that_sees_no_difference_makes_no_claim_whatever_the_scorer_says() -> None:
    found = findings(judged(by_judge=0.0))
    assert found.headline == (
        "RFT round 1 is chosen, but its score by the judge does not differ significantly from that of SFT with the "
        "same training budget"
    )


def test_what_the_judge_and_the_scorer_are_worth_is_a_caveat() -> None:
    (said,) = (caveat for caveat in findings(judged(1.0)).caveats if caveat.startswith("The judge prefers"))
    assert "in 0.640 (95% interval 0.593 to 0.687) of 400 held-out pairs; a coin would in 0.5." in said
    assert "Scorer and judge, which have no pair in common, agree in 0.580 of these pairs." in said
    assert not any("also judges the responses" in caveat for caveat in findings(judged(1.0)).caveats)


def test_the_cost_of_held_out_demonstrations_is_said_beside_the_score() -> None:
    (said,) = (each for each in findings(judged(1.0, nll=36.0)).sentences if each.startswith("Held-out demonstrations"))
    assert "cost rft-r1 3.000 nats per token and sft-matched 2.500; per response the difference is +6.000" in said


def equal_accuracies(validation: tuple[float, float, float]) -> Findings:
    """What is found where every model ranks all held-out pairs correctly; qualities on validation as given."""
    only: dict[str, Any] = {"scorer": False, "oracle": False, "shown": 0}
    named = (("sft", "sft", 0), ("sft-matched", "sft-matched", 0), ("rft-r1", "rft", 1))
    models = [
        evaluation(*each, quality=4 / 3, validation=quality, **only)
        for each, quality in zip(named, validation, strict=True)
    ]
    return findings(summarise(parsed({"models": models}), "mine", 0))


def test_criteria_that_are_equal_for_all_models_are_said_to_separate_nothing() -> None:
    found = equal_accuracies((4 / 3, 4 / 3, 4 / 3))
    assert found.headline == "Nothing on validation prompts tells the models apart: SFT is taken as the simplest"


def test_held_out_accuracies_that_are_all_equal_are_no_evidence_either_way() -> None:
    same = "very model has the same preference accuracy (1.000), which separates nothing: cannot tell whether"
    assert equal_accuracies((0.5, 0.6, 0.9)).headline == (
        f"RFT round 1 is chosen, but e{same} it beats SFT with the same training budget"
    )
    assert equal_accuracies((0.5, 0.9, 0.6)).headline == (
        f"E{same} reward learning beats SFT with the same training budget"
    )


def win_rates(kind: str, rate: float, prompts: int, **others: Any) -> dict[str, Any]:
    """What people or the pairwise judge say of a model against sft-matched."""
    found = {"against": "sft-matched", "prompts": prompts, "win_rate": rate, "win_rate_sem": 0.5 / prompts**0.5}
    extra: dict[str, dict[str, Any]] = {
        "voted": {"votes": prompts, "voters": 2, "outdated": 0, "agreement": {"share": 0.8, "of": 25}},
        "pairwise": {"judge": "a program", "consistent": 0.9, "questions": 2 * prompts, "failed": 0},
    }
    return {kind: {**found, **extra[kind], **others}}


def of_demonstrations_alone(**added: Any) -> Findings:
    """A run with neither a scorer nor pairs; what was added to the row of irft-r1."""
    models = table(1, 0, scorer=False, oracle=False, rejected=False)["models"]
    models[-1] |= added
    return findings(summarise(parsed({"models": models}), "help desk", 0))


def test_with_demonstrations_alone_the_choice_says_that_nothing_measured_quality():
    assert "does not measure quality" in of_demonstrations_alone().headline


def test_people_s_votes_are_what_a_model_is_held_against_the_control_by():
    found = of_demonstrations_alone(**win_rates("voted", 0.75, 100))
    assert (
        found.headline
        == "IRFT round 1 is preferred to SFT with the same training budget by people in 75% of comparisons"
    )
    (said,) = (sentence for sentence in found.sentences if sentence.startswith("IRFT round 1, "))
    assert "is preferred by people to sft-matched: it wins 0.750, ties half" in said and "100 held-out prompts" in said
    worse = of_demonstrations_alone(**win_rates("voted", 0.25, 100)).headline
    assert worse.endswith("is preferred to SFT with the same training budget by people in only 25% of comparisons on "
                          "held-out prompts")  # fmt: skip


def test_few_votes_are_no_verdict_and_the_pairwise_judge_is_asked():
    judged = win_rates("pairwise", 0.75, 200)
    few = of_demonstrations_alone(**win_rates("voted", 1.0, 9), **judged)
    assert "by the pairwise judge in 75% of comparisons" in few.headline
    enough = of_demonstrations_alone(**win_rates("voted", 0.5, 4000), **judged)
    assert "win rate by people's votes does not differ significantly from 1/2" in enough.headline
