"""The headline says what the intervals say, whatever their sign."""

import pytest

from juicer.reporting.contract import Summary
from juicer.reporting.findings import best_round, findings, verdict
from juicer.reporting.numbers import summarise
from tests.example_evaluations import evaluation, parsed, table


def summary_of(**quality: float) -> Summary:
    """A summary whose rft-r1 leads on validation, with held-out scores of the given quality."""
    models = [
        evaluation("sft", "sft", 0, quality=0.5, validation=0.5),
        evaluation("sft-matched", "sft-matched", 0, quality=quality.get("control", 0.5), validation=0.6),
        evaluation("rft-r1", "rft", 1, quality=quality["rft"], validation=quality.get("validation", 0.9)),
    ]
    return summarise(parsed({"models": models}), "quickstart", 0)


def test_a_difference_is_told_from_zero_by_its_interval() -> None:
    assert verdict(1.0, 0.5) == "better"
    assert verdict(-1.0, 0.5) == "worse"
    assert verdict(1.0, 0.52) == "undecided"
    assert verdict(0.0, 0.0) == "undecided"
    assert verdict(None, None) == "undecided"


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
    assert "cannot be compared by score" in found.headline
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
