"""The page, its figures, the plot files and the terminal's table."""

import csv
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from juicer.reporting import environment
from juicer.reporting.charts import (
    FIGURE,
    PANEL,
    ROUNDING,
    WIDTH_OF_A_DIGIT,
    curve_panel,
    figure_over_rounds,
    histogram_figure,
    only_rounding,
    running_mean,
    ticks,
)
from juicer.reporting.numbers import summarise
from juicer.reporting.page import Content, render
from juicer.reporting.plots import Bins, Curation, RoundPoint, over_rounds, training_curves, write_plots
from juicer.reporting.summary import WIDTH, format_table
from juicer.stages.costs import StageCost
from tests.example_evaluations import PROVENANCE, curation, parsed, recipe, table


def content_of(evaluated: dict[str, Any], *, scorer: bool = True, name: str = "quickstart") -> Content:
    models = parsed(evaluated)
    return Content(
        description="Tiny & quick.",
        summary=summarise(models, name, 0),
        table=models,
        curves=training_curves(models),
        curation=Curation.parse(curation(scorer), "curation.json"),
        provenance=PROVENANCE,
        recipe=recipe(name),
    )


class Checker(HTMLParser):
    """Checks that elements nest, and collects what they are and where they point."""

    VOID = ("meta", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.sources: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "data")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def checked(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    return checker


CASES: dict[str, tuple[dict[str, Any], bool]] = {
    "quickstart": (table(3, 2), True),
    "sixteen rounds": (table(16, 0), True),
    "one round": (table(1, 0), True),
    "rft alone": (table(0, 2), True),
    "both off": (table(0, 0), True),
    "no control": (table(2, 1, control=False), True),
    "no oracle": (table(1, 1, oracle=False), True),
    "no rejected": (table(1, 1, rejected=False), True),
    "no scorer": (table(1, 1, scorer=False, oracle=False), False),
    "neither scorer nor rejected": (table(1, 1, scorer=False, rejected=False, oracle=False), False),
    "one prompt": (table(1, 1, prompts=1, shown=1), True),
    "no samples shown": (table(1, 1, shown=0), True),
}


@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_recipe_gives_a_whole_page(case: str) -> None:
    evaluated, scorer = CASES[case]
    page = render(content_of(evaluated, scorer=scorer))
    found = checked(page)
    assert len(found.ids) == len(set(found.ids))
    words = "".join(found.words)
    assert all(model["name"] in words for model in evaluated["models"])
    assert not re.search(r"\bNone\b|\bnan\b|\binf\b", words)
    assert set(re.findall(r'href="#([\w-]+)"', page)) <= set(found.ids)


def test_the_page_needs_no_network() -> None:
    page = render(content_of(table()))
    found = checked(page)
    assert "script" not in found.seen
    assert "link" not in found.seen
    assert "url(" not in page
    assert "@import" not in page
    # A link to the paper is for the reader to follow; all else is in the page or beside it.
    assert [source for source in found.sources if not source.startswith("#")] == [
        "environment.html",
        "environment.html",
        "costs.html",
        "costs.html",
        "https://arxiv.org/abs/2405.17888",
    ]


def test_what_a_model_or_a_person_wrote_is_shown_and_not_interpreted() -> None:
    evaluated = table(1, 1)
    attack = "<script>alert('x')</script> & <img src=x onerror=y>\"'"
    for model in evaluated["models"]:
        for sample in model["samples"]:
            sample |= {"response": attack, "prompt": attack, "demonstration": attack}
    content = content_of(evaluated, name="a<b>")
    found = checked(render(Content(**{**vars(content), "provenance": {"source<i>": attack}, "description": attack})))
    assert {"script", "img", "i"}.isdisjoint(found.seen)
    assert attack in "".join(found.words)


def test_names_in_tables_figures_and_curves_are_escaped() -> None:
    evaluated = table(1, 1)
    attack = "<script>x</script>\"'&"
    for model in evaluated["models"][2:]:
        model["name"] = f"{model['name']}{attack}"
        model["training"] |= {"stage": attack, "curves": {attack: {"step": [1, 2], "value": [1.0, 2.0]}}}
    content = content_of(evaluated)
    curated = Curation.parse(curation() | {attack: [attack, {attack: attack}]}, "curation.json")
    found = checked(render(Content(**{**vars(content), "curation": curated})))
    assert "script" not in found.seen
    assert "".join(found.words).count(attack) > 20


def test_the_page_is_the_same_every_time() -> None:
    assert render(content_of(table(3, 2))) == render(content_of(table(3, 2)))


def test_the_champion_is_marked_and_the_best_of_a_column_is_bold() -> None:
    page = render(content_of(table(1, 1)))
    row = re.search(r'<tr class="champion[^>]*>.*?</tr>', page)
    assert row is not None
    assert "rft-r1" in row[0]
    assert "<b>2.120</b>" in row[0]
    assert "<b>1.648</b>" not in page


def test_an_empty_response_is_named_and_not_a_blank() -> None:
    evaluated = table(1, 0)
    evaluated["models"][1]["samples"][0]["response"] = " \n"
    assert "empty response" in render(content_of(evaluated))


def test_without_a_scorer_the_demonstration_gap_is_drawn_by_round() -> None:
    bare = table(2, 1, scorer=False, rejected=False, oracle=False)
    page = render(content_of(bare, scorer=False))
    assert "<h3>Demonstration gap</h3><svg" in page
    assert "Bars and bands" not in page
    assert "<h3>Demonstration gap</h3>" not in render(content_of(table(2, 1)))


def test_turns_are_shown_by_role_and_what_was_cut_is_marked() -> None:
    evaluated = table(1, 0)
    assert "cut at the limit</span>" not in render(content_of(evaluated))
    for model in evaluated["models"]:
        for sample in model["samples"]:
            sample["prompt"] = "<|im_start|>user\nHow?<|im_end|>\n<|im_start|>assistant"
            sample["turns"] = [{"role": "system", "content": "Be <b>brief</b>."}, {"role": "user", "content": "How?"}]
            sample["ended"] = model["name"] != "sft"
    page = render(content_of(evaluated))
    assert "im_start" not in page
    assert '<span class="role">system</span><p>Be &lt;b&gt;brief&lt;/b&gt;.</p>' in page
    assert '<span class="role">user</span><p>How?</p>' in page
    assert page.count('<span class="flag">cut at the limit</span>') == len(evaluated["models"][1]["samples"])


def test_a_response_that_repeats_itself_is_marked() -> None:
    evaluated = table(1, 0)
    assert 'class="flag"' not in render(content_of(evaluated))
    evaluated["models"][1]["samples"][0]["response"] = "you can do it now. " * 4
    page = render(content_of(evaluated))
    assert page.count('<span class="flag">repeats itself</span>') == 1


def test_many_rounds_fold_away_the_middle_ones() -> None:
    page = render(content_of(table(16, 2)))
    assert "14 more rounds" in page
    assert "more rounds" not in render(content_of(table(3, 2)))


def test_a_figure_draws_every_round_with_its_error_and_is_well_formed() -> None:
    points = over_rounds(summarise(parsed(table(3, 2)), "quickstart", 0).models, "reward_mean", "reward_sem")
    svg, note = figure_over_rounds(points, "score", 3, "A < B")
    root = ElementTree.fromstring(svg)
    titles = [element.text or "" for element in root.iter("title")]
    assert [title.split(":")[0] for title in titles] == [
        "sft",
        "sft-matched",
        *(f"irft-r{t}" for t in (1, 2, 3)),
        *(f"rft-r{t}" for t in (1, 2)),
    ]
    assert sum("error" in element.get("class", "") for element in root.iter("path")) == 5
    assert titles[-2] == "rft-r1: 2.120 ± 0.171 (95%)"
    assert note == "base, at −0.920, lies below the scale"
    assert root.get("aria-label") == "A < B"


def test_a_base_model_near_the_others_is_drawn() -> None:
    points = [RoundPoint("base", "base", 0, 0.9, 0.1), RoundPoint("sft", "sft", 0, 1.0, 0.1)]
    svg, note = figure_over_rounds(points, "score", 2, "")
    assert note == ""
    assert "base: 0.90" in svg


def test_a_figure_of_equal_values_has_a_scale_and_one_of_no_values_is_left_out() -> None:
    svg, _ = figure_over_rounds([RoundPoint("sft", "sft", 0, 0.0, None)], "score", 2, "")
    assert "nan" not in svg
    assert figure_over_rounds([], "score", 2, "") == ("", "")


def test_ticks_are_round_numbers_inside_the_scale() -> None:
    assert ticks(0, 1, 5) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert ticks(-4.4, 1.2, 5) == [-4, -2, 0]
    assert ticks(3, 3) == [3]


def test_a_running_mean_looks_back_only() -> None:
    assert running_mean([1, 2, 6, 4], 2) == [1, 1.5, 4, 5]


def test_plot_files_hold_the_series_of_the_figures(tmp_path: Path) -> None:
    content = content_of(table(2, 1))
    write_plots(tmp_path / "plots", content.summary, content.curves, content.curation.scores)
    rows = json.loads((tmp_path / "plots/reward.json").read_text())
    assert [row["name"] for row in rows] == ["sft", "sft-matched", "irft-r1", "irft-r2", "rft-r1"]
    assert rows[-1] == {"name": "rft-r1", "method": "rft", "round": 1, "value": 2.12, "sem": 0.08}
    assert json.loads((tmp_path / "plots/demonstration_nll.json").read_text()) == [], "no model has its likelihood"
    with (tmp_path / "plots/training.csv").open() as file:
        curves = list(csv.DictReader(file))
    assert {row["stage"] for row in curves} == {"sft", "sft_matched", "irft_train", "rft_reward", "rft_policy"}
    with (tmp_path / "plots/scores.csv").open() as file:
        bins = list(csv.DictReader(file))
    recorded = curation()["scores"]
    for name in ("all", "kept"):
        assert sum(int(row["demonstrations"]) for row in bins if row["set"] == name) == recorded[name]["count"]


def test_without_scores_the_plot_files_are_there_and_empty(tmp_path: Path) -> None:
    content = content_of(table(1, 0, scorer=False, rejected=False, oracle=False), scorer=False)
    write_plots(tmp_path / "plots", content.summary, content.curves, content.curation.scores)
    assert json.loads((tmp_path / "plots/reward.json").read_text()) == []
    assert (tmp_path / "plots/scores.csv").read_text() == "set,score,demonstrations\n"


@pytest.mark.parametrize("case", CASES)
def test_the_terminal_s_table_fits_and_marks_the_champion(case: str) -> None:
    evaluated, _ = CASES[case]
    summary = summarise(parsed(evaluated), "quickstart", 0)
    lines = format_table(summary).splitlines()
    assert len(lines) == len(evaluated["models"]) + 1
    assert max(map(len, lines)) <= WIDTH
    marked = [line.split()[1] for line in lines if line.startswith(">")]
    assert marked == [summary.champion.name]


def test_the_terminal_shows_the_demonstration_gap_where_it_chose_the_champion() -> None:
    bare = table(2, 0, scorer=False, rejected=False, oracle=False)
    assert "demo.gap" in format_table(summarise(parsed(bare), "mine", 0)).splitlines()[0]
    assert "demo.gap" not in format_table(summarise(parsed(table(2, 0)), "mine", 0))


@pytest.mark.parametrize(("kind", "heading"), [("voted", "Win rate by people"), ("judged", "Win rate by the pairwise")])
def test_win_rates_have_a_figure_by_round_where_somebody_compared_responses(kind: str, heading: str) -> None:
    evaluated = table(2, 0)
    assert heading not in render(content_of(evaluated))
    for place, model in enumerate(evaluated["models"][-2:], 1):
        found = {"against": "sft-matched", "prompts": 50, "win_rate": 0.5 + place / 10, "win_rate_sem": 0.07}
        if kind == "voted":
            model["voted"] = {**found, "votes": 60, "voters": 2, "outdated": 0, "agreement": None}
        else:
            model["pairwise"] = {**found, "judge": "a program", "consistent": 0.9, "questions": 100, "failed": 0}
    page = render(content_of(evaluated))
    assert heading in page and "sft-matched 0.500, irft-r1 0.600, irft-r2 0.700" in page


def extents(svg: str, font: float) -> list[tuple[str, float, float]]:
    """Text, left end and right end of the labels below the horizontal axis, at the size that a phone gives them."""
    found = []
    for element in ElementTree.fromstring(svg).iter("text"):
        if element.get("class") == "tick" and element.get("text-anchor") == "middle":
            half = len(element.text or "") * WIDTH_OF_A_DIGIT * font / 2
            found.append((element.text or "", float(element.get("x", "")) - half, float(element.get("x", "")) + half))
    return found


@pytest.mark.parametrize("steps", [3, 47, 1000, 46_875, 900_000, 12_000_000])
def test_ticks_of_a_panel_do_not_meet_on_a_phone(steps: int) -> None:
    svg = curve_panel([("irft-r1", [1, steps], [0.1, 0.2])], "irft", "")
    labels = extents(svg, PANEL)
    assert len(labels) >= 2
    assert all(right[1] > left[2] for left, right in pairwise(labels)), labels


@pytest.mark.parametrize("rounds", [1, 9, 16, 120])
def test_ticks_of_a_figure_do_not_meet_on_a_phone(rounds: int) -> None:
    points = [RoundPoint("sft", "sft", 0, 1.0, 0.1)]
    points += [RoundPoint(f"irft-r{t}", "irft", t, 1.0 + t, 0.1) for t in range(1, rounds + 1)]
    labels = extents(figure_over_rounds(points, "score", 2, "")[0], FIGURE)
    assert labels[0][0] == "0" and len(labels) >= 2
    assert all(right[1] > left[2] for left, right in pairwise(labels)), labels


def test_long_labels_of_the_vertical_axis_get_the_room_that_they_need() -> None:
    bins = Bins(edges=[0.0, 1.0, 2.0], all=[1_234_567, 5], kept=[1_234_567, 0])
    for svg, font in (
        (histogram_figure(bins, 0.5, ""), FIGURE),
        (curve_panel([("irft-r1", [1, 2], [-0.00123, -0.00456])], "irft", ""), PANEL),
    ):
        labels = [each for each in ElementTree.fromstring(svg).iter("text") if each.get("text-anchor") == "end"]
        ends = [float(each.get("x", "")) - len(each.text or "") * WIDTH_OF_A_DIGIT * font for each in labels]
        assert labels and min(ends) >= 0
        name = [each for each in ElementTree.fromstring(svg).iter("text") if each.get("transform")]
        assert all(min(ends) > float(each.get("x", "")) for each in name), "the axis's own name stands left of them"


@pytest.mark.parametrize(
    ("values", "rounding"),
    [
        ([3e-9, -1.2e-8, 7e-9], True),
        ([1.0, 1.0, 1.0], True),
        ([5000.0, 5000.001], True),
        ([0.0, 2 * ROUNDING], False),
        ([0.69, 0.6901], False),
        ([1e-3, 2e-3], False),
        ([0.5], False),
        ([], False),
    ],
)
def test_a_curve_that_moves_by_no_more_than_rounding_shows_nothing(values: list[float], rounding: bool) -> None:
    assert only_rounding(values) is rounding


def test_a_quantity_that_is_rounding_alone_has_no_panel_and_is_named() -> None:
    evaluated = table(0, 1)
    policy = evaluated["models"][-1]["training"]
    policy["curves"]["loss"]["value"] = [1e-8 * (-1) ** step for step in policy["curves"]["loss"]["step"]]
    page = render(content_of(evaluated))
    assert "RFT, policy alignment: loss by step" not in page
    assert "RFT, policy alignment: reward by step" in page
    assert "Not drawn, because it moves by no more than rounding: loss." in page
    assert "Not drawn" not in render(content_of(table(0, 1)))


def test_every_heading_explains_itself_without_a_pointer() -> None:
    page = render(content_of(table(1, 1)))
    assert "title=" not in page
    targets = re.findall(r'popovertarget="([\w-]+)"', page)
    assert targets and sorted(targets) == sorted(re.findall(r'<div popover id="([\w-]+)"', page))
    assert 'id="about-preference_gap"><b>Pref. gap</b> Mean of log π(chosen|x)' in page


def test_a_column_that_separates_nothing_says_so_in_its_heading_and_above_the_table() -> None:
    evaluated = table(1, 1)
    for model in evaluated["models"]:
        model["held_out"]["preference_accuracy"] = 0.3 if model["name"] == "base" else 1.0
    page = render(content_of(evaluated))
    said = "Pref. accuracy (1.000) is the same for all models that were trained here and separates nothing."
    assert said in page
    heading = re.search(r"<th [^>]*><button[^>]*about-preference_accuracy.*?</th>", page)
    assert heading is not None and "separates nothing" in heading[0]
    assert said not in render(content_of(table(1, 1)))


def test_the_likelihood_of_held_out_demonstrations_is_drawn_with_paired_intervals() -> None:
    evaluated = table(1, 0)
    assert "Held-out demonstrations</h3>" not in render(content_of(evaluated))
    for place, model in enumerate(evaluated["models"]):
        model["held_out_nll"] = [30.0 + place + number % (2 + place) for number in range(60)]
        model["held_out"] |= {"demonstration_nll": 31.0 + place, "demonstration_nll_sem": 5.0}
    content = content_of(evaluated)
    page = render(content)
    error = content.summary.model("irft-r1").nll_difference_sem
    assert error is not None and error < 1
    assert f"irft-r1: 34.00 ± {error * 2.135:.2f} (95%)" in page
    assert "intervals of the difference to sft-matched, paired over prompts" in page


def test_provenance_names_the_base_model_and_what_decides_what_is_learnt() -> None:
    page = render(content_of(table(3, 2)))
    section = page[page.index('<section id="provenance"') : page.index('<section id="costs"')]
    assert "models/world/policy" in section
    row = re.search(r"IRFT</th>(.*?)</tr>", section)
    assert row is not None
    assert re.findall(r"<td>(.*?)</td>", row[1]) == [
        "logistic, reference round", "3", "30", "1", "32", "0.0004, adamw, linear", "0.3", "1", "all weights", "0",
    ]  # fmt: skip
    assert [name in section for name in ("RFT, reward", "RFT, policy", "Control")] == [True] * 3
    alone = render(content_of(table(0, 0)))
    assert "IRFT</th>" not in alone and "SFT</th>" in alone


def test_commit_and_versions_stay_out_of_the_page_and_belong_to_one_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "head", lambda: "c" * 40)
    monkeypatch.setattr(environment, "changed_files", lambda *patterns, untracked: ["a.py", "b.py"])
    (tmp_path / "report.html").write_text("first")
    environment.record(tmp_path)
    page = (tmp_path / "environment.html").read_text()
    assert f"{'c' * 40}, and 2 changed files" in page and "Python" in page and "transformers" in page
    assert "c" * 40 not in render(content_of(table(1, 0)))
    assert "GPU" not in page
    costs = [StageCost.create("sft", {}, device=device, deterministic=True) for device in ("H100", "A100", "H100")]
    environment.record(tmp_path, [*costs, StageCost.create("report", {})])
    page = (tmp_path / "environment.html").read_text()
    assert "A100; H100" in page and "no: another run" not in page
    environment.record(tmp_path, [*costs, StageCost.create("sft", {}, device="H100", deterministic=False)])
    assert "no: another run differs in its last digits" in (tmp_path / "environment.html").read_text()
    (tmp_path / "report.html").write_text("restored from a cache")
    environment.refresh(tmp_path)
    assert "restored from DVC" in (tmp_path / "environment.html").read_text()
    (tmp_path / "environment.json").unlink()
    environment.refresh(tmp_path)
    assert "restored from DVC" in (tmp_path / "environment.html").read_text()


def test_the_terminal_shows_win_rates_with_their_errors_where_they_were_measured() -> None:
    evaluated = table(1, 0, scorer=False, oracle=False, rejected=False)
    found = {"against": "sft-matched", "prompts": 50, "win_rate": 0.625, "win_rate_sem": 0.07}
    model = evaluated["models"][-1]
    model["voted"] = {**found, "votes": 60, "voters": 2, "outdated": 0, "agreement": None}
    model["pairwise"] = {**found, "win_rate": 0.75, "judge": "x", "consistent": 0.9, "questions": 100, "failed": 0}
    shown = format_table(summarise(parsed(evaluated), "desk", 0))
    assert "votes" in shown and "pairwise" in shown and "0.625 ±0.070" in shown and "0.750 ±0.070" in shown
    assert "votes" not in format_table(summarise(parsed(table(1, 0)), "desk", 0))
