"""Reward models from preference pairs: which pairs they get, how good they are said to be, when they are refused."""

import hashlib
import json
import math
from collections import Counter
from pathlib import Path

import pytest

from juicer.data.demonstrations import Demonstration
from juicer.evaluation.pairs_record import (
    RECORD,
    PairsRecord,
    accuracy_interval,
    accuracy_of,
    calibration,
    check_accuracy,
    log_loss,
    record_of,
)
from juicer.methods.preferences import check_enough, pairs_of
from juicer.recipe.activation import load
from juicer.runtime.errors import InputError
from juicer.runtime.files import write_json
from juicer.settings.data import CurateSettings
from juicer.settings.preferences import FOLDERS, PreferenceModelSettings
from juicer.sources.curation import place_of, side_of, split_of
from tests.stub_models import write_stub

CURATE = CurateSettings(validation_share=0.1, held_out_share=0.2)
WITHHELD = {"scorer": 0.15, "judge": 0.25}
ROOT = Path(__file__).parents[2]


def hashes(count: int) -> list[str]:
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]


def rows(count: int, rejected: str | None = "No.") -> list[Demonstration]:
    return [
        Demonstration.make([{"role": "user", "content": f"question {i}"}], "Yes, of course.", rejected=rejected)
        for i in range(count)
    ]


def encode(asked):
    return [[1, *range(2, 2 + len(response))] for _, response in asked]


def nothing_refused(asked):
    return [None] * len(asked)


def test_every_prompt_is_on_one_side_and_the_shares_are_those_asked_for() -> None:
    counts = Counter(side_of(each, CURATE, False, WITHHELD) for each in hashes(20_000))
    shares = {side: count / 20_000 for side, count in counts.items()}
    expected = {"held_out": 0.2, "validation": 0.1, "scorer": 0.15, "judge": 0.25, "train": 0.3}
    assert shares == pytest.approx(expected, abs=0.015)


def test_validation_and_held_out_prompts_are_the_same_with_and_without_such_models() -> None:
    for each in hashes(2000):
        split = split_of(each, CURATE, False)
        side = side_of(each, CURATE, False, WITHHELD)
        assert side == split or split == "train"
        assert side_of(each, CURATE, False, {}) == split


def test_the_pairs_are_divided_by_another_part_of_the_hash_than_the_sides_are() -> None:
    judged = [each for each in hashes(20_000) if side_of(each, CURATE, False, WITHHELD) == "judge"]
    held_out = sum(place_of(each, 1) < 0.2 for each in judged) / len(judged)
    assert held_out == pytest.approx(0.2, abs=0.02)


def test_a_pair_is_the_chosen_response_before_the_rejected_one_to_the_last_token() -> None:
    found = pairs_of(rows(40), PreferenceModelSettings(share=0.5, held_out_share=0.25), encode, nothing_refused)
    assert len(found.training) + len(found.held_out) == 40
    assert found.held_out and len(found.held_out_prompts) == len(found.held_out)
    pair = found.training[0]
    assert pair.demonstration.prompt + pair.demonstration.response == encode([([], "Yes, of course.")])[0]
    assert pair.sample.prompt + pair.sample.response == encode([([], "No.")])[0]


def test_unusable_pairs_are_left_out_and_counted() -> None:
    mixed = [*rows(3), *rows(2, rejected=None), *rows(4, rejected=" Yes, of course. "), *rows(1, rejected="x" * 600)]
    found = pairs_of(
        mixed, PreferenceModelSettings(share=0.5), encode, lambda asked: ["no system turn", *[None] * (len(asked) - 1)]
    )
    lost = {"no_rejected_response": 2, "equal_responses": 4, "too_long": 1, "refused_by_template": 1}
    assert found.left_out == lost
    assert len(found.training) + len(found.held_out) == 2


def test_too_few_pairs_are_refused_with_their_number_and_the_interval_of_the_accuracy() -> None:
    settings = PreferenceModelSettings(share=0.5, held_out_share=0.3)
    found = pairs_of(rows(60), settings, encode, nothing_refused)
    with pytest.raises(InputError) as error:
        check_enough("scorer", found, settings, "data/raw")
    trained, held_out = len(found.training), len(found.held_out)
    low, high = accuracy_interval(0.6, held_out)
    said = str(error.value)
    assert f"preferences.scorer has {trained} pairs to train on and {held_out} held-out ones" in said
    assert f"from {low:.2f} to {high:.2f}" in said
    assert "raise preferences.scorer.share" in said
    check_enough("scorer", found, settings.model_copy(update={"least_pairs": trained}), "data/raw")


def test_accuracy_counts_ties_half_and_the_log_loss_of_a_coin_is_log_2() -> None:
    assert accuracy_of([2.0, -1.0, 0.0, 3.0]) == pytest.approx(2.5 / 4)
    assert log_loss([0.0, 0.0]) == pytest.approx(math.log(2))
    assert log_loss([2.0, -1.0]) == pytest.approx((math.log1p(math.exp(-2)) + math.log1p(math.exp(1))) / 2)
    assert log_loss([-1e6]) == pytest.approx(1e6)


def test_the_interval_of_an_accuracy_narrows_with_the_pairs_and_stays_a_share() -> None:
    assert accuracy_interval(0.6, 1500) == pytest.approx((0.575, 0.625), abs=0.002)
    assert accuracy_interval(0.6, 15)[0] < 0.4
    assert accuracy_interval(1.0, 12)[1] == 1.0
    assert accuracy_interval(0.0, 12)[0] == 0.0


def test_a_model_that_is_as_often_right_as_it_says_has_no_calibration_error() -> None:
    margin = math.log(3)  # sigmoid = 0.75
    honest = record_of("judge", [margin, margin, margin, -margin] * 10, 1, 1.0, {}, [])
    boastful = record_of("judge", [5.0, 5.0, 5.0, -5.0] * 10, 1, 1.0, {}, [])
    assert honest.accuracy == boastful.accuracy == 0.75
    assert honest.calibration_error == pytest.approx(0, abs=1e-6)
    assert boastful.calibration_error == pytest.approx(1 / (1 + math.exp(-5)) - 0.75, abs=1e-5)
    assert calibration([margin] * 3 + [-margin], bins=1)[0].as_json() == pytest.approx(
        {"pairs": 4, "confidence": 0.75, "right": 0.75}
    )
    assert [each.pairs for each in calibration([0.1 * i for i in range(13)], bins=5)] == [2, 3, 2, 3, 3]


def with_record(folder: Path, margins: list[float]) -> Path:
    folder.mkdir(parents=True)
    write_json(folder / RECORD, record_of("scorer", margins, 1, 1.0, {}, []).as_json())
    return folder


def test_a_scorer_that_is_no_better_than_chance_is_refused_unless_told(tmp_path: Path) -> None:
    bad = with_record(tmp_path / "bad", [1.0] * 40 + [-1.0] * 60)
    with pytest.raises(InputError, match=r"the scorer is no better than chance on held-out pairs: accuracy 0\.400"):
        check_accuracy(bad, "scorer", accept_chance=False)
    assert check_accuracy(bad, "scorer", accept_chance=True).accuracy == 0.4
    good = with_record(tmp_path / "good", [1.0] * 60 + [-1.0] * 40)
    assert check_accuracy(good, "scorer", accept_chance=False) == PairsRecord.read(good / RECORD)


def test_a_scorer_from_elsewhere_has_no_record_and_is_taken(tmp_path: Path) -> None:
    assert check_accuracy(tmp_path, "scorer", accept_chance=False) is None
    assert check_accuracy(None, "judge", accept_chance=False) is None


def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> str:
    monkeypatch.chdir(ROOT)
    with pytest.raises(InputError) as error:
        load(ROOT / "recipes/quickstart.yaml", overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


SCORER = ("preferences.scorer.share=0.2", "scorer.kind=sequence-classification", f"scorer.model={FOLDERS['scorer']}")
JUDGE = ("preferences.judge.share=0.3", "judge.kind=sequence-classification", f"judge.model={FOLDERS['judge']}")


def test_scorer_and_judge_are_stages_of_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    recipe, graph = load(ROOT / "recipes/quickstart.yaml", [*SCORER, *JUDGE])
    assert list(graph.preferences) == ["scorer", "judge"]
    assert {each.trunk for each in graph.preferences.values()} == {recipe.policy.model}
    assert (graph.scorer, graph.judge) == (FOLDERS["scorer"], FOLDERS["judge"])
    assert not graph.downloads


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["preferences.scorer.share=0.2"], "preferences.scorer is trained, but scorer is another model"),
        ([f"judge.model={FOLDERS['judge']}", "judge.kind=beaver"], "which the section preferences.judge makes"),
        (["preferences={}"], "preferences has neither scorer nor judge"),
        ([*SCORER, *JUDGE, "preferences.judge.share=0.9"], "the shares of preferences.scorer and judge are 1.1"),
        ([*SCORER, "preferences.scorer.share=0.85"], "leave no rows to train on"),
        (["judge.kind=beaver", "judge.model=models/world/scorer"], "a judge that chose the data is none"),
        ([*SCORER, "preferences.scorer.epoch=1"], "did you mean 'epochs'"),
        ([*SCORER, "preferences.source=missing.jsonl"], "preferences.source: no such file or folder: missing.jsonl"),
    ],
)
def test_what_does_not_fit_together_is_refused_when_the_recipe_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], said: str
) -> None:
    assert said in refused(tmp_path, monkeypatch, *overrides)


def test_a_trunk_of_its_own_is_read_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trunk = write_stub(tmp_path / "trunk")
    monkeypatch.chdir(ROOT)
    _, graph = load(ROOT / "recipes/quickstart.yaml", [*JUDGE, f"preferences.judge.model={trunk}"])
    assert graph.preferences["judge"].trunk == str(trunk)
    assert graph.kept["judge_trunk"].source == str(trunk)
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}) + "\n")
    _, graph = load(ROOT / "recipes/quickstart.yaml", [*JUDGE, f"preferences.source={pairs}"])
    assert graph.preferences["judge"].source == str(pairs)
