"""Several methods from one SFT: what a recipe refuses, the control's budget, the verdicts and the tables."""

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from bench import methods as between
from juicer import cli
from juicer.claim.comparing import Entrants, Seed, compare, gains, primary
from juicer.claim.copies import PARAMS, Plan, begin, plan, prepare
from juicer.claim.intervals import Estimate
from juicer.claim.methods import figure, page, reporting
from juicer.claim.methods.collect import collect, effort_of, joined
from juicer.claim.methods.plan import CONTROLS, Budget, MethodsPlan, budget_of, plan_methods
from juicer.claim.methods.results import Effort, MethodComparison
from juicer.claim.methods.verdict import headline, less, verdicts_of
from juicer.claim.results import Versions
from juicer.claim.run import _Queue, is_up_to_date, models_of
from juicer.evaluation.results import EvaluatedModel
from juicer.recipe.activation import dump, load
from juicer.recipe.graph import FoundRounds, graph_of
from juicer.reporting.costs import RESTORED, StageRow, completed, gather
from juicer.runtime.errors import InputError
from juicer.settings.claim import ClaimSettings
from juicer.settings.sft import SftMatchedSettings
from tests.conftest import ROOT
from tests.example_evaluations import evaluation, training_of

ENTRANTS = Entrants(("irft", "rft-t1"), ("sft-matched", "gem"), ("irft", "rft-t1", "gem"))
QUICKSTART = Path("recipes/quickstart.yaml")


def model(name: str, method: str, number: int, quality: float, steps: int = 0, **common: Any) -> EvaluatedModel:
    """An evaluation as a run writes it, of a model that was trained for `steps` since SFT."""
    training = training_of(method, max(steps, 1), steps, number, ("loss",))
    return EvaluatedModel.parse(evaluation(name, method, number, quality=quality, training=training, **common), name)


def run(*own: EvaluatedModel) -> dict[str, EvaluatedModel]:
    """The models of one run."""
    common = [model("base", "base", 0, 0.0), model("sft", "sft", 0, 0.3)]
    return {each.name: each for each in (*common, *own)}


def seed(number: int, *, rft: bool = True, gem: float = 0.5, **given: Any) -> Seed:
    """A finished seed: RFT is far better, IRFT is not, and of both controls the second one is as good."""
    shift = 0.01 * (number % 3)
    runs = {
        "irft": (
            False,
            run(
                model("irft-r1", "irft", 1, 0.5 - shift, 40, validation=0.4, **given),
                model("irft-r2", "irft", 2, 0.5 + 2 * shift, 80, validation=0.9, **given),
            ),
        ),
        **({"rft-t1": (False, run(model("rft-r1", "rft", 1, 0.9 + shift, 60, **given)))} if rft else {}),
        "sft-matched": (True, run(model("sft-matched", "sft-matched", 0, 0.5, 80, **given))),
        "gem": (True, run(model("sft-matched", "sft-matched", 0, gem + shift, 100, **given))),
    }
    return Seed(number, joined(runs))


def used(seeds: list[Seed]) -> dict[tuple[str, int, str], Budget]:
    """What each method of each seed was trained for."""
    methods = {model.method for each in seeds for model in each.models.values()}
    return {
        ("imperfect", each.seed, name): budget_of(each.rounds(name)) or Budget(0, 0)
        for each in seeds
        for name in methods
    }


def whole(seeds: list[Seed], planned: list[int]) -> MethodComparison:
    """The document of a comparison."""
    metrics = primary(seeds)[:1]
    compared = compare({"imperfect": seeds}, metrics, ENTRANTS)
    verdicts = verdicts_of(compared, metrics[0], len(planned))
    seconds = {("imperfect", each.seed, "irft"): 90.0 for each in seeds}
    names = (*ENTRANTS.methods, *ENTRANTS.controls)
    efforts = [effort_of("imperfect", name, seeds, used(seeds), seconds) for name in names]
    return MethodComparison(
        recipe="mine",
        variants={"imperfect": []},
        shared=["evaluation.prompts=60"],
        methods={"irft": ["rft.rounds=0"], "rft-t1": ["irft.rounds=0"]},
        controls={"sft-matched": [], "gem": []},
        seeds={"imperfect": [each.seed for each in seeds]},
        planned=planned,
        missing={"imperfect": {"rft-t1": [each.seed for each in seeds if not each.rounds("rft-t1")]}},
        alone={},
        starts={"imperfect": True},
        processor="a processor",
        versions=Versions(juicer="a" * 40, changed=False, python="3.11", torch="2.11", transformers="5.17"),
        primary=metrics,
        compared=compared,
        efforts=[each for each in efforts if each is not None],
        gains=gains({"imperfect": seeds}, metrics, ENTRANTS),
        verdicts=verdicts,
        headlines=[headline("imperfect", compared, verdicts, "sft-matched")],
        samples_seed=0,
        samples={},
    )


def test_each_method_is_compared_with_the_first_control_by_its_best_and_its_last_round() -> None:
    found = compare({"imperfect": [seed(0), seed(1), seed(2)]}, ["score"], ENTRANTS)
    assert [each.name for each in found] == [
        "base", "sft", "sft-matched", "gem", "irft, best round", "irft, last round", "rft-t1",
    ]  # fmt: skip
    declared = [each.name for each in found for one in each.figures if one.declared]
    assert declared == ["gem", "irft, best round", "rft-t1"]
    assert all(one.difference is None for each in found if each.name == "sft-matched" for one in each.figures)


def test_a_method_is_compared_over_the_seeds_that_have_it() -> None:
    found = whole([seed(0), seed(1, rft=False), seed(2)], [0, 1, 2])
    rft = next(each for each in found.compared if each.name == "rft-t1")
    score = rft.figure("score")
    assert score is not None and len(score.by_seed) == 2 and found.seeds_of(rft) == [0, 2]
    text = page.page(found, pictured=False)
    assert "rft-t1 has not finished: seeds 1" in text
    assert any(line.startswith("| rft-t1 | score | ") and " | – | " in line for line in text.splitlines())


def test_two_methods_are_compared_over_the_seeds_that_both_have() -> None:
    found = whole([seed(0), seed(1, rft=False), seed(2), seed(4)], [0, 1, 2, 4])
    rft, irft = (next(each for each in found.compared if each.name == name) for name in ("rft-t1", "irft, best round"))
    score, other = rft.figure("score"), irft.figure("score")
    assert score is not None and other is not None
    pairs = zip(score.by_seed, [other.by_seed[place] for place in (0, 2, 3)], strict=True)
    estimate = between.difference(found, rft, irft, "score")
    assert estimate is not None and estimate.mean == pytest.approx(sum(one - two for one, two in pairs) / 3)
    rows = list(between.rows(found, "imperfect", "irft", ["rft-t1", "gem"]))
    assert [row[:2] for row in rows] == [["rft-t1", "irft, best round"], ["gem", "irft, best round"]]
    alone = whole([seed(0)], [0])
    assert all(cell == "–" for row in between.rows(alone, "imperfect", "irft", ["rft-t1"]) for cell in row[2:])


@pytest.mark.parametrize("world", ["imperfect", "clean"])
def test_the_published_comparison_is_what_its_stored_results_say(world: str) -> None:
    found = MethodComparison.read(ROOT / f"bench/results/methods-{world}.json")
    published = ROOT / f"docs/methods-{world}/methods.md"
    assert page.page(found, pictured=True) == published.read_text(encoding="utf-8")
    text = " ".join((ROOT / "docs/methods.md").read_text(encoding="utf-8").split())
    assert all(sentence in text for sentence in found.headlines)


def test_the_budget_is_the_most_steps_and_the_most_tokens_of_any_method() -> None:
    record = {**training_of("rft_policy", 5, 50, 1, ("loss",)), "total_response_tokens": 90_000}
    tokens = EvaluatedModel.parse(evaluation("rft-r1", "rft", 1, quality=0.5, training=record), "rft-r1")
    models = [model("irft-r1", "irft", 1, 0.5, 40), model("irft-r2", "irft", 2, 0.5, 80), tokens]
    assert budget_of([*run().values(), *models]) == Budget(steps=80, response_tokens=90_000)
    assert budget_of(run().values()) is None


def test_the_effort_is_that_of_all_rounds_and_less_than_the_controls_is_said() -> None:
    seeds = [seed(0), seed(1)]
    irft, rft = (effort_of("imperfect", name, seeds, used(seeds), {}) for name in ("irft", "rft-t1"))
    assert irft is not None and (irft.steps, irft.steps_share, irft.is_less) == ([80, 80], 1.0, False)
    assert rft is not None and (rft.steps_share, rft.tokens_share, rft.is_less) == (0.75, 0.75, True)
    assert effort_of("imperfect", "dft", seeds, used(seeds), {}) is None
    assert less([irft, rft], "sft-matched") == [
        "On `imperfect`, rft-t1 was trained for less than sft-matched: 75% of its response tokens."
    ]
    nothing = Effort(
        variant="a", method="b", steps=[0], response_tokens=[0], seconds=[None], steps_share=None, tokens_share=None
    )
    assert less([nothing], "sft-matched") == []


def test_the_verdict_is_in_plain_words() -> None:
    found = whole([seed(each) for each in range(4)], [0, 1, 2, 3])
    outcomes = {each.method: each.outcome for each in found.verdicts}
    assert outcomes == {"gem": "not shown to differ", "irft": "not shown to differ", "rft-t1": "better"}
    assert found.headlines[0].startswith("On `imperfect`, by score: rft-t1 is better than sft-matched by 1.")
    assert "no other method is shown to differ (a difference of " in found.headlines[0]
    irft = next(each for each in found.verdicts if each.method == "irft")
    assert irft.text == "not shown to differ"


def test_a_method_without_all_of_its_seeds_has_no_verdict() -> None:
    found = whole([seed(0), seed(1, rft=False), seed(2), seed(3)], [0, 1, 2, 3])
    rft = next(each for each in found.verdicts if each.method == "rft-t1")
    figure = next(each.figure("score") for each in found.compared if each.name == "rft-t1")
    assert figure is not None and figure.holds
    assert (rft.outcome, rft.text) == ("open", "open: 3 of 4 seeds")
    assert "rft-t1 is open, because seeds are missing" in found.headlines[0]


def test_each_variant_is_a_family_of_its_own_and_what_it_could_show_takes_the_correction_in() -> None:
    found = whole([seed(each) for each in range(4)], [0, 1, 2, 3])
    declared = [one for each in found.compared for one in each.figures if one.declared]
    assert {one.metric for one in declared} == {"score"} and len(declared) == 3
    for one in declared:
        assert one.difference is not None and one.error is not None and one.degrees is not None
        mine = Estimate(one.difference, one.error, one.degrees, one.over)
        assert one.detectable == pytest.approx(mine.detectable(3), rel=1e-5)
        assert one.detectable > mine.detectable() * 1.1


def test_where_nothing_differs_or_nothing_is_measured_the_headline_says_so() -> None:
    only = Entrants(("irft",), ("sft-matched",), ("irft",))
    compared = compare({"clean": [seed(each) for each in range(3)]}, ["score"], only)
    said = headline("clean", compared, verdicts_of(compared, "score", 3), "sft-matched")
    assert said.startswith("On `clean`, by score: no method is shown to differ from sft-matched (a difference of ")
    assert "nothing measures how good" in headline("clean", compared, [], "sft-matched")


def test_two_that_are_worse_are_named_together() -> None:
    both = Entrants(("rft-t1",), ("sft-matched", "gem"), ("rft-t1", "gem"))
    compared = compare({"a": [seed(each, gem=0.1) for each in range(4)]}, ["score"], both)
    verdicts = verdicts_of(compared, "score", 4)
    assert "gem is worse than sft-matched by 1." in headline("a", compared, verdicts, "sft-matched")
    better = [each.model_copy(update={"outcome": "worse"}) for each in verdicts]
    said = headline("a", compared, better, "sft-matched")
    assert "gem (by 1." in said and said.endswith("are worse than sft-matched.") and ") and rft-t1 (by 1." in said


def test_a_run_without_the_model_that_it_is_for_is_refused() -> None:
    with pytest.raises(InputError, match="the run of gem has no model of its own"):
        joined({"irft": (False, run(model("irft-r1", "irft", 1, 0.5))), "gem": (True, run())})


def test_the_page_has_a_row_per_method_with_its_effort_and_verdict(tmp_path: Path) -> None:
    found = whole([seed(each) for each in range(3)], [0, 1, 2])
    said = reporting.publish(found, tmp_path)
    assert MethodComparison.read(tmp_path / "results.json") == found
    text = (tmp_path / "methods.md").read_text()
    rows = [line.split(" | ") for line in text.splitlines() if " | verdict |" in line or "better |" in line]
    assert [cell.strip("| ") for cell in rows[0]] == [
        "model", "score", "preference accuracy", "oracle", "preference accuracy per token", "KL to sft, nats",
        "steps", "response tokens", "minutes", "detectable", "verdict",
    ]  # fmt: skip
    assert rows[1][0] == "| rft-t1" and rows[1][-5:-2] == ["60 (75%)", "42\u202f000 (75%†)", "–"]
    for part in (
        "![Differences to sft-matched", "80 (100%) | 56\u202f000 (100%) | 1.5 | ", "what all are compared",
        "Holm's correction for the 3 declared comparisons", "† marks less than 90% of the control's tokens",
        "`evaluation.prompts=60`",
    ):  # fmt: skip
        assert part in text, part
    order = [name for line in said[0].splitlines() if (name := line.split("  ")[0]) in ("sft", "rft-t1", "gem")]
    assert order == ["sft", "rft-t1", "gem"]


def test_the_picture_has_the_same_bytes_for_the_same_results(tmp_path: Path) -> None:
    found = whole([seed(each) for each in range(3)], [0, 1, 2])
    first, second = (figure.draw(found, tmp_path / name) for name in ("a", "b"))
    assert [path.name for path in first] == ["a.svg", "a.png"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert figure.draw(found.model_copy(update={"verdicts": []}), tmp_path / "c") == []


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git checkout with the quickstart and four methods, as the working directory."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "tasks").mkdir()
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / QUICKSTART).write_bytes((ROOT / QUICKSTART).read_bytes())
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    write(
        {
            "variants": {"imperfect": [], "clean": ["world.label_noise=0"]},
            "compared": {
                "irft": ["rft.rounds=0"],
                "irft-identity": ["rft.rounds=0", "irft.training.objective=identity"],
                "rft-t1": ["irft.rounds=0", "rft.rounds=1"],
                "rft-t2": ["irft.rounds=0", "rft.rounds=2"],
            },
        }
    )
    return tmp_path


def write(section: dict[str, Any] | None) -> None:
    """Replace the quickstart's section `methods`."""
    values = YAML(typ="safe").load(QUICKSTART.read_text())
    with QUICKSTART.open("w") as stream:
        YAML(typ="safe").dump({**values, "methods": section}, stream)


IRFT = {"irft": ["rft.rounds=0"]}


@pytest.mark.parametrize(
    ("section", "told"),
    [
        (
            {"compared": {"a": []}},
            "methods.compared.a: exactly one of irft.rounds and rft.rounds has to be above 0, not 3",
        ),
        ({"compared": {"a": ["irft.rounds=0", "rft.rounds=0"]}}, "methods.compared.a: exactly one of"),
        ({"compared": {"a": ["rft.rounds=0", "irft.ronds=2"]}}, "methods.compared.a: unknown parameter 'irft.ronds'"),
        ({"compared": {"a": ["oops"]}}, "methods.compared.a: 'oops' is not an override"),
        (
            {"compared": {"a": ["sft.epochs=1"]}},
            "method 'a' sets 'sft.epochs=1', but a method changes only irft and rft",
        ),
        ({"compared": {"a": ["sft_matched.steps=1"]}}, "method 'a' sets 'sft_matched.steps=1', but a method changes"),
        ({"compared": IRFT, "controls": {"b": ["rft.rounds=1"]}}, "a control changes only sft_matched; what all have"),
        ({"compared": {"sft": ["rft.rounds=0"]}}, "method 'sft' is not a name"),
        ({"compared": {"A b": ["rft.rounds=0"]}}, "method 'A b' is not a name"),
        ({"compared": {}}, "methods.compared"),
        ({"compared": IRFT, "controls": {"irft": []}}, "'irft' is both a method and a control"),
        ({"compared": IRFT, "controls": {"b": ["sft_matched.rates=[1]"]}}, "methods.controls.b: unknown parameter"),
        ({"compared": IRFT, "controls": {"b": ["seed=1"]}}, "control 'b' sets 'seed=1'"),
        ({"compared": IRFT, "shared": ["seed=1"]}, "it sets 'seed=1', which nothing in a comparison can change"),
        ({"compared": IRFT, "shared": ["methods=null"]}, "it sets 'methods=null', which nothing in a comparison"),
        ({"compared": IRFT, "shared": ["world.rws=1"]}, "methods.shared: unknown parameter 'world.rws'"),
        ({"compared": IRFT, "controls": {"irft-r2": []}}, "control 'irft-r2' has the name of a round: -rN at the end"),
        ({"compared": {"a": ["irft.rounds=0", "rft.rounds=0"]}}, "not 0 and 0 (set one of them)"),
        ({"compared": IRFT, "variants": {"v": ["world.rws=1"]}}, "methods.variants.v: unknown parameter 'world.rws'"),
        ({"compared": IRFT, "variants": {"v": ["irft.rounds=0"]}}, "methods.compared.irft: exactly one of"),
        ({"compared": IRFT, "seeds": [1, 1]}, "seed 1 is given twice"),
        ({}, "parameter 'methods.compared' is missing"),
        (None, "the recipe has no section methods, so there is nothing to compare"),
    ],
)
def test_a_recipe_refuses_a_wrong_section_when_it_is_read(
    project: Path, section: dict[str, Any] | None, told: str
) -> None:
    write(section)
    with pytest.raises(InputError) as error:
        plan_methods(QUICKSTART, [], [], [], [], None)
    assert told in str(error.value)
    if section is not None:
        with pytest.raises(InputError):
            load(QUICKSTART, [])


def test_a_change_on_the_command_line_does_not_make_a_recipe_unreadable(project: Path) -> None:
    write({"compared": {"t2": ["rft.rounds=0", "irft.passes=3"]}})
    assert load(QUICKSTART, ["irft.rounds=4"])[0].irft.rounds == 4
    with pytest.raises(InputError, match=r"methods\.compared\.t2: irft.rounds = 4 is not a multiple"):
        plan_methods(QUICKSTART, ["irft.rounds=4"], [], [], [], None)


def test_each_method_and_control_of_a_seed_is_a_run_of_its_own(project: Path) -> None:
    planned = plan_methods(QUICKSTART, ["evaluation.prompts=9"], [3, 4], ["clean"], ["rft-t1", "irft"], None)
    names = [job.name for job in planned.jobs]
    assert names == [f"clean, {name}, seed {seed}" for seed in (3, 4) for name in ("irft", "rft-t1", "sft-matched")]
    assert planned.jobs[0].folder == project / ".juicer/methods/quickstart/clean/irft/seed-3"
    values = [YAML(typ="safe").load(job.params) for job in planned.jobs[:3]]
    assert [(each["irft"]["rounds"], each["rft"]["rounds"]) for each in values] == [(3, 0), (0, 1), (0, 0)]
    assert [each["sft_matched"]["enabled"] for each in values] == [False, False, True]
    assert [list(each["graph"]["models"]) for each in values][1:] == [
        ["base", "sft", "rft-r1"],
        ["base", "sft", "sft-matched"],
    ]
    assert {each["methods"] for each in values} == {None}
    assert {(each["world"]["label_noise"], each["evaluation"]["prompts"]) for each in values} == {(0, 9)}
    # A control equals all methods of the recipe, not only those that were asked for.
    assert len(planned.known) == 2 * 4


def finish(planned: MethodsPlan, method: str, code: str, *models: EvaluatedModel) -> None:
    """Leave what the run of a method leaves."""
    job = next(each for each in planned.known if each.method == method)
    (job.folder / "evaluation/models").mkdir(parents=True, exist_ok=True)
    for name, each in run(*models).items():
        (job.folder / f"evaluation/models/{name}.json").write_text(each.model_dump_json(exclude_unset=True))
    (job.folder / PARAMS).write_text(job.params)
    (job.folder / ".juicer").mkdir(exist_ok=True)
    (job.folder / ".juicer/claim-finished").write_text(job.mark(code))


def test_a_control_gets_the_budget_of_the_methods_that_have_finished(project: Path) -> None:
    write({"compared": {**IRFT, "rft-t1": ["irft.rounds=0", "rft.rounds=1"]}})
    planned = plan_methods(QUICKSTART, ["irft.rounds=1"], [0], [], [], None)
    irft, rft, control = planned.jobs
    assert planned.settled(irft) is irft
    with pytest.raises(InputError, match="no method has finished"):
        planned.settled(control)
    finish(planned, "irft", "code", model("irft-r1", "irft", 1, 0.5, 40))
    first = planned.settled(control)
    assert (first.recipe.sft_matched.steps, first.recipe.sft_matched.response_tokens) == (40, 28_000)
    finish(planned, "rft-t1", "code", model("rft-r1", "rft", 1, 0.5, 60))
    second = planned.settled(control)
    assert second.recipe.sft_matched.steps == 60 and first.params != second.params
    assert is_up_to_date(planned, rft, "code") and not is_up_to_date(planned, control, "code")
    # A method that ran with other parameters says nothing about these.
    write({"compared": {**IRFT, "rft-t1": ["irft.rounds=0", "rft.rounds=1", "rft.policy.steps=7"]}})
    other = plan_methods(QUICKSTART, ["irft.rounds=1"], [0], [], [], None)
    assert other.settled(other.jobs[2]).params == first.params


def test_what_a_control_asks_for_itself_is_its_least(project: Path) -> None:
    longer = {"longer": ["sft_matched.steps=50", "sft_matched.response_tokens=20000"]}
    write({"compared": IRFT, "controls": {"sft-matched": [], **longer}})
    planned = plan_methods(QUICKSTART, ["irft.rounds=1"], [0], [], [], None)
    finish(planned, "irft", "code", model("irft-r1", "irft", 1, 0.5, 40))
    controls = {each.method: planned.settled(each).recipe.sft_matched for each in planned.jobs[1:]}
    plain, longer_one = controls["sft-matched"], controls["longer"]
    assert (plain.steps, plain.response_tokens) == (40, 28_000)
    assert (longer_one.steps, longer_one.response_tokens) == (50, 28_000)


def test_a_method_that_found_its_rounds_itself_has_finished_and_the_round_it_discarded_counts(project: Path) -> None:
    write({"compared": {"rft-auto": ["irft.rounds=0", "rft.rounds=auto", "rft.auto.most=2"]}})
    planned = plan_methods(QUICKSTART, [], [0], [], [], None)
    job, control = planned.jobs
    kept, discarded = (model(f"rft-r{t}", "rft", t, 0.5, 30 * t) for t in (1, 2))
    finish(planned, "rft-auto", "code", kept, discarded)
    alone = job.recipe.model_copy(update={"claim": ClaimSettings(), "methods": None})
    advanced = dump(alone, graph_of(alone, rounds={"rft": FoundRounds(ran=2, kept=1)}))
    assert advanced != job.params
    (job.folder / PARAMS).write_text(advanced)
    assert job.is_measured and is_up_to_date(planned, job, "code")
    assert list(models_of(job)) == ["base", "sft", "rft-r1"]
    assert list(models_of(job, discarded=True)) == ["base", "sft", "rft-r1", "rft-r2"]
    assert planned.settled(control).recipe.sft_matched.steps == 60
    # A run with new code begins with the rounds that the recipe has.
    prepare(job, [], "other code", planned.work)
    assert job.is_measured and (job.folder / PARAMS).read_text() == advanced
    begin(job)
    assert not job.is_measured and (job.folder / PARAMS).read_text() == job.params


def test_a_run_that_only_got_new_parameters_has_not_finished_with_them(project: Path) -> None:
    write({"compared": IRFT})
    planned, changed = (plan_methods(QUICKSTART, words, [0], [], [], None) for words in ([], ["irft.passes=3"]))
    finish(planned, "irft", "code", model("irft-r1", "irft", 1, 0.5, 40))
    old, new = planned.jobs[0], changed.jobs[0]
    assert old.is_measured and not new.is_measured
    prepare(new, [], "code", changed.work)
    assert old.is_measured and (old.folder / PARAMS).read_text() == old.params
    begin(new)
    assert not old.is_measured and not new.is_measured
    assert (new.folder / PARAMS).read_text() == new.params


def test_a_damaged_evaluation_is_named_with_what_to_do(project: Path) -> None:
    write({"compared": IRFT})
    planned = plan_methods(QUICKSTART, [], [0], [], [], None)
    finish(planned, "irft", "code", model("irft-r1", "irft", 1, 0.5, 40))
    damaged = planned.jobs[0].folder / "evaluation/models/irft-r1.json"
    damaged.write_text("{")
    for read in (lambda: planned.settled(planned.jobs[1]), lambda: collect(planned, 1)):
        with pytest.raises(InputError, match=r"irft-r1\.json") as error:
            read()
        assert "claim-finished, so that the run is done again" in str(error.value)


def test_what_was_not_asked_for_may_be_impossible_with_the_changes(project: Path) -> None:
    write({"compared": {**IRFT, "fixed": ["rft.rounds=0", "irft.training.reference=initial"]}})
    changed = ["irft.training.objective=space"]
    assert len(plan_methods(QUICKSTART, changed, [0], [], ["irft"], None).jobs) == 2
    with pytest.raises(InputError, match=r"methods\.compared\.fixed: .*compares with the policy that sampled"):
        plan_methods(QUICKSTART, changed, [0], [], [], None)


def test_the_command_line_takes_precedence_over_what_all_have_in_common(project: Path) -> None:
    write({"compared": IRFT, "shared": ["evaluation.prompts=200"]})
    prompts = [plan_methods(QUICKSTART, words, [0], [], [], None).jobs[0].recipe.evaluation.prompts
               for words in ([], ["evaluation.prompts=50"])]  # fmt: skip
    assert prompts == [200, 50]


@pytest.mark.parametrize("make", [plan, plan_methods])
def test_a_seed_among_the_changes_and_a_folder_that_cannot_hold_copies_are_refused(
    project: Path, make: Callable[..., Plan]
) -> None:
    names = ([], []) if make is plan_methods else ([],)
    with pytest.raises(InputError, match=r"every seed is a run of its own here \(name the seeds: --seeds 0 1 2\)"):
        make(QUICKSTART, ["seed=3"], [], *names, None)
    with pytest.raises(InputError, match="this is a file, but the runs need a folder"):
        make(QUICKSTART, [], [], *names, QUICKSTART)
    for folder in (Path(), Path("..")):
        with pytest.raises(InputError, match="cannot be in a folder that holds it"):
            make(QUICKSTART, [], [], *names, folder)


def test_a_recipe_that_extends_another_one_need_not_allow_its_methods_and_variants(project: Path) -> None:
    write({"compared": {"space": ["rft.rounds=0", "irft.training.objective=space"]}})
    mine = Path("recipes/mine.yaml")
    mine.write_text("extends: quickstart.yaml\nname: mine\nirft: {replay: 0.2}\n")
    assert load(mine, [])[0].irft.replay == 0.2
    with pytest.raises(InputError, match=r"mine\.yaml: methods\.compared\.space: .*replay takes some of earlier"):
        plan_methods(mine, [], [], [], [], None)


def test_controls_wait_for_the_methods_of_their_seed_only(project: Path) -> None:
    planned: Plan = plan_methods(QUICKSTART, [], [0, 1], ["clean"], ["irft", "rft-t1"], None)
    queue = _Queue(planned.jobs, threading.Event())
    one, two = queue.next(), queue.next()
    # The first method of each seed, which runs what all have in common.
    assert one is planned.jobs[0] and two is planned.jobs[3]
    queue.ended(one)
    three = queue.next()
    assert three is planned.jobs[1]
    queue.ended(three)
    four = queue.next()
    assert four is planned.jobs[2] and four.turn == CONTROLS


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["quickstart", "--methods", "irtf"], "has no method 'irtf' (did you mean 'irft'?)"),
        (["quickstart", "--variants", "cleen"], "has no variant 'cleen' (did you mean 'clean'?)"),
        (["quickstart", "--seeds", "-1"], "a seed cannot be negative: -1"),
        (["quickstart", "methods=null"], "the recipe has no section methods"),
        (["quickstart", "--again", "--dry-run"], "--again starts no run that --dry-run could show"),
        (["quickstart", "--again"], "(run them: juicer compare-methods recipes/quickstart.yaml)"),
        (["quickstart", "--methods", "irft", "irft.passes=2"], "irft.rounds = 3 is not a multiple of irft.passes = 2"),
    ],
)
def test_a_mistake_is_told_in_one_line_before_anything_runs(project: Path, words: list[str], told: str) -> None:
    done = CliRunner().invoke(cli.app, ["compare-methods", *words], prog_name="juicer")
    assert done.exit_code in (1, 2) and len(done.stderr.splitlines()) == 1, done.output
    assert told in done.stderr
    assert not (project / ".juicer").exists()


def test_a_dry_run_lists_the_runs(project: Path) -> None:
    words = ["quickstart", "--seeds", "7", "--variants", "clean", "--methods", "irft", "rft-t2", "--dry-run"]
    done = CliRunner().invoke(cli.app, ["compare-methods", *words])
    assert done.exit_code == 0, done.stderr
    assert "1 variant, 2 methods, 1 control, 1 seed, 3 runs" in done.stdout
    assert "    rft-t2: seeds 7; irft.rounds=0 rft.rounds=2" in done.stdout and "0 of 3 runs" in done.stdout
    assert not (project / ".juicer").exists()


def test_a_restored_stage_costs_what_it_took_where_it_ran(tmp_path: Path) -> None:
    lock = "stages:\n  train@r1: {cmd: x, outs: [{path: a, md5: b}]}\n"
    ran, restored = tmp_path / "ran", tmp_path / "restored"
    for folder in (ran, restored):
        folder.mkdir()
        (folder / "dvc.lock").write_text(lock)
    (ran / ".juicer/costs").mkdir(parents=True)
    (ran / ".juicer/costs/train@r1.json").write_text('{"stage": "train@r1", "seconds": 7.0}')
    gather(ran)
    rows = completed([StageRow("train@r1", None, RESTORED), StageRow("other", None, RESTORED)], restored, [ran])
    assert [row.cost.seconds if row.cost else None for row in rows] == [7.0, None]


def test_a_control_may_be_given_a_budget_without_any_method() -> None:
    given = ["irft.rounds=0", "rft.rounds=0"]
    assert load(ROOT / QUICKSTART, given)[1].sft_matched == {}
    graph = load(ROOT / QUICKSTART, [*given, "sft_matched.steps=5"])[1]
    assert list(graph.sft_matched) == ["control"] and "sft-matched" in graph.models
    assert SftMatchedSettings.parse({"learning_rates": [1e-3], "response_tokens": 10**9}, "x").response_tokens == 10**9


def test_the_methods_of_a_recipe_replace_those_of_the_recipe_that_it_extends(project: Path) -> None:
    mine = Path("recipes/mine.yaml")
    mine.write_text("extends: quickstart.yaml\nname: mine\nmethods: {compared: {only: [rft.rounds=0]}}\n")
    methods = load(mine, [])[0].methods
    assert methods is not None and list(methods.compared) == ["only"] and list(methods.variants) == ["default"]


def test_later_rounds_are_compared_with_the_first_and_the_best_one():
    found = whole([seed(0), seed(1), seed(2)], [0, 1, 2])
    mine = [each for each in found.gains if each.metric == "score"]
    assert [(each.method, each.against) for each in mine] == [("irft", "first"), ("irft", "best")]
    first, best = mine
    last, start = (
        [next(each for each in made.rounds("irft") if each.round == number) for made in map(seed, range(3))]
        for number in (2, 1)
    )
    means = [
        sum(score for score in model.held_out_scores if score is not None) / len(model.held_out_scores)
        for model in (*last, *start)
    ]
    assert first.by_seed == pytest.approx([one - other for one, other in zip(means[:3], means[3:], strict=True)], 1e-4)
    assert first.difference == pytest.approx(sum(first.by_seed) / 3, 1e-4) and first.half_width is not None
    # The second round is the best one on validation prompts.
    assert best.by_seed == [0.0, 0.0, 0.0]
    said = page.page(found, pictured=False)
    assert "## Do later rounds help?" in said and "| irft | last less best |" in said
