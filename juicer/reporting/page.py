"""The report as one self-contained HTML page: what it shows. How it looks is in templates/report.html.j2.

Everything that a model or a person wrote is escaped by the template engine: a response is shown, never interpreted.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from juicer.evaluation.repetition import repeats_itself
from juicer.evaluation.results import EvaluatedModel, ShownSample, Table, Training
from juicer.evaluation.rounds import RoundComparison
from juicer.reporting import provenance
from juicer.reporting.charts import curve_panel, figure_over_rounds, histogram_figure, marker, only_rounding
from juicer.reporting.contract import LeaderboardRow, LeaderboardSummary, Summary, SummaryRow, win_rate_key
from juicer.reporting.findings import (
    METHODS,
    around_round,
    before_of,
    findings,
    said_to_separate_nothing,
    title,
)
from juicer.reporting.formatting import shown
from juicer.reporting.leaderboard_table import HEADINGS, scores_of
from juicer.reporting.numbers import EVEN, Column, best_names, separates_nothing, shown_columns
from juicer.reporting.plots import HIDDEN_CURVES, Curation, CurvePoint, over_rounds
from juicer.reporting.provenance import Recipe, TrainingLine
from juicer.reporting.rendering import render_page

OPEN_SAMPLES = 8
"""Up to this many models, all responses to a prompt are shown without unfolding."""
STAGES = {
    "preferences": ("Scorer and judge, from preference pairs", "base"),
    "sft": ("Supervised fine-tuning", "sft"),
    "sft_matched": ("The control, SFT continued", "matched"),
    "irft_train": ("IRFT, the policy as its own reward", "irft"),
    "rft_reward": ("RFT, reward alignment", "rft"),
    "rft_policy": ("RFT, policy alignment", "rft"),
}
"""Heading and colour of the training stages."""
COLOURS = {"sft": "sft", "sft-matched": "matched", "irft": "irft", "rft": "rft"}
"""CSS class per method; a method that is not here is grey."""
LEGEND = {"sft": "sft", "sft-matched": "sft-matched, the control", "irft": "IRFT", "rft": "RFT"}


@dataclass(frozen=True)
class Content:
    """All that the page shows."""

    description: str
    summary: Summary
    table: Table[EvaluatedModel]
    curves: Sequence[CurvePoint]
    curation: Curation
    provenance: Mapping[str, JsonValue]
    """What the stage `fetch` recorded of the data."""
    recipe: Recipe


@dataclass(frozen=True)
class Tile:
    """One large figure at the head of the page."""

    name: str
    value: str
    against: str
    """The control's value, or more about this one."""


@dataclass(frozen=True)
class Cell:
    """One metric of one model."""

    value: float | None
    column: Column
    error: float | None
    """Its standard error, where the column shows one and it is known."""
    best: bool
    same: bool
    """Whether the column separates nothing."""


@dataclass(frozen=True)
class ModelLine:
    """One row of the table of models."""

    name: str
    colour: str
    champion: bool
    begins_group: bool
    """Whether a line above sets it apart: it is the first of its method."""
    cells: list[Cell]


@dataclass(frozen=True)
class ModelTable:
    """A table of all models."""

    heading: str
    columns: list[Column]
    same: set[str]
    """Keys of the columns that separate nothing."""
    lines: list[ModelLine]


@dataclass(frozen=True)
class RoundLine:
    """One round of a method on `rounds: auto`, against the one before."""

    name: str
    colour: str
    cells: list[str]


ROUND_HEADINGS = ("Against", "By", "Value", "Before", "Difference", "On", "KL to SFT", "Improves")


@dataclass(frozen=True)
class BoardLine:
    """One row of the leaderboard: (score, standard error) per benchmark, in per cent."""

    name: str
    colour: str
    paper: bool
    """Whether the figures are the paper's."""
    scores: list[tuple[float, float | None]]


@dataclass(frozen=True)
class Board:
    """The leaderboard."""

    columns: list[tuple[str, str]]
    """Heading, and how the benchmark was measured."""
    ways: str
    limit: int | None
    lines: list[BoardLine]


@dataclass(frozen=True)
class Figure:
    """A figure: SVG, in which all text is escaped, and the words around it."""

    heading: str
    svg: str
    caption: str = ""


@dataclass(frozen=True)
class LegendEntry:
    """One colour of the figures by round."""

    name: str
    colour: str
    marker: str
    """SVG of the method's marker; empty for a reference line."""


@dataclass(frozen=True)
class StageCurves:
    """The training curves of one kind of stage."""

    stage: str
    heading: str
    panels: list[Figure]
    left_out: list[str]
    """Quantities that move by no more than rounding."""


@dataclass(frozen=True)
class Answer:
    """The response of one model to one prompt."""

    name: str
    colour: str
    champion: bool
    text: str
    cut: bool
    """Whether it reached the length limit before it ended."""
    repeated: bool
    """Whether it repeats itself."""
    judged: list[str]
    """What the scorer and the oracle say."""


@dataclass(frozen=True)
class SampleCard:
    """One prompt, the demonstration, and the responses of the models."""

    sample: ShownSample
    answers: list[Answer]
    folded: list[Answer]
    """Responses that the reader has to unfold."""


@dataclass(frozen=True)
class TrainedLine:
    """One row of the table of training, and its colour."""

    colour: str
    line: TrainingLine


@dataclass(frozen=True)
class Work:
    """What one training stage did."""

    model: str
    colour: str
    record: Training
    totals: bool
    """Whether the record's totals are the model's."""


def render(content: Content) -> str:
    """The whole page."""
    summary = content.summary
    figures, training = round_figures(summary), _training(content.curves)
    samples = _samples(content.table, summary.champion.name)
    there = {
        "models": "All models",
        "leaderboard": "Leaderboard" if summary.leaderboard else "",
        "rounds": "How many rounds" if summary.rounds else "",
        "figures": "By round" if figures else "",
        "training": "Training curves" if training else "",
        "curation": "Curation",
        "samples": "Responses side by side" if samples else "",
        "provenance": "Provenance",
        "costs": "Costs",
    }
    return render_page(
        "report.html.j2",
        summary=summary,
        description=content.description,
        found=findings(summary),
        tiles=_tiles(summary),
        sections={name: heading for name, heading in there.items() if heading},
        tables=_tables(summary),
        prompts=next((model.prompts for model in summary.models if model.prompts), None),
        separate_nothing=said_to_separate_nothing(
            summary.models, [column for column in shown_columns(summary.models) if not column.behaviour]
        ),
        board=_board(summary.leaderboard) if summary.leaderboard else None,
        rounds=[_round_line(found) for found in summary.rounds or ()],
        round_headings=ROUND_HEADINGS,
        legend=_legend(summary.models),
        figures=figures,
        training=training,
        histogram=_histogram(content.curation),
        curation=_halves(_curation_facts(content.curation)),
        samples=samples,
        provenance=_halves(content.provenance),
        base=provenance.base_model(content.recipe),
        measured_by=provenance.measured_by(content.recipe),
        trained=[TrainedLine(colour_of(line.method), line) for line in _trained(content)],
        training_headings=[(each, provenance.MEANINGS.get(each)) for each in provenance.HEADINGS],
        work=_work(content.table),
    )


def colour_of(method: str) -> str:
    """The CSS class of a method's colour; empty for grey."""
    return COLOURS.get(method, "")


def _tiles(summary: Summary) -> list[Tile]:
    champion, control = summary.model(summary.champion.name), summary.model(summary.control)
    tiles = [Tile("Champion", champion.name, title(champion))]
    for key, name, digits in (
        ("reward_mean", "Mean score", 3),
        ("oracle_mean", "Oracle", 3),
        ("preference_accuracy", "Preference accuracy", 3),
        ("response_tokens", "Tokens per response", 1),
    ):
        if champion.metric(key) is not None:
            against = "" if champion is control else f"{control.name} {shown(control.metric(key), digits)}"
            tiles.append(Tile(name, shown(champion.metric(key), digits), against))
    return tiles


def _trained(content: Content) -> list[TrainingLine]:
    return provenance.training_lines(content.recipe, content.table)


def _tables(summary: Summary) -> list[ModelTable]:
    """How good the models are, and how they answer."""
    columns = shown_columns(summary.models)
    return [
        _models(summary, heading, chosen)
        for heading, behaviour in (("Quality", False), ("Behaviour", True))
        if (chosen := [column for column in columns if column.behaviour is behaviour])
    ]


def _models(summary: Summary, heading: str, columns: list[Column]) -> ModelTable:
    models = summary.models
    same = {column.key for column in columns if separates_nothing(models, column)}
    best = {column.key: best_names(models, column) for column in columns}
    groups = [model.method if model.method in METHODS else "reference" for model in models]
    lines = [
        ModelLine(
            name=model.name,
            colour=colour_of(model.method),
            champion=model.name == summary.champion.name,
            begins_group=bool(place) and groups[place - 1] != groups[place],
            cells=[
                Cell(
                    model.metric(column.key),
                    column,
                    model.metric(column.error) if column.error else None,
                    model.name in best[column.key],
                    column.key in same,
                )
                for column in columns
            ],
        )
        for place, model in enumerate(models)
    ]
    return ModelTable(heading, columns, same, lines)


def _round_line(found: RoundComparison) -> RoundLine:
    improves = "yes" if found.improved else "not beyond noise"
    improves += {"discarded": ": discarded", "kept": ": kept, as the only one", "limit": "", "open": ""}[found.ending]
    cells = [
        before_of(found),
        found.measure,
        shown(found.value, 3),
        shown(found.value_before, 3),
        f"{shown(found.difference, 3, signed=True)}{around_round(found)}",
        f"{found.count} {found.cases}",
        shown(found.kl_to_sft, 2),
        improves,
    ]
    return RoundLine(f"{found.method}-r{found.round}", colour_of(found.method), cells)


def _board(board: LeaderboardSummary) -> Board:
    """The paper's six benchmarks, with the paper's own figures below ours."""
    columns = [
        (heading, f"{board.fewshot[key]}-shot {board.metric[key]}" if key in board.metric else "plain mean")
        for key, heading in HEADINGS.items()
    ]
    ways = ", ".join(f"{HEADINGS[key]} {number}-shot" for key, number in board.fewshot.items())
    return Board(columns, ways, board.limit, [line for model in board.models for line in _board_lines(model)])


def _board_lines(model: LeaderboardRow) -> list[BoardLine]:
    scores = [(score, model.errors.get(key)) for key, score in scores_of(model).items()]
    lines = [BoardLine(model.name, colour_of(model.method), False, scores)]
    if model.paper:
        theirs: list[tuple[float, float | None]] = [(score, None) for score in scores_of(model.paper).values()]
        lines.append(BoardLine(model.paper.name, "", True, theirs))
    return lines


def round_figures(summary: Summary) -> list[Figure]:
    """The figures by round: the paper's Figure 2, the demonstrations' likelihood, and without a scorer their gap."""
    drawn = [
        (
            "preference_gap",
            "preference_gap_sem",
            "Figure 2a. Preference gap",
            "log π(chosen) − log π(rejected)",
            2,
            "Mean gap on held-out pairs, in nats. Above 0 the policy gives the chosen response the higher probability.",
        ),
        (
            "reward_mean",
            "reward_sem",
            "Figure 2b. Average score",
            "mean score of own responses",
            3,
            "Mean score of one sampled response per held-out prompt.",
        ),
    ]
    if over_rounds(summary.models, "judge_mean", None):
        drawn.append(
            (
                "judge_mean",
                "judge_sem",
                "Average score by the judge",
                "mean score of own responses",
                3,
                "As before, by the judge: a reward model that chose neither demonstrations nor rounds.",
            )
        )
    drawn.append(
        (
            "demonstration_nll",
            "nll_difference_sem",
            "Held-out demonstrations",
            "−log π(y|x), nats per response",
            2,
            "Mean negative log-likelihood of the held-out demonstrations: lower is better, and no scorer is needed. "
            f"Bars: 95% intervals of the difference to {summary.control}, paired over prompts; a bar that leaves out "
            "its line is a difference.",
        )
    )
    figures = [*_win_rates(summary), *(_over_rounds(summary.models, *each) for each in drawn)]
    if not over_rounds(summary.models, "reward_mean", None):
        meaning = (
            "Mean gap on held-out prompts, in nats. Near 0 demonstrations look like the model's own samples; neither "
            "direction is good by itself."
        )
        label = "log π(demonstration) − log π(own sample)"
        figures.append(_over_rounds(summary.models, "demonstration_gap", None, "Demonstration gap", label, 2, meaning))
    return [figure for figure in figures if figure.svg]


def _win_rates(summary: Summary) -> list[Figure]:
    """By people and by the pairwise judge, where these were asked; the control's line is at 1/2."""
    figures = []
    kinds = {
        win_rate_key("voted", summary.control): "people's votes",
        win_rate_key("judged", summary.control): "the pairwise judge",
    }
    for key, by in kinds.items():
        if not over_rounds(summary.models, key, None):
            continue
        even = {summary.control: {key: EVEN}}
        models = [model.model_copy(update=even.get(model.name, {})) for model in summary.models]
        meaning = (
            f"Share of held-out prompts on which the response is preferred to that of {summary.control}, ties half: "
            "0.5 is as good."
        )
        label = f"preferred to {summary.control}"
        figures.append(_over_rounds(models, key, f"{key}_sem", f"Win rate by {by}", label, 3, meaning))
    return figures


def _over_rounds(
    models: Sequence[SummaryRow], key: str, error: str | None, heading: str, label: str, digits: int, meaning: str
) -> Figure:
    points = over_rounds(models, key, error)
    if only_rounding([point.value for point in points if point.method != "base"]):
        return Figure(heading, "")
    alt = f"{heading}: " + ", ".join(f"{point.name} {shown(point.value, digits)}" for point in points)
    svg, note = figure_over_rounds(points, label, digits, alt)
    caption = f"{meaning} {note[0].upper()}{note[1:]}." if note else meaning
    bars = error is not None and error.removesuffix("_sem") in key
    return Figure(heading, svg, f"{caption} Bars and bands: 95% intervals over prompts." if bars else caption)


def _legend(models: Sequence[SummaryRow]) -> list[LegendEntry]:
    methods = {model.method for model in models}
    return [
        LegendEntry(name, COLOURS[method], marker(COLOURS[method], 17, 7) if method in METHODS else "")
        for method, name in LEGEND.items()
        if method in methods
    ]


def _training(curves: Sequence[CurvePoint]) -> list[StageCurves]:
    drawn = [point for point in curves if point.quantity not in HIDDEN_CURVES]
    order = {stage: place for place, stage in enumerate(STAGES)}
    stages = sorted({point.stage for point in drawn}, key=lambda stage: (order.get(stage, len(order)), stage))
    return [_stage_curves(stage, [point for point in drawn if point.stage == stage]) for stage in stages]


def _stage_curves(stage: str, points: Sequence[CurvePoint]) -> StageCurves:
    heading, colour = STAGES.get(stage, (stage, "base"))
    panels, left_out = list[Figure](), list[str]()
    for quantity in dict.fromkeys(point.quantity for point in points):
        logged = [point for point in points if point.quantity == quantity]
        groups = [(model, list(group)) for model, group in itertools.groupby(logged, key=lambda point: point.model)]
        rounds = [(model, [each.step for each in group], [each.value for each in group]) for model, group in groups]
        name = quantity.replace("_", " ")
        if only_rounding([point.value for point in logged]):
            left_out.append(name)
            continue
        panels.append(Figure(name, curve_panel(rounds, colour, f"{heading}: {name} by step")))
    return StageCurves(stage, heading, panels, left_out)


def _histogram(curation: Curation) -> str:
    """The histogram of the scores as SVG; empty without a scorer."""
    if curation.scores is None:
        return ""
    bins = curation.scores.histogram
    description = f"Histogram of scores: {sum(bins.all)} demonstrations, {sum(bins.kept)} of them kept"
    return histogram_figure(bins, curation.scores.threshold, description)


def _curation_facts(curation: Curation) -> dict[str, JsonValue]:
    if curation.scores is None:
        return curation.facts
    scores = curation.scores
    return {
        **curation.facts,
        "scores threshold": scores.threshold,
        "scores all": scores.all,
        "scores kept": scores.kept,
    }


def _halves(facts: Mapping[str, JsonValue]) -> list[dict[str, JsonValue]]:
    """The facts in two columns, the first at least as long as the second."""
    half = (len(facts) + 1) // 2
    return [dict(itertools.islice(facts.items(), *part)) for part in ((half,), (half, None))]


def _samples(table: Table[EvaluatedModel], champion: str) -> list[SampleCard]:
    models = [model for model in table.models if model.samples]
    cards = []
    for place, first in enumerate(models[0].samples if models else []):
        answers = [(model, model.samples[place]) for model in models if place < len(model.samples)]
        few = len(answers) <= OPEN_SAMPLES
        cards.append(
            SampleCard(
                first,
                [_answer(*pair, champion) for pair in answers if few or _is_open(pair[0], champion, models)],
                [_answer(*pair, champion) for pair in answers if not (few or _is_open(pair[0], champion, models))],
            )
        )
    return cards


def _is_open(model: EvaluatedModel, champion: str, models: Sequence[EvaluatedModel]) -> bool:
    """Whether responses of the model are shown without unfolding: all but those of the rounds in the middle."""
    if model.method not in METHODS or model.name == champion:
        return True
    rounds = [other.round for other in models if other.method == model.method]
    return model.round in (min(rounds), max(rounds))


def _answer(model: EvaluatedModel, sample: ShownSample, champion: str) -> Answer:
    judged = [("score", sample.score), ("oracle", sample.oracle)]
    return Answer(
        name=model.name,
        colour=colour_of(model.method),
        champion=model.name == champion,
        text=sample.response.strip(),
        cut=sample.was_cut,
        repeated=repeats_itself(sample.response),
        judged=[f"{name} {shown(value, 2)}" for name, value in judged if value is not None],
    )


def _work(table: Table[EvaluatedModel]) -> list[Work]:
    return [
        Work(model.name, colour_of(model.method), record, record is model.training)
        for model in table.models
        if model.training
        for record in model.training.in_order()
    ]
