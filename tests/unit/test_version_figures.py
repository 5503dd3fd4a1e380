"""The figures of a version in one tag, those of older versions, and its description."""

import json

from juicer.registry.figures import FIGURES, as_tag, describe, described_anew, figures_of, former, measured_anew
from juicer.registry.gates import METRICS

TAGS = {
    "model": "irft-r2", "method": "irft", "round": "2", "recipe": "quickstart", "seed": "0", "parent": "3",
    "dvc_path": "models/irft/r2", "dvc_md5": "ab.dir", "git_commit": "cd", "git_dirty": "false",
}  # fmt: skip


def test_figures_are_read_in_both_forms_and_the_new_one_counts() -> None:
    old = {**TAGS, "metric.reward_mean": "0.5", "metric.prompts": "207"}
    assert figures_of(old) == {"reward_mean": 0.5, "prompts": 207.0}
    assert figures_of({**old, FIGURES: '{"reward_mean":0.25}'}) == {"reward_mean": 0.25}
    assert figures_of(TAGS) == {}
    assert former(old) == ["metric.prompts", "metric.reward_mean"]
    assert former({**TAGS, FIGURES: "{}"}) == []


def test_a_tag_holds_every_metric_that_a_gate_knows_within_the_limit_of_mlflow() -> None:
    figures = {f"{name}{end}": -1.23456789e-5 for name in METRICS for end in ("", "_sem", "_low", "_high")}
    text = as_tag(figures)
    assert len(text) <= 5000
    assert json.loads(text).keys() == figures.keys()
    assert figures_of({FIGURES: text})["reward_mean"] == -1.23457e-05


def test_an_evaluation_on_the_same_prompts_adds_to_the_figures_and_one_on_others_replaces_them() -> None:
    before = measured_anew(TAGS, {"reward_mean": 1.0, "ended": 1.0, "leaderboard_mmlu": 25.0}, "one")
    assert before["evaluated_on"] == "one"
    same = measured_anew({**TAGS, **before}, {"reward_mean": 2.0}, "one")
    assert figures_of(same) == {"reward_mean": 2.0, "ended": 1.0, "leaderboard_mmlu": 25.0}
    other = measured_anew({**TAGS, **before}, {"reward_mean": 3.0}, "other")
    assert figures_of(other) == {"reward_mean": 3.0, "leaderboard_mmlu": 25.0}
    assert other["evaluated_on"] == "other"


def test_figures_of_an_older_version_move_into_one_tag_when_it_is_evaluated_again() -> None:
    old = {**TAGS, "metric.reward_mean": "0.5", "metric.ended": "1", "evaluated_on": "one"}
    assert figures_of(measured_anew(old, {"reward_mean": 0.75}, "one")) == {"reward_mean": 0.75, "ended": 1.0}


def test_a_description_says_what_a_version_is_and_how_it_did() -> None:
    tags = {**TAGS, **measured_anew({}, {"reward_mean": 1.53, "reward_sem": 0.1, "prompts": 207}, "one")}
    text = describe(tags)
    first, *_ = text.splitlines()
    assert first.startswith("irft-r2: IRFT, implicit reward learning") and first.endswith("round 2.")
    assert "Recipe `quickstart`, seed 0, trained from version 3." in text
    assert "| reward_mean | 1.53 ± 0.1 |" in text
    assert "| prompts | 207 |" in text
    assert "commit `cd`." in text and "with uncommitted changes" not in text
    assert "with uncommitted changes" in describe({**tags, "git_dirty": "true"})
    assert "Not evaluated yet." in describe(TAGS)


def test_a_description_follows_the_figures_unless_somebody_else_wrote_it() -> None:
    after = {**TAGS, FIGURES: '{"reward_mean":2.0}'}
    for ours in (None, "", describe(TAGS)):
        assert described_anew(ours, TAGS, after) == describe(after)
    assert described_anew(describe(after), TAGS, after) is None
    assert described_anew("# quickstart 3: the model card", TAGS, after) is None


def test_win_rates_that_the_summary_no_longer_has_are_dropped_and_other_figures_stay() -> None:
    figures = {"ended": 1.0, "voted_win_rate": 0.8, "voted_win_rate_prompts": 40.0, "validation_judged_win_rate": 0.6}
    before = {**TAGS, **measured_anew(TAGS, {**figures, "leaderboard_mmlu": 25.0}, "one")}
    renewed = measured_anew(before, {"ended": 1.0}, "one", judged=True)
    assert figures_of(renewed) == {"ended": 1.0, "leaderboard_mmlu": 25.0}
    assert figures_of(measured_anew(before, {"ended": 0.9}, "one"))["voted_win_rate"] == 0.8, "an evaluation on demand"
