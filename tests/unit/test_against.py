"""Two outcomes side by side: what is paired, what is only a difference of means, what has changed."""

from collections.abc import Mapping
from typing import Any

import pytest

from juicer.evaluation.results import EvaluatedModel
from juicer.reporting.against import Against, ChangedPath, changed_paths, compare
from juicer.reporting.against_page import lines_of, render
from juicer.reporting.numbers import summarise
from juicer.reporting.outcomes import Outcome, lists_of_code, parsed_lock, starting_points, values_read
from tests.example_evaluations import parsed, table, with_rows

LOCK = """schema: '2.0'
stages:
  fetch:
    cmd: python -m tasks.fetch --out data/raw
    deps:
    - path: mine.jsonl
      hash: md5
      md5: {mine}
      size: 1
    - path: code/fetch.json
      hash: md5
      md5: {code}
      size: 1
    params:
      params.yaml:
        seed: {seed}
        irft:
          rounds: 3
          training:
            beta: {beta}
        graph.base: models/base
    outs:
    - path: data/raw
      hash: md5
      md5: {data}
      size: 1
"""
KNOWN = {"mine": "a" * 32, "code": "b" * 32, "data": "c" * 32, "seed": 0, "beta": 0.1}


def outcome(
    label: str,
    *,
    ids: str = "p",
    shift: float = 0.0,
    values: Mapping[str, Any] | None = None,
    lock: Mapping[str, Any] | None = None,
    rows: bool = True,
    modules: Mapping[str, dict[str, str]] | None = None,
    irft: int = 2,
) -> Outcome:
    """An outcome of made-up evaluations, whose scores are all higher by `shift`, with a little noise."""
    evaluated = table(irft, 1)
    names = [f"{ids}{place}" for place in range(60)]
    for model in evaluated["models"]:
        scores = model["held_out_scores"]
        model["held_out_scores"] = [score + shift * (1 + 0.1 * (place % 3)) for place, score in enumerate(scores)]
        model["held_out"]["reward_mean"] += shift * 1.1
        if rows:
            with_rows(model, names)
    models: dict[str, EvaluatedModel] = {model.name: model for model in parsed(evaluated).models}
    summary = summarise(parsed(evaluated), "quickstart", 0)
    known = parsed_lock(LOCK.format(**{**KNOWN, **(lock or {})}))
    return Outcome(
        label=label,
        recipe="quickstart",
        seed="0",
        models=summary.models,
        champion=summary.champion.name,
        values={**values_read(known, known.stages), **(values or {})},
        whole=True,
        lock=known,
        evaluation=models.get,
        list_of_code=(modules or {}).get,
    )


def found(here: Outcome, there: Outcome) -> Against:
    return compare(here, there)


def test_scores_of_the_same_prompts_are_paired_and_a_small_shift_is_found() -> None:
    result = found(outcome("here", shift=0.05), outcome("HEAD~1"))
    assert result.champions is not None and result.champions.common == 60
    score = result.champions.of("reward_mean")
    assert score is not None and score.paired is not None
    assert score.paired.mean == pytest.approx(0.055, abs=1e-6)
    assert score.verdict == "better", "the spread between prompts plays no part"
    assert result.headline == "rft-r1 here is better than rft-r1 of HEAD~1: its score is 0.055 higher"


def test_prompts_are_paired_by_their_ids_and_not_by_their_places() -> None:
    there, here = outcome("there"), outcome("here")
    model = there.evaluation("rft-r1")
    assert model is not None and model.held_out_rows is not None
    rows = model.held_out_rows.model_copy(update={"id": model.held_out_rows.id[::-1]})
    turned = model.model_copy(update={"held_out_scores": model.held_out_scores[::-1], "held_out_rows": rows})
    result = found(here, Outcome(**{**vars(there), "evaluation": {"rft-r1": turned}.get}))
    assert result.champions is not None
    score = result.champions.of("reward_mean")
    assert score is not None and score.paired is not None
    assert (score.paired.mean, score.paired.error) == (0.0, 0.0)
    assert result.headline == "rft-r1 here has the same score as rft-r1 of there on every held-out prompt"


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ({"ids": "other"}, "The held-out prompts are others"),
        ({"rows": False}, "What was measured on each prompt is not to be had for both"),
    ],
)
def test_without_common_prompts_there_is_a_difference_of_means_and_no_verdict(there: dict[str, Any], said: str) -> None:
    result = found(outcome("here", shift=1.0), outcome("there", **there))
    assert result.champions is not None
    assert result.champions.note.startswith(said)
    assert {each.verdict for each in result.champions.compared} == {""}
    assert "which is not compared prompt by prompt" in result.headline


def test_scores_of_another_scorer_are_not_paired_and_likelihoods_still_are() -> None:
    result = found(outcome("here", values={"scorer.model": "mine"}), outcome("there", values={"scorer.model": "other"}))
    assert result.champions is not None
    score, nll = result.champions.of("reward_mean"), result.champions.of("demonstration_nll")
    assert score is not None and score.paired is None
    assert nll is None or nll.paired is not None
    gap = result.champions.of("preference_gap")
    assert gap is not None and gap.paired is not None
    assert "of scorer" in result.champions.note


def test_a_lower_likelihood_cost_is_better_and_a_longer_response_is_only_higher() -> None:
    here, there = outcome("here"), outcome("there")
    model = here.evaluation("rft-r1")
    assert model is not None and model.held_out_rows is not None
    longer = model.held_out_rows.model_copy(
        update={"response_tokens": [25 + place % 4 for place in range(60)], "gap": [0.5] * 60}
    )
    cheaper = model.model_copy(
        update={"held_out_nll": [29.0 + place % 5 for place in range(60)], "held_out_rows": longer}
    )
    models = [row.model_copy(update={"demonstration_nll": 33.0}) for row in here.models]
    here = Outcome(**{**vars(here), "evaluation": {"rft-r1": cheaper}.get, "models": models})
    result = found(here, Outcome(**{**vars(there), "models": models}))
    assert result.champions is not None
    verdicts = {each.measure.key: each.verdict for each in result.champions.compared}
    assert verdicts["demonstration_nll"] == "better"
    assert verdicts["response_tokens"] == "higher"
    assert verdicts["preference_accuracy"] == "better"


def test_models_of_one_side_only_are_named() -> None:
    result = found(outcome("here", irft=3), outcome("there", irft=1))
    assert (result.only_here, result.only_there) == (["irft-r2", "irft-r3"], [])
    assert "irft-r1" in [pair.here for pair in result.models]


def test_changed_values_are_those_that_stages_read_without_what_is_derived() -> None:
    there = outcome("there", lock={"beta": 0.3}, values={"gone": 1})
    result = found(outcome("here"), there)
    assert [(each.key, each.there, each.here) for each in result.values] == [
        ("gone", "1", "not there"),
        ("irft.training.beta", "0.3", "0.1"),
    ]
    partly = found(outcome("here"), Outcome(**{**vars(there), "whole": False}))
    assert [each.key for each in partly.values] == ["irft.training.beta"]


def test_changed_data_and_inputs_are_found_by_their_md5() -> None:
    result = found(outcome("here", lock={"data": "d" * 32, "mine": "e" * 32}), outcome("there"))
    assert [each.path for each in result.data] == ["data/raw", "mine.jsonl"]
    known = parsed_lock(LOCK.format(**KNOWN))
    assert starting_points(known) == {"data/raw": "c" * 32, "mine.jsonl": "a" * 32}
    assert lists_of_code(known) == {"code/fetch.json": "b" * 32}


def test_changed_code_is_told_by_module_where_both_lists_are_known() -> None:
    lists = {
        "b" * 32: {"tasks/fetch.py": "1", "juicer/a.py": "2"},
        "f" * 32: {"tasks/fetch.py": "9", "juicer/b.py": "3"},
    }
    here, there = outcome("here", lock={"code": "f" * 32}, modules=lists), outcome("there", modules=lists)
    result = found(here, there)
    assert result.code == [
        ChangedPath("juicer/a.py", "only there"),
        ChangedPath("juicer/b.py", "only here"),
        ChangedPath("tasks/fetch.py", "changed"),
    ]
    unknown = found(outcome("here", lock={"code": "f" * 32}), there)
    assert (unknown.code, unknown.unknown_code) == ([], ["code/fetch.json"])


def test_paths_of_one_side_are_left_out_where_the_other_is_known_in_part() -> None:
    assert changed_paths({"a": "1"}, {"b": "1"}, whole=False) == []
    assert [each.how for each in changed_paths({"a": "1"}, {"b": "1"})] == ["only here", "only there"]


def test_the_page_and_the_terminal_show_both_and_interpret_nothing() -> None:
    attack = "<script>alert(1)</script>"
    result = found(
        outcome("here", shift=0.05, values={"name": attack}), outcome(f"x{attack}", values={"name": "other"})
    )
    page = render(result)
    assert "<script>" not in page and page.count("&lt;script&gt;") >= 2
    assert "60 held-out prompts in common" in page
    assert '<span class="verdict better">better</span>' in page
    lines = lines_of(result)
    score = next(line for line in lines if line.startswith("  Score"))
    assert score.split()[:4] == ["Score", "2.120", "2.175", "+0.055"]
    assert score.endswith("better")
    assert any(line.startswith("  name: other -> ") for line in lines)
    assert lines[-1].startswith("rft-r1 here is better than rft-r1 of x")


def test_two_equal_outcomes_have_changed_nothing() -> None:
    lines = lines_of(found(outcome("here"), outcome("there")))
    assert [line for line in lines if line.startswith("Changed")] == [
        "Changed recipe: nothing",
        "Changed data and models to start from: nothing",
        "Changed code: nothing",
    ]
