"""The page, its figures, the plot files and the terminal's table."""

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from juicer.reporting.charts import figure_over_rounds, running_mean, ticks
from juicer.reporting.numbers import summarise
from juicer.reporting.page import Content, render
from juicer.reporting.plots import Curation, RoundPoint, over_rounds, training_curves, write_plots
from juicer.reporting.summary import WIDTH, format_table
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
    assert "(cut)" not in render(content_of(evaluated))
    for model in evaluated["models"]:
        for sample in model["samples"]:
            sample["prompt"] = "<|im_start|>user\nHow?<|im_end|>\n<|im_start|>assistant"
            sample["turns"] = [{"role": "system", "content": "Be <b>brief</b>."}, {"role": "user", "content": "How?"}]
            sample["ended"] = model["name"] != "sft"
    page = render(content_of(evaluated))
    assert "im_start" not in page
    assert "<b>system</b> Be &lt;b&gt;brief&lt;/b&gt;.\n\n<b>user</b> How?" in page
    assert page.count("… (cut)") == len(evaluated["models"][1]["samples"])


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
