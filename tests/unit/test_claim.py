"""A claim over several seeds: rounds are chosen on validation, figures are held-out, differences are paired."""

import copy
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from juicer import cli
from juicer.claim import figure, page, power, reporting
from juicer.claim.comparing import Seed, compare, points, primary
from juicer.claim.copies import digest_of, files, plan, prepare
from juicer.claim.measures import BY_KEY, values_of
from juicer.claim.results import Claim, Compared, Samples, Versions
from juicer.evaluation.results import EvaluatedModel, Instruments
from juicer.recipe.activation import dump, load
from juicer.runtime.errors import InputError
from tests.conftest import ROOT
from tests.example_evaluations import evaluation

QUALITY = {
    "base": ("base", 0, 0.0, 0.0),
    "sft": ("sft", 0, 0.3, 0.3),
    "sft-matched": ("sft-matched", 0, 0.4, 0.4),
    "irft-r1": ("irft", 1, 0.9, 0.5),
    "irft-r2": ("irft", 2, 0.5, 0.9),
    "irft-r3": ("irft", 3, 0.6, 0.7),
    "rft-r1": ("rft", 1, 0.7, 0.8),
}
"""name: (method, round, quality on held-out prompts, quality on validation prompts)"""
PROMPTS = 30


def model(name: str, seed: int, *, rows: bool = True, ids: str = "p", judge: bool = True, **common: Any) -> Any:
    """An evaluation whose values on each prompt move with its quality."""
    method, number, quality, validation = QUALITY[name]
    made = evaluation(name, method, number, quality=quality, validation=validation, prompts=PROMPTS, **common)
    rng, prompts = random.Random(f"{name} {seed}"), random.Random("prompts")
    tokens = [10 + place % 5 for place in range(PROMPTS)]
    if not rows:
        return EvaluatedModel.parse(made, name)
    gap = [10 * quality - 5 + prompts.gauss(0, 3) + rng.gauss(0, 1) for _ in tokens]
    made = copy.deepcopy(made)
    if judge:
        made["held_out_judged"] = [4 * quality + prompts.gauss(0, 1) + rng.gauss(0, 0.3) for _ in tokens]
    made["held_out_nll"] = [count * (3 - quality) + prompts.gauss(0, 1) for count in tokens]
    made["held_out_rows"] = {
        "id": [f"{ids}{place}" for place in range(PROMPTS)],
        "demonstration_tokens": tokens,
        "gap": [None, *gap[1:]],
        "gap_per_token": [None, *(each / 10 for each in gap[1:])],
        "kl": [0.0 if name == "sft" else quality] * PROMPTS,
        "response_tokens": tokens,
        "ended": [place != 3 for place in range(PROMPTS)],
        "empty": [False] * PROMPTS,
        "repeated": [place == 3 for place in range(PROMPTS)],
    }
    return EvaluatedModel.parse(made, name)


def seeds(count: int = 3, worlds: bool = False, **given: Any) -> list[Seed]:
    """Finished seeds, on the same prompts or each on its own."""
    return [
        Seed(seed, {name: model(name, seed, ids=f"{seed}-" if worlds else "p", **given) for name in QUALITY})
        for seed in range(count)
    ]


def whole(variants: dict[str, list[Seed]], shown: int = 3) -> Claim:
    """The document of a claim."""
    metrics = primary([each for found in variants.values() for each in found])
    return Claim(
        recipe="mine",
        variants={name: [] if name == "default" else ["irft.rounds=12"] for name in variants},
        seeds={name: [each.seed for each in found] for name, found in variants.items()},
        planned=[0, 1, 2],
        seconds={name: [60.0, *[None] * (len(found) - 1)] for name, found in variants.items()},
        processor="a processor",
        versions=Versions(juicer="a" * 40, changed=True, python="3.11", torch="2.11", transformers="5.17"),
        primary=metrics,
        instruments={
            name: Instruments(pairs=100, scorer_accuracy=0.6, judge_accuracy=0.7, agreement=0.8) for name in variants
        },
        compared=compare(variants, metrics),
        points=points(variants, ["gap", metrics[0]]),
        samples_seed=0,
        samples={
            name: [
                Samples(name=each, samples=model.samples[:shown], judged=model.held_out_judged[:shown])
                for each, model in found[0].models.items()
                if each in ("sft", "rft-r1")
            ]
            for name, found in variants.items()
        },
    )


def row(found: list[Compared], name: str) -> Compared:
    return next(each for each in found if each.name == name)


def test_rounds_are_chosen_on_validation_prompts_and_their_figures_are_held_out() -> None:
    found = compare({"default": seeds()}, ["judge", "accuracy"])
    assert [each.name for each in found] == [
        "base", "sft", "sft-matched", "irft, best round", "irft, last round", "rft",
    ]  # fmt: skip
    best, last = row(found, "irft, best round"), row(found, "irft, last round")
    assert (best.rounds, last.rounds) == ([2, 2, 2], [3, 3, 3])
    oracle = best.figure("oracle")
    assert oracle is not None and (oracle.mean, oracle.by_seed) == (0.5, [0.5] * 3)
    assert oracle.difference == pytest.approx(0.1) and oracle.over == "seeds" and oracle.prompts is None


def test_differences_are_paired_on_the_prompts_of_the_same_seed() -> None:
    found = row(compare({"default": seeds()}, []), "rft").figure("judge")
    assert found is not None and found.over == "seeds and prompts" and found.prompts == PROMPTS
    # The prompts' own spread of 1 cancels, that of each model's of 0.3 does not.
    assert found.difference == pytest.approx(4 * 0.3, abs=0.1)
    assert found.deviation == pytest.approx(0.3 * 2**0.5, abs=0.1)
    assert found.half_width is not None and found.difference_half_width is not None
    assert found.difference_half_width < found.half_width / 2


def test_where_the_seeds_have_prompts_of_their_own_the_seeds_are_the_units() -> None:
    found = row(compare({"default": seeds(worlds=True)}, []), "rft").figure("judge")
    assert found is not None and found.over == "seeds"


def test_one_seed_has_intervals_over_prompts_and_none_where_it_gives_one_number() -> None:
    found = row(compare({"default": seeds(1)}, []), "rft")
    judge, oracle = found.figure("judge"), found.figure("oracle")
    assert judge is not None and judge.over == "prompts" and judge.half_width is not None
    assert oracle is not None and oracle.half_width is None and oracle.p == 1.0


def test_metrics_count_ties_half_and_leave_out_prompts_without_a_rejected_response() -> None:
    control = model("sft-matched", 0)
    wins = values_of(BY_KEY["judge_wins"], control, control, 0)
    assert wins is not None and set(wins.values()) == {0.5}
    accuracy = values_of(BY_KEY["accuracy"], control, control, 0)
    assert accuracy is not None and len(accuracy) == PROMPTS - 1 and set(accuracy.values()) == {0.0, 1.0}


def test_the_loss_per_token_is_the_ratio_of_the_sums() -> None:
    made = model("rft-r1", 0)
    values = values_of(BY_KEY["nll_per_token"], made, made, 0)
    assert values is not None
    ratio = sum(made.held_out_nll) / sum(made.held_out_rows.demonstration_tokens)
    assert sum(values.values()) / PROMPTS == pytest.approx(ratio)


def test_evaluations_of_before_are_compared_by_scores_and_by_what_they_have_one_number_of() -> None:
    old = seeds(rows=False)
    assert primary(old) == ["score", "accuracy"]
    found = row(compare({"default": old}, primary(old)), "rft")
    keys = {each.metric: each.over for each in found.figures}
    assert keys["score"] == keys["score_wins"] == keys["accuracy"] == "seeds"
    assert not {"judge", "judge_wins", "nll", "empty", "repeated"} & keys.keys()


def test_the_declared_comparisons_are_tested_together_and_the_others_are_not() -> None:
    found = compare({"a": seeds(), "b": seeds(worlds=True)}, ["judge", "accuracy"])
    declared = [(each.variant, each.name, one.metric) for each in found for one in each.figures if one.declared]
    names = ("sft", "irft, best round", "rft")
    assert declared == [(v, name, key) for v in "ab" for name in names for key in ("judge", "accuracy")]
    assert all((one.holds is None) != one.declared for each in found for one in each.figures)
    rft = row(found, "rft").figure("judge")
    assert rft is not None and rft.holds


def test_the_page_says_what_was_compared_and_how(tmp_path: Path) -> None:
    claim = whole({"default": seeds(), "t12": seeds(1)})
    said = reporting.publish(claim, tmp_path)
    text = (tmp_path / "claim.md").read_text()
    assert Claim.read(tmp_path / "results.json") == claim
    for part in (
        "Holm's correction for the 12 declared comparisons", "over the prompts of a single seed", "by judge and",
        "not finished: 1, 2", "| metric | base | sft |", "| rft | judge | ", "3 seeds with 29 held-out prompts",
        "`irft.rounds=12`", "Juicer aaaaaaaaaaaa with changes", "## Samples", "![",
        "| t12 | judge | 100 | 0.700 | 0.607 to 0.793 |", "| t12 | both prefer the same | 100 | 0.800 | – |",
    ):  # fmt: skip
        assert part in text, part
    assert any("rft" in line and "*" in line for line in said[0].splitlines())


def test_a_response_is_shown_as_it_is_whatever_marks_are_in_it() -> None:
    claim = whole({"default": seeds(1)}, shown=1)
    sample = claim.samples["default"][0].samples[0].model_copy(update={"response": "```\n# not a heading\n````"})
    shown = claim.model_copy(update={"samples": {"default": [Samples(name="sft", samples=[sample])]}})
    assert "`````text\n```\n# not a heading\n````\n`````" in page.page(shown, pictured=False)


def test_the_picture_has_the_same_bytes_for_the_same_results(tmp_path: Path) -> None:
    claim = whole({"default": seeds(), "t12": seeds(1)})
    first, second = (figure.draw(claim, tmp_path / name) for name in ("a", "b"))
    assert [path.name for path in first] == ["a.svg", "a.png"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert figure.draw(claim.model_copy(update={"points": []}), tmp_path / "c") == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.svg", "b.png", "b.svg"]


def test_the_power_is_said_before_and_after() -> None:
    assert power.smallest(300, 1.0) == pytest.approx((1.968 * (1 + 4 / 300) + 0.843) / 300**0.5, rel=1e-3)
    assert "0.16 standard deviations" in power.before(300, None)
    assert "one seed shows 0.082 or more" in power.before(None, ("judge", 300, 0.5))
    sentences = power.after(whole({"default": seeds()}))
    assert all(
        "cannot tell how far" in each for each in power.after(whole({"default": seeds(1, rows=False, judge=False)}))[1:]
    )
    assert len(sentences) == 2 and "in judge after the correction, with a probability of 80%" in sentences[0]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git checkout with the quickstart, as the working directory."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "tasks").mkdir()
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "recipes/quickstart.yaml").write_bytes((ROOT / "recipes/quickstart.yaml").read_bytes())
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(*words: str) -> str:
    """What `juicer claim` prints to standard error, which is one line; it has to fail."""
    done = CliRunner().invoke(cli.app, ["claim", *words], prog_name="juicer")
    assert done.exit_code in (1, 2), done.output
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["quickstart", "--variants", "cleen"], "has no variant 'cleen' (did you mean 'clean'?)"),
        (["quickstart", "--seeds", "0", "-1"], "a seed cannot be negative: -1"),
        (["quickstart", "sft_matched.enabled=false"], "nothing to compare the methods with"),
        (["quickstart", "irft.rounds=0", "rft.rounds=0", "--variants", "clean"], "there is no method to compare"),
        (["quickstart", "--again"], "no seed has finished (run them: juicer claim recipes/quickstart.yaml)"),
        (["quickstart", "irft.passes=5", "irft.rounds=10"], "claim.variants.imperfect-t12: irft.rounds = 12"),
        (["quickstat"], "no such recipe (did you mean 'quickstart'?)"),
        (["quickstart", "--jobs", "0"], "--jobs"),
    ],
)
def test_a_mistake_is_told_in_one_line_before_anything_runs(project: Path, words: list[str], told: str) -> None:
    assert told in said(*words)
    assert not (project / ".juicer").exists()


def test_a_dry_run_lists_the_runs_and_what_they_can_show(project: Path) -> None:
    done = CliRunner().invoke(cli.app, ["claim", "quickstart", "--seeds", "7", "8", "--variants", "clean", "--dry-run"])
    assert done.exit_code == 0, done.stderr
    assert "1 variant, 2 seeds, 2 runs" in done.stdout
    assert "clean: seeds 7, 8; " in done.stdout and "world.label_noise=0" in done.stdout
    assert "Power: with 300 held-out prompts" in done.stdout
    assert not (project / ".juicer").exists()


def test_each_run_has_a_folder_and_parameters_of_its_own(project: Path) -> None:
    planned = plan(Path("recipes/quickstart.yaml"), ["rft.rounds=1"], [3, 4], [], None)
    assert [job.name for job in planned.jobs] == [
        f"{name}, seed {seed}" for name in ("imperfect", "imperfect-t12", "clean") for seed in (3, 4)
    ]
    assert len({job.folder for job in planned.jobs}) == 6
    assert planned.jobs[0].folder == project / ".juicer/claim/quickstart/imperfect/seed-3"
    values = [YAML(typ="safe").load(job.params) for job in planned.jobs]
    assert [each["seed"] for each in values] == [3, 4] * 3
    assert [each["irft"]["rounds"] for each in values] == [3, 3, 12, 12, 3, 3]
    assert {each["rft"]["rounds"] for each in values} == {1}
    assert {each["keep"]["up_to_gb"] for each in values} == {0}


@pytest.mark.parametrize(
    ("section", "told"),
    [
        (
            {"variants": {"a": ["irft.ronds=2"]}},
            "claim.variants.a: unknown parameter 'irft.ronds' (did you mean 'rounds'",
        ),
        ({"variants": {"a": ["irft.passes=2"]}}, "claim.variants.a: irft.rounds = 3 is not a multiple"),
        ({"variants": {"a": ["seed=2"]}}, "variant 'a' sets 'seed=2', which no variant can change"),
        ({"variants": {"A b": []}}, "variant 'A b' is not a name of lower-case letters"),
        ({"variants": {"cache": []}}, "variant 'cache' is not a name"),
        ({"variants": {"a": ["oops"]}}, "claim.variants.a: 'oops' is not an override"),
        ({"seeds": [-1]}, "claim.seeds.0"),
        ({"seeds": [1, 1]}, "seed 1 is given twice"),
        ({"seeds": []}, "claim.seeds"),
    ],
)
def test_a_recipe_refuses_a_wrong_section_when_it_is_read(project: Path, section: dict[str, Any], told: str) -> None:
    path = project / "recipes/quickstart.yaml"
    values = YAML(typ="safe").load(path.read_text())
    with path.open("w") as stream:
        YAML(typ="safe").dump({**values, "claim": section}, stream)
    with pytest.raises(InputError) as error:
        plan(Path("recipes/quickstart.yaml"), [], [], [], None)
    assert told in str(error.value)


def test_inputs_that_git_ignores_are_linked_and_those_out_of_reach_are_refused(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    graph = "stages:\n  one:\n    cmd: x\n    deps: [models/mine, ../beside/rows.jsonl, {whole}, made/x, recipes]\n"
    outside = tmp_path_factory.mktemp("outside") / "rows.jsonl"
    beside = project.parent / "beside/rows.jsonl"
    for path in (outside, beside, project / "models/mine/config.json", project / "made/x"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    (project / ".gitignore").write_text("models\nmade\n")
    (project / "dvc.yaml").write_text(f"{graph}  two:\n    cmd: y\n    outs: [made]\n".replace("{whole}", str(outside)))
    planned = plan(Path("recipes/quickstart.yaml"), [], [0], ["clean"], None)
    job, paths = planned.jobs[0], files(planned.work)
    prepare(job, paths, digest_of(paths), planned.work)
    assert (job.folder / "models/mine").readlink() == project / "models/mine"
    assert (job.folder / "../beside/rows.jsonl").resolve() == beside
    assert (job.folder / "recipes/quickstart.yaml").is_file() and not (job.folder / "recipes").is_symlink()
    assert not (job.folder / "made").exists()

    (project / "recipes/quickstart.yaml").rename(project / "recipes/other.yaml")
    prepare(job, files(planned.work), "changed", planned.work)
    assert [path.name for path in (job.folder / "recipes").iterdir()] == ["other.yaml"]
    far = "/".join(["../../..", *project.parts[-3:-1], "beside/rows.jsonl"])
    (project / "dvc.yaml").write_text(f"stages:\n  one:\n    cmd: x\n    deps: [{far}]\n")
    with pytest.raises(InputError, match="a copy of the project would not find this input"):
        prepare(job, files(planned.work), "again", planned.work)


def test_params_yaml_with_changes_that_rule_a_variant_out_can_still_be_changed_and_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Is it raining?", "response": "No."}\n')
    monkeypatch.chdir(ROOT)
    given = [f"fetch.source={rows}", "world=null"]  # the variant `clean` changes the world
    params = tmp_path / "params.yaml"
    params.write_text(dump(*load(ROOT / "recipes/quickstart.yaml", given)))
    recipe, _ = load(params, ["seed=3"])
    assert (recipe.seed, recipe.world) == (3, None)
    with pytest.raises(InputError, match=r"claim\.variants\.clean"):
        plan(params, [], [], ["clean"], tmp_path / "work")
