"""`rounds: auto`: what is refused, the graph, the comparison of a round, the rule, params.yaml, and the report."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from juicer import cli
from juicer.evaluation.results import EvaluatedModel
from juicer.evaluation.rounds import RoundComparison, RoundComparisons, compare_round, score_difference
from juicer.evaluation.significance import Difference
from juicer.recipe.activation import activate, dump, load
from juicer.recipe.checks import validate
from juicer.recipe.graph import ABSENT, FoundRounds, graph_of, reported
from juicer.recipe.origin import origin_of
from juicer.recipe.rounds import advance, are_open, decided
from juicer.reporting.findings import findings
from juicer.reporting.numbers import summarise
from juicer.reporting.page import Content, render
from juicer.reporting.plots import Curation, training_curves
from juicer.runtime.errors import InputError
from tests.example_evaluations import PROVENANCE, curation, evaluation, parsed, recipe, table
from tests.stub_models import write_stub

QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
RFT = ["rft.rounds=auto", "rft.slice=all", "irft.rounds=0"]
OWN = [
    "fetch={source: rows.jsonl, licence: mine}",
    "world=null",
    "pretrain=null",
    "policy.model=./stub",
    "scorer={kind: none}",
]


def graph_with(ran: int, kept: int, *overrides: str) -> dict[str, Any]:
    recipe, _ = load(QUICKSTART, [*RFT, *overrides])
    graph = graph_of(recipe, rounds={"rft": FoundRounds(ran=ran, kept=kept)})
    return dict(YAML(typ="safe").load(dump(recipe, graph))["graph"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rft.slice=split"], "rft.rounds is auto, but rft.slice is split: the parts depend on the number of rounds"),
        (["irft.rounds=auto", "irft.slice=split"], "set irft.slice to all"),
        (["irft.rounds=auto", "irft.slice=all", "irft.passes=2"], "irft.rounds is auto, but irft.passes is 2"),
        (["scorer={kind: none}", "rft.auto.criterion=score"], "rft.auto.criterion is score, but the recipe has no"),
        (["evaluation.prompts=9"], "rft.rounds is auto, but evaluation.prompts is 9, too few to tell rounds apart"),
        (["rft.auto.most=0"], "parameter 'rft.auto.most': input should be greater than or equal to 1, not 0"),
        (["rft.auto.most=101"], "must be at most 100"),
        (["rft.auto.criterion=loss"], "'score', 'preferences' or 'likelihood', not 'loss'"),
        (["rft.rounds=Auto"], "parameter 'rft.rounds': it has to be a number of rounds, or auto, not 'Auto'"),
    ],
)
def test_what_cannot_be_decided_is_refused_when_the_recipe_is_read(overrides, message):
    with pytest.raises(InputError) as error:
        load(QUICKSTART, [*RFT, *overrides])
    assert message in str(error.value)


@pytest.mark.parametrize("rejected", [True, False])
def test_without_a_scorer_the_rows_need_rejected_responses(rejected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_stub(tmp_path / "stub")
    row = {"prompt": "Is it raining?", "response": "No."}
    if rejected:
        row = {"prompt": "Is it raining?", "chosen": "No.", "rejected": "Yes."}
    Path("rows.jsonl").write_text(f"{json.dumps(row)}\n")
    if rejected:
        _, graph = load(QUICKSTART, [*RFT, *OWN])
        assert graph.comparisons["rft-r1"].criterion == "preferences"
        return
    with pytest.raises(InputError, match=r"nothing to decide by: the first rows have no rejected responses, and the"):
        load(QUICKSTART, [*RFT, *OWN])


def test_who_names_the_column_of_rejected_responses_knows_that_they_come_later(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_stub(tmp_path / "stub")
    row = {"prompt": "Is it raining?", "chosen": "No.", "rejected": None}
    Path("rows.jsonl").write_text(f"{json.dumps(row)}\n" * 120)
    named = ["fetch.columns={prompt: prompt, response: chosen, rejected: rejected}"]
    _, graph = load(QUICKSTART, [*RFT, *OWN, *named])
    assert graph.comparisons["rft-r1"].criterion == "preferences"


def test_a_number_of_rounds_compares_none():
    graph = YAML(typ="safe").load(dump(*load(QUICKSTART, [])))["graph"]
    assert (graph["rounds"], graph["comparisons"], graph["decisions"]) == ({}, {}, ABSENT)


def test_the_discarded_round_is_evaluated_and_compared_but_no_table_or_control_has_it():
    graph = graph_with(3, 2, "leaderboard.enabled=true")
    assert list(graph["rft"]) == ["r1", "r2", "r3"]
    assert graph["models"]["rft-r3"]["previous"] == ABSENT and graph["table"] == "evaluation/tables/rft-r2.json"
    assert graph["sft_matched"]["control"]["rft"] == "models/rft/r2/policy"
    assert list(graph["leaderboard"])[-1] == "rft-r2"
    assert reported(graph) == ["base", "sft", "sft-matched", "rft-r1", "rft-r2"]
    assert [each["before"] for each in graph["comparisons"].values()] == [
        f"evaluation/models/{name}.json" for name in ("sft", "rft-r1", "rft-r2")
    ]
    assert graph["comparisons"]["rft-r3"]["earlier"] == "evaluation/rounds/rft-r2.json"
    assert graph["decisions"] == "evaluation/rounds/rft-r3.json"


def test_one_list_of_comparisons_holds_both_methods():
    graph = graph_with(1, 1, "irft.rounds=auto", "irft.slice=all")
    assert list(graph["comparisons"]) == ["irft-r1", "rft-r1"]
    assert graph["comparisons"]["rft-r1"]["earlier"] == "evaluation/rounds/irft-r1.json"
    assert graph["comparisons"]["rft-r1"]["before"] == "evaluation/models/sft.json"


def test_another_round_leaves_the_earlier_ones_as_they_are():
    few, many = graph_with(1, 1), graph_with(4, 4)
    for key in ("rft", "comparisons"):
        assert {name: many[key][name] for name in few[key]} == few[key]


def test_recorded_rounds_are_valid_and_changed_ones_are_not():
    recipe, _ = load(QUICKSTART, RFT)
    params = YAML(typ="safe").load(dump(recipe, graph_of(recipe, rounds={"rft": FoundRounds(ran=3, kept=2)})))
    validate(params, "params.yaml")
    for ran, kept, message in ((2, 2, "does not follow"), (9, 9, "does not follow"), (3, 1, "neither ran = 3 nor one")):
        changed = {**params, "graph": {**params["graph"], "rounds": {"rft": {"ran": ran, "kept": kept}}}}
        with pytest.raises(InputError, match=message):
            validate(changed, "params.yaml")


@pytest.mark.parametrize(
    ("ran", "improved", "expected"),
    [
        (1, [True], (2, 2)),  # improves: another one
        (1, [False], (1, 1)),  # a method keeps one
        (2, [True, False], (2, 1)),  # the last one is discarded
        (3, [True, True, True], (4, 4)),
        (4, [True, True, True, True], (4, 4)),  # the limit
        (4, [True, False, True, True], (2, 1)),  # an earlier one has changed
        (3, [False, True, True], (1, 1)),
    ],
)
def test_rounds_go_on_while_they_improve(ran, improved, expected):
    found = decided(FoundRounds(ran=ran, kept=ran), improved, 4)
    assert (found.ran, found.kept) == expected


def model(name: str, number: int, scores: list[float | None], **given: Any) -> EvaluatedModel:
    values = evaluation(name, "rft" if number else "sft", number, **given)
    known = [score for score in scores if score is not None]
    values["validation_scores"] = scores
    values["validation"] = {**values["validation"], "reward_mean": sum(known) / len(known) if known else None}
    values["held_out_scores"], values["held_out"]["reward_mean"] = [None] * 60, None
    return EvaluatedModel.parse(values, name)


def comparison(**given: Any) -> RoundComparison:
    plain = {
        "method": "rft", "round": 1, "before": "sft", "criterion": "score", "value": 1.0, "value_before": 1.0,
        "difference": 0.0, "low": -0.1, "high": 0.1, "count": 60, "improved": False, "most": 3, "kl_to_sft": 2.0,
    }  # fmt: skip
    return RoundComparison.parse({**plain, **given}, "made up")


NOISE = [0.1 * (-1) ** place for place in range(60)]


@pytest.mark.parametrize(("gain", "improved"), [(0.2, True), (0.01, False), (-0.2, False)])
def test_a_round_improves_if_the_interval_of_the_paired_scores_lies_above_zero(gain, improved):
    before = model("sft", 0, [float(place) for place in range(60)])
    after = model("rft-r1", 1, [place + gain + noise for place, noise in enumerate(NOISE)])
    found = compare_round(after, before, "score", 6)
    assert found.improved is improved and found.before == "sft" and found.count == 60
    assert found.difference == pytest.approx(gain) and found.low is not None and found.low < gain
    assert "demonstrations_preferred" not in found.as_json()


def test_nine_prompts_are_too_few_to_improve_on():
    before = model("sft", 0, [0.0] * 9)
    after = model("rft-r1", 1, [1.0 + noise for noise in NOISE[:9]])
    assert not compare_round(after, before, "score", 6).improved


def test_prompts_without_a_score_are_left_out():
    before = model("sft", 0, [None, *[0.0] * 59])
    after = model("rft-r1", 1, [1.0 + noise for noise in NOISE[:59]] + [None])
    assert compare_round(after, before, "score", 6).count == 58


def test_the_difference_of_scores_is_paired_over_the_prompts_that_have_both():
    before = [1.0, 5.0, 2.0, None, 3.0]
    found = score_difference([2.0, 7.0, 2.0, 4.0, 4.0], before)
    assert found is not None and (found.mean, found.count) == (1.0, 4)
    assert found.error == pytest.approx((2 / 3 / 4) ** 0.5)
    assert found.low < 1.0 < found.high and found.high - 1.0 == pytest.approx(1.0 - found.low)
    assert score_difference([None, 1.0], [1.0, None]) is None


def test_the_interval_of_one_score_is_without_end_and_left_out_of_the_record():
    found = score_difference([3.0], [1.0])
    assert found == Difference(2.0, math.inf, -math.inf, math.inf, 1)
    record = compare_round(model("rft-r1", 1, [3.0]), model("sft", 0, [1.0]), "score", 6)
    assert (record.difference, record.low, record.high, record.count, record.improved) == (2.0, None, None, 1, False)
    several = compare_round(model("rft-r1", 1, [3.0, 4.0, 6.0]), model("sft", 0, [1.0] * 3), "score", 6)
    assert several.low is not None and several.high is not None and several.low < several.difference < several.high


@pytest.mark.parametrize("without", [0, 1])
def test_a_round_without_validation_prompts_is_refused_by_its_name(without):
    models = [model("rft-r1", 1, [1.0] * 12), model("sft", 0, [0.0] * 12)]
    models[without] = models[without].model_copy(update={"validation": None})
    message = f"{models[without].name}: there are no validation prompts to decide .*raise curate.validation_share"
    for criterion in ("score", "preferences"):
        with pytest.raises(InputError, match=message):
            compare_round(*models, criterion, 6)


def test_rounds_of_different_validation_prompts_are_refused():
    with pytest.raises(InputError, match="rft-r1 and sft were evaluated on different validation prompts"):
        compare_round(model("rft-r1", 1, [1.0] * 12), model("sft", 0, [0.0] * 11), "score", 6)


@pytest.mark.parametrize("without", [0, 1])
@pytest.mark.parametrize(
    ("criterion", "given", "message"),
    [
        ("score", {}, "no scores of validation prompts .*add a scorer, or set rft.rounds to a number"),
        ("preferences", {"rejected": False}, "no rejected responses .*add a scorer, or set rft.rounds to a number"),
    ],
)
def test_both_rounds_need_what_decides(without, criterion, given, message):
    names = (("rft-r1", 1), ("sft", 0))
    models = [
        model(*name, [None] * 60, **given) if place == without else model(*name, [1.0] * 60)
        for place, name in enumerate(names)
    ]
    with pytest.raises(InputError, match=message):
        compare_round(*models, criterion, 6)


def test_without_labels_a_round_improves_if_it_makes_the_validation_demonstrations_more_likely():
    def with_nll(made: EvaluatedModel, gain: float) -> EvaluatedModel:
        nll = [30.0 + place - gain * (1 + 0.1 * (-1) ** place) for place in range(60)]
        return made.model_copy(update={"validation_nll": nll})

    before = with_nll(model("sft", 0, [None] * 60), 0.0)
    for gain, improved in ((0.5, True), (-0.5, False), (0.0, False)):
        found = compare_round(with_nll(model("rft-r1", 1, [None] * 60), gain), before, "likelihood", 6)
        assert found.improved is improved and found.count == 60
        assert found.difference == pytest.approx(gain) and found.value_before == pytest.approx(-59.5)
    assert (found.measure, found.cases) == ("mean log-likelihood of the demonstrations", "prompts")


def test_preferences_are_compared_as_shares_and_the_reward_s_facts_are_kept():
    facts = {"agreement": 0.75, "drift": 0.5, "training_accuracy": 0.9}
    reward = {"stage": "rft_reward", "steps": 1, "response_tokens": 1, "facts": facts}
    training = {"stage": "rft_policy", "steps": 1, "response_tokens": 1, "reward": reward}
    before = model("rft-r1", 1, [None] * 60, quality=0.1)
    found = compare_round(model("rft-r2", 2, [None] * 60, quality=0.9, training=training), before, "preferences", 6)
    assert found.improved and found.value == pytest.approx(0.74) and (found.agreement, found.drift) == (0.75, 0.5)
    assert found.demonstrations_preferred is None


@pytest.mark.parametrize(
    ("criterion", "given", "message"),
    [
        ("score", {}, "rft-r1: there are no scores of validation prompts to decide by"),
        ("likelihood", {}, "rft-r1: there are no log-likelihoods of validation demonstrations"),
        ("preferences", {"rejected": False}, "rft-r1: there are no rejected responses of validation prompts"),
    ],
)
def test_a_round_that_nothing_can_decide_over_is_refused(criterion, given, message):
    models = model("rft-r1", 1, [None] * 60, **given), model("sft", 0, [None] * 60, **given)
    with pytest.raises(InputError, match=message):
        compare_round(*models, criterion, 6)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose active recipe has RFT on auto, with at most 3 rounds."""
    monkeypatch.chdir(tmp_path)
    activate(QUICKSTART, [*RFT, "rft.auto.most=3"], Path("params.yaml"))
    return tmp_path


def rounds_of(folder: Path) -> tuple[int, int]:
    found = YAML(typ="safe").load((folder / "params.yaml").read_text())["graph"]["rounds"]["rft"]
    return found["ran"], found["kept"]


class Pipeline:
    """Stands in for DVC: writes the comparisons of the rounds in params.yaml."""

    def __init__(self, improves: list[bool]) -> None:
        self.improves, self.targets = improves, list[str | None]()

    def __call__(self, _: Any, at_a_time: int | None = None, until: str | None = None, *, quiet: bool = False) -> None:
        self.targets.append(until)
        graph = YAML(typ="safe").load(Path("params.yaml").read_text())["graph"]
        rounds = [
            comparison(round=t, improved=self.improves[t - 1]) for t in range(1, graph["rounds"]["rft"]["ran"] + 1)
        ]
        place = Path(graph["decisions"])
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(RoundComparisons(rounds=rounds).as_json()))


@pytest.mark.parametrize(
    ("improves", "expected", "passes"),
    [
        ([False], (1, 1), 1),
        ([True, False], (2, 1), 3),
        ([True, True, False], (3, 2), 4),
        ([True, True, True], (3, 3), 3),
    ],
)
def test_the_driver_grows_the_graph_until_a_round_ends_it(project, monkeypatch, improves, expected, passes):
    monkeypatch.setattr(cli, "reproduce", pipeline := Pipeline(improves))
    cli.find_rounds(None)  # type: ignore[arg-type]
    assert rounds_of(project) == expected and pipeline.targets == ["compare_round"] * passes
    validate(YAML(typ="safe").load(Path("params.yaml").read_text()), "params.yaml")
    cli.find_rounds(None, until="report")  # type: ignore[arg-type]
    assert rounds_of(project) == expected and len(pipeline.targets) == passes + 1


def test_a_round_that_no_longer_improves_shrinks_the_graph(project, monkeypatch):
    monkeypatch.setattr(cli, "reproduce", Pipeline([True, True, False]))
    cli.find_rounds(None)  # type: ignore[arg-type]
    monkeypatch.setattr(cli, "reproduce", Pipeline([True, False, False]))
    cli.find_rounds(None)  # type: ignore[arg-type]
    assert rounds_of(project) == (2, 1)


def test_a_discarded_round_that_improves_after_all_is_kept_and_said_to_be_the_last_one(project):
    activate(QUICKSTART, [*RFT, "rft.auto.most=2"], Path("params.yaml"))
    recipe, _ = load(Path("params.yaml"), [])
    Path("params.yaml").write_text(dump(recipe, graph_of(recipe, rounds={"rft": FoundRounds(ran=2, kept=1)})))
    Pipeline([True, True])(None)
    said = advance(Path("params.yaml"))
    assert said == "params.yaml: rft-r2 improves on sft, and rft.auto.most allows no further round"
    assert rounds_of(project) == (2, 2)


def test_a_run_that_ends_before_the_report_finds_no_rounds(project, monkeypatch):
    monkeypatch.setattr(cli, "reproduce", pipeline := Pipeline([True]))
    cli.find_rounds(None, until="sft")  # type: ignore[arg-type]
    assert pipeline.targets == []
    activate(QUICKSTART, [], Path("params.yaml"))
    assert not are_open(Path("params.yaml"))


def test_the_same_recipe_keeps_its_rounds_and_another_begins_anew(project):
    Pipeline([True])(None)
    assert advance(Path("params.yaml")) == "params.yaml: rft-r1 improves on sft, so rft-r2 is tried"
    text = Path("params.yaml").read_text()
    origin = origin_of(Path("params.yaml"))
    assert origin is not None and origin.overrides == [*RFT, "rft.auto.most=3"]
    said = activate(QUICKSTART, [*RFT, "rft.auto.most=3"], Path("params.yaml"))
    assert "is up to date" in said and Path("params.yaml").read_text() == text
    activate(QUICKSTART, [*RFT, "rft.auto.most=3", "seed=1"], Path("params.yaml"))
    assert rounds_of(project) == (1, 1)


def test_comparisons_that_are_missing_are_told(project):
    with pytest.raises(InputError, match=r"evaluation/rounds/rft-r1\.json: no such file"):
        advance(Path("params.yaml"))


DISCARDED = {"round": 2, "before": "rft-r1", "difference": -0.02, "low": -0.07, "high": 0.03}


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (
            DISCARDED,
            "RFT stopped after round 2: its mean score on 60 validation prompts is not above that of round 1 beyond "
            "noise (−0.020, 95% interval −0.070 to +0.030); round 2 is discarded.",
        ),
        ({"count": 9}, "9 validation prompts are too few to tell); a method keeps at least one round, but this one is"),
        ({"round": 3, "before": "rft-r2", "improved": True}, "because rft.auto.most allows no more: it still improves"),
        ({"improved": True}, "RFT has not ended: round 1 improves on SFT"),
        ({"criterion": "preferences"}, "its preference accuracy on 60 validation pairs is not above that of SFT"),
    ],
)
def test_the_report_says_why_the_rounds_ended(last, said):
    models = parsed(table(0, 1))
    rounds = [comparison(improved=True), comparison(**last)]
    summary = summarise(models, "quickstart", 0).model_copy(update={"rounds": rounds})
    (sentence,) = (
        each for each in findings(summary).sentences if each.startswith("RFT stopped") or "not ended" in each
    )
    assert said in sentence
    page = render(
        Content(
            description="",
            summary=summary,
            table=models,
            curves=training_curves(models),
            curation=Curation.parse(curation(), "curation.json"),
            provenance=PROVENANCE,
            recipe=recipe(),
        )
    )
    assert "How many rounds" in page and sentence in page


def test_a_report_without_auto_says_nothing_of_it():
    summary = summarise(parsed(table(1, 1)), "quickstart", 0)
    assert "rounds" not in summary.as_json() and not any("stopped" in each for each in findings(summary).sentences)


@pytest.mark.parametrize("edited", [False, True])
def test_a_snapshot_brings_its_rounds_back_unless_params_yaml_was_edited(edited, project, capsys):
    before = Path("params.yaml").read_bytes()
    copy = project / "copy"
    copy.mkdir()
    recipe, _ = load(Path("params.yaml"), [])
    grown = dump(recipe, graph_of(recipe, rounds={"rft": FoundRounds(ran=2, kept=1)}))
    (copy / "params.yaml").write_text(grown)
    if edited:
        Path("params.yaml").write_text("name: other")
    cli.bring_back_rounds(copy, before)
    assert Path("params.yaml").read_text() == ("name: other" if edited else grown)
    assert ("was edited meanwhile" in capsys.readouterr().out) is edited
    assert (origin_of(Path("params.yaml")) is None) is edited
