"""The gates of promotion, on made-up figures."""

from pathlib import Path
from typing import Any

import pytest

from juicer.evaluation.results import EvaluatedModel
from juicer.registry.gates import (
    BENCHMARKS,
    Judged,
    PromotionSettings,
    Verdict,
    as_markdown,
    evidence_of,
    judge,
    judge_code,
)
from juicer.registry.per_prompt import PerPromptFigures, per_prompt_of
from juicer.registry.promote import Decision
from juicer.runtime.errors import InputError
from juicer.runtime.files import read_yaml
from tests.example_evaluations import evaluation

ROOT = Path(__file__).resolve().parents[2]
FIGURES = {"prompts": 100, "reward_mean": 1.0, "reward_sem": 0.1, "ended": 1.0, "response_tokens": 20.0}
GATES = {"better_than_base": ["reward_mean"], "not_worse_than_champion": ["reward_mean", "ended"]}


def model(name: str, **figures: float) -> Judged:
    return Judged(name, name, {**FIGURES, **figures})


def verdicts(
    candidate: Judged, champion: Judged | None = None, base: Judged | None = None, **gates: Any
) -> dict[str, Verdict]:
    settings = PromotionSettings.parse({**GATES, **gates}, "gates.yaml")
    found = judge(settings, candidate, base or model("base", reward_mean=0.0), model("sft"), champion)
    return {verdict.gate: verdict for verdict in found}


def test_better_than_base_means_by_more_than_the_noise_of_the_difference() -> None:
    gate = "reward_mean better than base"
    # The error of the difference of two figures with errors of 0.1 is 0.1414. Of 100 prompts noise is 1.984 * 1.04 of
    # these, 0.292.
    assert verdicts(model("a", reward_mean=0.30))[gate].result == "passed"
    assert verdicts(model("a", reward_mean=0.29))[gate].result == "failed"
    assert verdicts(model("a", reward_mean=0.29), noise=1.0)[gate].result == "passed"


def test_not_worse_than_the_champion_leaves_room_for_noise() -> None:
    gate, champion = "reward_mean not worse than the champion", model("c", reward_mean=1.0)
    assert verdicts(model("a", reward_mean=0.71), champion)[gate].result == "passed"
    found = verdicts(model("a", reward_mean=0.70), champion)[gate]
    assert found.result == "failed"
    assert found.numbers == "0.7 ± 0.1 against 1 ± 0.1: difference -0.3, noise 0.29"


@pytest.mark.parametrize(("prompts", "result"), [(1, "failed"), (9, "failed"), (10, "passed")])
def test_of_too_few_prompts_no_gate_says_that_one_model_is_better_or_no_worse(prompts: int, result: str) -> None:
    few, good = {"prompts": prompts}, {"reward_mean": 9.0}
    found = verdicts(model("a", **few, **good), model("c", **few), model("base", **few, reward_mean=0.0))
    gates = [verdict for gate, verdict in found.items() if "than" in gate]
    assert [verdict.result for verdict in gates] == [result] * 3
    assert all(verdict.numbers.startswith(f"too few to tell: {prompts} prompts") for verdict in gates) is (prompts < 10)


def test_a_single_prompt_has_no_standard_error_and_its_gate_says_too_few() -> None:
    one = Judged("a", "a", {"prompts": 1, "reward_mean": 2.0, "ended": 1.0})
    found = verdicts(one, base=Judged("base", "base", {"prompts": 1, "reward_mean": 0.0}), not_worse_than_champion=[])
    assert found["reward_mean better than base"].numbers == (
        "too few to tell: 1 prompts, and below 10 nothing is called a difference (2 against 0)"
    )


def test_with_few_prompts_noise_is_longer_than_with_many() -> None:
    gate = "reward_mean better than base"
    for prompts, result in ((1000, "passed"), (12, "failed")):
        base = model("base", reward_mean=0.0, prompts=prompts)
        assert verdicts(model("a", reward_mean=0.35, prompts=prompts), base=base)[gate].result == result


def test_a_share_of_all_prompts_has_an_error_too() -> None:
    champion = model("c", ended=1.0)
    assert verdicts(model("a", ended=0.97), champion)["ended not worse than the champion"].result == "passed"
    assert verdicts(model("a", ended=0.9), champion)["ended not worse than the champion"].result == "failed"


def test_the_error_of_a_preference_accuracy_is_that_of_its_pairs() -> None:
    of_pairs, of_prompts = (
        Judged("a", "a", {"prompts": 1000, "preference_accuracy": 0.65, **more}) for more in ({"pairs": 20}, {})
    )
    assert of_pairs.error("preference_accuracy") == pytest.approx((0.625 * 0.375 / 24) ** 0.5)
    assert of_prompts.error("preference_accuracy") < 0.02, "figures of before say nothing of pairs"


def test_without_a_champion_nothing_is_compared_with_it() -> None:
    assert verdicts(model("a"))["ended not worse than the champion"].result == "not asked"


def test_benchmarks_are_asked_for_where_either_has_them() -> None:
    gates = {"not_worse_where_measured": ["leaderboard_arc"]}
    gate, arc = "leaderboard_arc not worse than the champion", {"leaderboard_arc": 70.0, "leaderboard_arc_sem": 0.5}
    assert verdicts(model("a"), model("c"), **gates)[gate].result == "not asked"
    assert verdicts(model("a", **{**arc, "leaderboard_arc": 60.0}), model("c", **arc), **gates)[gate].result == "failed"
    with pytest.raises(InputError, match=r"a has no metric 'leaderboard_arc' \(the stage leaderboard@a measures it"):
        verdicts(model("a"), model("c", **arc), **gates)


SCORELESS = {
    "better_than_base": [],
    "better_where_measured": ["reward_mean", "leaderboard_average"],
    "not_worse_than_champion": [],
}


def benchmarks(name: str, average: float) -> Judged:
    """A model of a recipe without a scorer; the error of its average is sqrt(6 * 1.2²) / 6 = 0.49."""
    errors = {f"{benchmark}_sem": 1.2 for benchmark in BENCHMARKS}
    return Judged(name, name, {**errors, **dict.fromkeys(BENCHMARKS, average), "leaderboard_average": average})


@pytest.mark.parametrize(("average", "result"), [(61.4, "passed"), (61.3, "failed")])
def test_without_a_scorer_the_average_of_the_leaderboard_says_what_is_better(average: float, result: str) -> None:
    settings = PromotionSettings.parse(SCORELESS, "gates.yaml")
    base = benchmarks("base", 60.0)
    reward, board = judge(settings, benchmarks("a", average), base, base, None)
    assert (reward.gate, reward.result) == ("reward_mean better than base", "not asked")
    # The error of the difference is 0.69, and 1.96 of these are 1.36.
    assert (board.gate, board.result) == ("leaderboard_average better than base", result)


@pytest.mark.parametrize(("limit", "result"), [(9, "failed"), (10, "failed"), (1000, "passed")])
def test_a_benchmark_that_was_cut_short_counts_as_few_questions(limit: int, result: str) -> None:
    settings = PromotionSettings.parse(SCORELESS, "gates.yaml")
    candidate = benchmarks("a", 61.4)
    base, cut = benchmarks("base", 60.0), Judged("a", "a", {**candidate.figures, "leaderboard_limit": limit})
    _, board = judge(settings, cut, base, base, None)
    assert board.result == result
    assert ("too few to tell: 9 questions" in board.numbers) is (limit < 10)


def test_what_is_asked_where_measured_has_to_be_measured_of_both() -> None:
    settings = PromotionSettings.parse(SCORELESS, "gates.yaml")
    with pytest.raises(InputError, match=r"base has no metric 'leaderboard_average' \(the stage leaderboard@base"):
        judge(settings, benchmarks("a", 61.0), Judged("base", "base", {}), model("sft"), None)


def test_nothing_is_promoted_for_want_of_anything_to_measure_it_by() -> None:
    settings, empty = PromotionSettings.parse(SCORELESS, "gates.yaml"), Judged("base", "base", {"prompts": 100})
    with pytest.raises(InputError, match="has any of reward_mean, leaderboard_average: nothing says what is better"):
        judge(settings, Judged("models:/q/3", "irft-r1", {"prompts": 100}), empty, empty, None)
    found = verdicts(model("a", reward_mean=2.0), better_where_measured=["leaderboard_average"])
    assert found["leaderboard_average better than base"].result == "not asked"


def test_the_declared_gates_can_promote_with_a_scorer_and_without() -> None:
    gates = PromotionSettings.parse(read_yaml(ROOT / "mlflow/promotion.yaml"), "mlflow/promotion.yaml")
    sane = {"prompts": 250, "ended": 0.99, "response_tokens": 200.0, "kl_to_sft": 3.0, "distinct_2": 0.4}
    scored = {"reward_mean": 1.0, "reward_sem": 0.1, "preference_accuracy": 0.5, "preference_gap": 0.0}
    better = {**scored, "reward_mean": 2.0, "preference_accuracy": 0.8}
    for high, low in ((better, scored), (benchmarks("a", 65.0).figures, benchmarks("b", 60.0).figures)):
        base = Judged("base", "base", {**sane, **low})
        results = {verdict.result for verdict in judge(gates, Judged("a", "a", {**sane, **high}), base, base, None)}
        assert results == {"passed", "not asked"}


def test_ranges_hold_for_a_figure_and_for_its_ratio_to_sft() -> None:
    gates = {"within": {"ended": {"at_least": 0.9}}, "relative_to_sft": {"response_tokens": {"at_most": 2}}}
    found = verdicts(model("a", ended=0.8, response_tokens=50.0), **gates)
    assert found["ended at least 0.9"].result == "failed"
    assert found["response_tokens over sft's at most 2"].numbers == "2.5 = 50 / 20"
    assert found["response_tokens over sft's at most 2"].result == "failed"


@pytest.mark.parametrize(
    ("tags", "result"),
    [
        ({"git_dirty": "true"}, "failed"),
        ({"git_dirty": "false", "git_commit": "abc"}, "passed"),
        ({"git_dirty": "unknown"}, "not asked"),
        ({}, "not asked"),
    ],
)
def test_only_a_version_that_says_so_is_one_of_uncommitted_code(tags: dict[str, str], result: str) -> None:
    (found,) = judge_code(PromotionSettings.parse(GATES, "gates.yaml"), "models:/q/3", tags)
    assert found.result == result


def test_the_refusal_of_uncommitted_code_says_what_to_do_and_can_be_switched_off() -> None:
    (found,) = judge_code(PromotionSettings.parse(GATES, "gates.yaml"), "models:/q/3", {"git_dirty": "true"})
    assert found.numbers == (
        "models:/q/3 was registered with uncommitted changes (commit it, then: dvc repro register)"
    )
    off = PromotionSettings.parse({**GATES, "committed_code": False}, "gates.yaml")
    assert judge_code(off, "models:/q/3", {"git_dirty": "true"}) == []


def test_a_missing_metric_names_the_stage_that_measures_it() -> None:
    candidate = Judged("models:/q/3 (irft-r1)", "irft-r1", {"prompts": 100})
    with pytest.raises(InputError) as error:
        verdicts(candidate)
    assert str(error.value) == (
        "models:/q/3 (irft-r1) has no metric 'reward_mean' "
        "(the stage evaluate@irft-r1 measures it: dvc repro evaluate@irft-r1 && dvc repro register)"
    )


@pytest.mark.parametrize(
    ("gates", "said"),
    [
        ({"better_than_base": ["reward_meen"]}, "unknown metric 'reward_meen' \\(did you mean 'reward_mean'\\?\\)"),
        ({"within": {"endet": {"at_least": 1}}}, "unknown metric 'endet' \\(did you mean 'ended'\\?\\)"),
        ({"better_where_measured": ["endet"]}, "unknown metric 'endet' \\(did you mean 'ended'\\?\\)"),
        ({"better_than_base": ["kl_to_sft"]}, "'kl_to_sft' has no standard error to compare it by"),
        ({"within": {"ended": {}}}, "a range needs at_least or at_most"),
        ({"better_than_bass": []}, "unknown parameter 'better_than_bass' \\(did you mean 'better_than_base'\\?\\)"),
    ],
)
def test_a_wrong_gate_is_refused_with_the_nearest_right_one(gates: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        PromotionSettings.parse({**GATES, **gates}, "gates.yaml")


def test_the_declared_gates_are_valid() -> None:
    settings = PromotionSettings.parse(read_yaml(ROOT / "mlflow/promotion.yaml"), "mlflow/promotion.yaml")
    assert settings.better_where_measured and settings.not_worse_than_champion and settings.relative_to_sft


def test_failed_gates_come_first_in_the_table() -> None:
    table = as_markdown([Verdict("a", "passed", "1"), Verdict("b", "failed", "2")])
    assert table.splitlines()[2:] == ["| failed | b | 2 |", "| passed | a | 1 |"]


BETTER = {"better_than_base": [], "not_worse_than_champion": []}
NLL = {"demonstration_nll": 40.0, "demonstration_nll_sem": 1.0}


def test_of_a_cost_lower_is_better() -> None:
    base, gate = model("base", **NLL), "demonstration_nll better than base"
    gates = {**BETTER, "better_than_base": ["demonstration_nll"]}
    found = verdicts(model("a", demonstration_nll=35.0, demonstration_nll_sem=1.0), base=base, **gates)[gate]
    assert found.result == "passed" and found.numbers.endswith("difference -5, noise 2.9 (lower is better)")
    higher = model("a", demonstration_nll=45.0, demonstration_nll_sem=1.0)
    assert verdicts(higher, base=base, **gates)[gate].result == "failed"
    worse = {**BETTER, "better_than_base": ["reward_mean"], "not_worse_than_champion": ["demonstration_nll"]}
    gate = "demonstration_nll not worse than the champion"
    assert verdicts(higher, model("c", **NLL), base=base, **worse)[gate].result == "failed"
    assert verdicts(model("a", **NLL), model("c", **NLL), base=base, **worse)[gate].result == "passed"


def rows(shift: float, spread: float = 0.2, *, count: int = 100, prefix: str = "p") -> PerPromptFigures:
    """Costs that differ much between prompts, and between two models by the shift, and a little by prompt."""
    values = [40.0 + 10 * (-1) ** place + shift + spread * (place % 3 - 1) * shift for place in range(count)]
    return PerPromptFigures(id=[f"{prefix}{place}" for place in range(count)], figures={"demonstration_nll": values})


def measured(name: str, kept: PerPromptFigures | None, value: float) -> Judged:
    figures = {**FIGURES, "demonstration_nll": value, "demonstration_nll_sem": 1.0}
    return Judged(name, name, figures, kept)


def mean_of(kept: PerPromptFigures) -> float:
    values = [value for value in kept.figures["demonstration_nll"] if value is not None]
    return sum(values) / len(values)


def test_what_is_known_of_every_prompt_is_paired_which_shows_smaller_differences() -> None:
    gates, gate = {**BETTER, "better_than_base": ["demonstration_nll"]}, "demonstration_nll better than base"
    mine, theirs = rows(-0.5), rows(0.0)
    candidate, base = measured("a", mine, mean_of(mine)), measured("base", theirs, mean_of(theirs))
    found = verdicts(candidate, base=base, **gates)[gate]
    assert found.result == "passed" and "paired over 100 prompts: difference -0." in found.numbers
    assert found.evidence == "demonstration_nll against base, paired"
    # The same figures without the prompts, with those of other prompts, or of another evaluation, are independent.
    for kept in (None, rows(-0.5, prefix="q"), rows(-5.0)):
        apart = verdicts(measured("a", kept, mean_of(mine)), base=base, **gates)[gate]
        assert apart.result == "failed" and "paired" not in apart.numbers


def test_a_version_can_be_asked_to_be_better_than_sft_matched() -> None:
    gates = {**BETTER, "better_than": {"sft-matched": ["reward_mean"]}}
    settings = PromotionSettings.parse(gates, "gates.yaml")
    base, control = model("base", reward_mean=0.0), {"sft-matched": model("sft-matched", reward_mean=0.9)}
    (found,) = judge(settings, model("a", reward_mean=1.0), base, model("sft"), None, control)
    assert (found.gate, found.result) == ("reward_mean better than sft-matched", "failed")
    (found,) = judge(settings, model("a", reward_mean=2.0), base, model("sft"), None, control)
    assert (found.result, found.evidence) == ("passed", "reward_mean against sft-matched")
    with pytest.raises(InputError, match="sft-matched was not evaluated on the prompts of a"):
        judge(settings, model("a"), base, model("sft"), None)
    with pytest.raises(InputError, match=r"it is that model\): nothing says what is better"):
        judge(settings, model("sft-matched"), base, model("sft"), None, control)


def wins(share: float, prompts: int) -> dict[str, float]:
    error = (share * (1 - share) / prompts) ** 0.5
    return {"judged_win_rate": share, "judged_win_rate_sem": error, "judged_win_rate_prompts": prompts}


@pytest.mark.parametrize(
    ("share", "prompts", "result"),
    [
        (0.65, 100, "passed"),
        (0.55, 100, "failed"),
        (0.35, 100, "failed"),
        (1.0, 50, "passed"),
        (1.0, 10, "passed"),
        (0.9, 9, "not asked"),
    ],
)
def test_a_win_rate_against_sft_matched_is_held_against_one_half(share: float, prompts: int, result: str) -> None:
    gates = {**BETTER, "better_than_where_measured": {"sft-matched": ["judged_win_rate"]}}
    settings = PromotionSettings.parse({**gates, "better_than_base": ["reward_mean"]}, "gates.yaml")
    base = model("base", reward_mean=0.0)
    _, found = judge(settings, model("a", **wins(share, prompts)), base, model("sft"), None)
    assert (found.gate, found.result) == ("judged_win_rate better than sft-matched", result)
    _, found = judge(settings, model("a"), base, model("sft"), None)
    assert (found.result, found.numbers) == ("not asked", "it was not measured")


def declared() -> PromotionSettings:
    return PromotionSettings.parse(read_yaml(ROOT / "mlflow/promotion.yaml"), "mlflow/promotion.yaml")


SANE = {"prompts": 250, "ended": 0.99, "response_tokens": 200.0, "kl_to_sft": 3.0, "distinct_2": 0.4}


def bare(name: str, nll: float, **more: float) -> Judged:
    """A model of a project with demonstrations alone."""
    return Judged(name, name, {**SANE, "demonstration_nll": nll, "demonstration_nll_sem": 1.0, **more})


def test_a_project_with_demonstrations_alone_passes_or_fails_by_their_likelihood_and_the_record_says_so() -> None:
    base, sft = bare("base", 60.0), bare("sft", 40.0)
    found = judge(declared(), bare("irft-r1", 42.0), base, sft, None)
    assert {each.result for each in found} == {"passed", "not asked"}
    assert evidence_of(found) == (
        "demonstration_nll against base; the likelihood of demonstrations only: no response was judged"
    )
    decision = Decision("promotion of mine 3 (irft-r1)", {}, {"champion": "3"}, False, found)
    assert str(decision).splitlines()[-1] == f"  better by: {evidence_of(found)}"
    assert f"Evidence that it is better: {evidence_of(found)}." in decision.as_markdown()
    refused = judge(declared(), bare("irft-r1", 61.0), base, sft, None)
    assert [each.gate for each in refused if each.result == "failed"] == ["demonstration_nll better than base"]
    worse = judge(declared(), bare("irft-r1", 50.0), base, sft, bare("sft", 40.0))
    assert [each.gate for each in worse if each.result == "failed"] == ["demonstration_nll not worse than the champion"]
    assert evidence_of([]) == "none"


def test_with_a_judge_the_likelihood_is_not_asked_and_the_win_rate_decides() -> None:
    base, sft = bare("base", 60.0), bare("sft", 40.0)
    for share, results in ((0.7, {"passed", "not asked"}), (0.5, {"passed", "not asked", "failed"})):
        found = judge(declared(), bare("irft-r1", 90.0, **wins(share, 200)), base, sft, None)
        assert {each.result for each in found} == results
    nll = next(each for each in found if each.gate == "demonstration_nll better than base")
    assert (nll.result, nll.numbers) == ("not asked", "other gates say what is better")


def test_gates_of_before_are_read_and_ask_what_they_asked() -> None:
    before = {
        "noise": 1.96, "committed_code": True, "better_than_base": [], "better_where_measured": ["reward_mean"],
        "not_worse_than_champion": ["ended"], "not_worse_where_measured": ["reward_mean"],
        "within": {"ended": {"at_least": 0.9}}, "relative_to_sft": {"response_tokens": {"at_most": 2}},
    }  # fmt: skip
    settings = PromotionSettings.parse(before, "gates.yaml")
    assert settings.references == {"base", "sft"}
    found = judge(settings, model("a", reward_mean=2.0), model("base", reward_mean=0.0), model("sft"), None)
    assert [each.result for each in found] == ["passed", "not asked", "not asked", "passed", "passed"]


def test_an_unknown_model_to_be_better_than_is_refused() -> None:
    with pytest.raises(InputError, match="better_than"):
        PromotionSettings.parse({**BETTER, "better_than": {"sft_matched": ["reward_mean"]}}, "gates.yaml")


def test_the_figures_of_each_prompt_are_those_whose_means_are_the_metrics() -> None:
    values = evaluation("sft", "sft", 0, prompts=12)
    count = len(values["held_out_scores"])
    plain = {"kl": [0.0], "response_tokens": [3], "ended": [True], "empty": [False], "repeated": [False]}
    values["held_out_nll"] = [float(10 + place) for place in range(count)]
    values["held_out_rows"] = {
        "id": [f"p{place}" for place in range(count)],
        "demonstration_tokens": [5 + place % 3 for place in range(count)],
        "gap": [None] * count, "gap_per_token": [None] * count,
        **{name: value * count for name, value in plain.items()},
    }  # fmt: skip
    found = per_prompt_of(EvaluatedModel.parse(values, "sft.json"))
    assert found is not None and set(found.figures) == {
        "reward_mean",
        "demonstration_nll",
        "demonstration_nll_per_token",
    }
    ratio = sum(values["held_out_nll"]) / sum(values["held_out_rows"]["demonstration_tokens"])
    assert found.of("demonstration_nll_per_token", ratio) is not None
    assert found.of("demonstration_nll_per_token", ratio + 1) is None and found.of("judge_mean", 0.0) is None
    del values["held_out_rows"]
    assert per_prompt_of(EvaluatedModel.parse(values, "sft.json")) is None
