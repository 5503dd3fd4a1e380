"""The report as one self-contained HTML page, rendered from the summary, the table, curation and provenance.

Everything that a model or a person wrote is escaped: a response is shown, never interpreted.
"""

import html
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from juicer.reporting.charts import curve_panel, figure_over_rounds, histogram_figure, marker
from juicer.reporting.findings import METHODS, findings, title
from juicer.reporting.leaderboard_table import HEADINGS
from juicer.reporting.numbers import Row, best_names, shown, shown_columns
from juicer.reporting.plots import HIDDEN_CURVES, CurvePoint, Histogram, over_rounds
from juicer.reporting.style import document

OPEN_SAMPLES = 8
"""Up to so many models' responses are shown per prompt without unfolding."""
STAGES = {
    "sft": ("Supervised fine-tuning", "sft"),
    "sft_matched": ("The control, SFT continued", "matched"),
    "irft_train": ("IRFT, the policy as its own reward", "irft"),
    "rft_reward": ("RFT, reward alignment", "rft"),
    "rft_policy": ("RFT, policy alignment", "rft"),
}
CLASSES = {"sft-matched": "matched"}
COLOURED = ("sft", "sft-matched", *METHODS)


@dataclass(frozen=True)
class Content:
    """All that the page shows."""

    description: str
    summary: dict[str, Any]
    table: dict[str, Any]
    curves: Sequence[CurvePoint]
    histogram: Histogram | None
    curation: dict[str, Any]
    provenance: dict[str, Any]


def text(value: object) -> str:
    """Any value as HTML text, escaped."""
    return html.escape(str(value))


def render(content: Content) -> str:
    """The whole page."""
    sections = [
        ("models", "All models", _models(content.summary)),
        ("leaderboard", "Leaderboard", leaderboard_section(content.summary)),
        ("figures", "By round", _figures(content.summary)),
        ("training", "Training curves", _training(content.curves)),
        ("curation", "Curation", _curation(content.curation, content.histogram)),
        ("samples", "Responses side by side", _samples(content.table, content.summary["champion"]["name"])),
        ("provenance", "Provenance", _provenance(content)),
        ("costs", "Costs", _costs(content.table)),
    ]
    shown_sections = [(name, heading, body) for name, heading, body in sections if body]
    links = "".join(f'<a href="#{name}">{heading}</a>' for name, heading, _ in shown_sections)
    body = "".join(
        f'<section id="{name}" aria-labelledby="{name}-heading">\n'
        f'<h2 id="{name}-heading">{heading}</h2>\n{part}\n</section>\n'
        for name, heading, part in shown_sections
    )
    recipe = text(content.summary["recipe"])
    return document(
        f"Report: {recipe}",
        f"{_head(content, links)}\n<main>\n{body}</main>\n"
        "<footer>Reward learning from human demonstrations, "
        '<a href="https://arxiv.org/abs/2405.17888">arXiv 2405.17888</a>. Rendered from versioned data alone: '
        "the same inputs give the same page, byte for byte.</footer>",
    )


def _head(content: Content, links: str) -> str:
    summary, found = content.summary, findings(content.summary)
    sentences = "".join(f"<li>{text(sentence)}</li>" for sentence in found.sentences)
    caveats = "".join(f"<p>{text(caveat)}</p>" for caveat in found.caveats)
    description = f'<p class="note">{text(content.description)}</p>' if content.description else ""
    return (
        '<header class="head">\n'
        f'<p class="kicker">Recipe {text(summary["recipe"])} · seed {text(summary["seed"])}</p>\n'
        f"<h1>{text(found.headline)}</h1>\n{description}\n"
        f'<div class="lede"><ul>{sentences}</ul></div>\n{_tiles(summary)}\n<div class="caveats">{caveats}</div>\n'
        f'<nav aria-label="Sections">{links}</nav>\n</header>'
    )


def _tiles(summary: dict[str, Any]) -> str:
    models = {model["name"]: model for model in summary["models"]}
    champion, control = models[summary["champion"]["name"]], models[summary["control"]]
    tiles = [f'<div class="tile"><div class="name">Champion</div><div class="value">{text(champion["name"])}</div>']
    tiles[0] += f'<div class="against">{text(title(champion))}</div></div>'
    for key, name, digits in (
        ("reward_mean", "Mean score", 3),
        ("oracle_mean", "Oracle", 3),
        ("preference_accuracy", "Preference accuracy", 3),
        ("response_tokens", "Tokens per response", 1),
    ):
        if champion.get(key) is None:
            continue
        against = "" if champion is control else f"{text(control['name'])} {shown(control.get(key), digits)}"
        tiles.append(
            f'<div class="tile"><div class="name">{name}</div><div class="value">{shown(champion[key], digits)}</div>'
            f'<div class="against">{against}</div></div>'
        )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _dot(method: str) -> str:
    css = f"dot {CLASSES.get(method, method)}" if method in COLOURED else "dot"
    return f'<span class="{css}"></span>'


def _models(summary: dict[str, Any]) -> str:
    models, champion = summary["models"], summary["champion"]["name"]
    columns = shown_columns(models)
    best = {column.key: best_names(models, column) for column in columns}
    heads = "".join(
        f'<th scope="col"><abbr title="{text(column.explanation)}">{text(column.heading)}</abbr></th>'
        for column in columns
    )
    rows, previous = [], None
    for model in models:
        group = "reference" if model["method"] not in METHODS else model["method"]
        classes = " ".join(
            name
            for name, on in (
                ("champion", model["name"] == champion),
                ("group", previous not in (None, group)),
            )
            if on
        )
        previous = group
        badge = '<span class="badge">champion</span>' if model["name"] == champion else ""
        cells = []
        for column in columns:
            value = shown(model.get(column.key), column.digits, signed=column.signed)
            value = f"<b>{value}</b>" if model["name"] in best[column.key] else value
            error = model.get(column.error) if column.error else None
            around = f'<span class="error">± {shown(error, column.digits)}</span>' if error is not None else ""
            cells.append(f"<td>{value}{around}</td>")
        opening = f'<tr class="{classes}">' if classes else "<tr>"
        name = f"{_dot(model['method'])}{text(model['name'])}{badge}"
        rows.append(f'{opening}<th scope="row">{name}</th>{"".join(cells)}</tr>')
    meanings = "".join(f"<dt>{text(column.heading)}</dt><dd>{text(column.explanation)}</dd>" for column in columns)
    prompts = next((model["prompts"] for model in models if model.get("prompts")), None)
    on = f" on {prompts} held-out prompts" if prompts else " on held-out prompts"
    return (
        f"<p>Measured{on}; the champion was chosen on others. Bold is the best of a column in which one direction is "
        "better; ± is one standard error.</p>\n"
        f'<div class="scroll" tabindex="0" role="region" aria-label="Table of all models"><table class="models">'
        f'<thead><tr><th scope="col">Model</th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>\n'
        f'<details><summary>What the columns mean</summary><dl class="columns">{meanings}</dl></details>'
    )


def leaderboard_section(summary: dict[str, Any]) -> str:
    """The paper's six benchmarks, with the paper's own figures below ours; nothing where they were not run."""
    board = summary.get("leaderboard")
    if board is None:
        return ""
    heads = ""
    for key, heading in HEADINGS.items():
        how = f"{board['fewshot'][key]}-shot {board['metric'][key]}" if key in board["metric"] else "plain mean"
        heads += f'<th scope="col"><abbr title="{text(how)}">{heading}</abbr></th>'
    rows = []
    for model in board["models"]:
        cells = ""
        for key in HEADINGS:
            error = model["errors"].get(key)
            around = f'<span class="error">± {shown(error, 2)}</span>' if error is not None else ""
            cells += f"<td>{shown(model[key], 2)}{around}</td>"
        rows.append(f'<tr><th scope="row">{_dot(model["method"])}{text(model["name"])}</th>{cells}</tr>')
        if paper := model["paper"]:
            cells = "".join(f"<td>{shown(paper[key], 2)}</td>" for key in HEADINGS)
            rows.append(f'<tr class="note"><th scope="row">the paper: {text(paper["name"])}</th>{cells}</tr>')
    ways = ", ".join(f"{HEADINGS[key]} {number}-shot" for key, number in board["fewshot"].items())
    limit = board["limit"]
    limited = f" <strong>A quick look: at most {limit} questions per task.</strong>" if limit is not None else ""
    return (
        f"<p>Per cent, by lm-eval: {ways}. ± is one standard error over questions; the average is the plain mean of "
        f"the six.{limited}</p>\n"
        '<div class="scroll" tabindex="0" role="region" aria-label="Leaderboard"><table class="models">'
        f'<thead><tr><th scope="col">Model</th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _figures(summary: dict[str, Any]) -> str:
    models = summary["models"]
    figures = []
    drawn = [
        (
            "preference_gap",
            "preference_gap_sem",
            "Figure 2a. Preference gap",
            "log π(chosen) − log π(rejected)",
            2,
            "Mean gap on held-out pairs, in nats. Above 0 the policy finds the chosen response likelier.",
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
    if not over_rounds(models, "reward_mean", "reward_sem"):
        drawn.append(
            (
                "demonstration_gap",
                "",
                "Demonstration gap",
                "log π(demonstration) − log π(own sample)",
                2,
                "Mean gap on held-out prompts, in nats. Near 0 demonstrations look like the model's own samples; no "
                "direction is good by itself.",
            )
        )
    for key, error, heading, label, digits, meaning in drawn:
        points = over_rounds(models, key, error)
        alt = f"{heading}: " + ", ".join(f"{point.name} {shown(point.value, digits)}" for point in points)
        svg, note = figure_over_rounds(points, label, digits, alt)
        if svg:
            caption = text(f"{meaning} {note[0].upper()}{note[1:]}." if note else meaning)
            caption += " Bars and bands: 95% intervals over prompts." if error else ""
            figures.append(f"<figure><h3>{text(heading)}</h3>{svg}<figcaption>{caption}</figcaption></figure>")
    if not figures:
        return ""
    return f'{_legend(models)}\n<div class="pair">{"".join(figures)}</div>'


def _legend(models: Sequence[Row]) -> str:
    methods = {model["method"] for model in models}
    entries = []
    for method, name in (("sft", "sft"), ("sft-matched", "sft-matched, the control"), ("irft", "IRFT"), ("rft", "RFT")):
        if method in methods:
            css = CLASSES.get(method, method)
            mark = marker(css, 17, 7) if method in METHODS else ""
            key = f'<svg viewBox="0 0 34 14" aria-hidden="true"><path class="line {css}" d="M1 7H33"/>{mark}</svg>'
            entries.append(f"<span>{key}{name}</span>")
    return f'<div class="legend">{"".join(entries)}</div>'


def _training(curves: Sequence[CurvePoint]) -> str:
    kept = [point for point in curves if point.quantity not in HIDDEN_CURVES]
    parts = []
    order = {stage: place for place, stage in enumerate(STAGES)}
    known = sorted({point.stage for point in kept}, key=lambda stage: (order.get(stage, len(order)), stage))
    for stage in known:
        heading, css = STAGES.get(stage, (stage, "base"))
        mine = [point for point in kept if point.stage == stage]
        panels = []
        for quantity in dict.fromkeys(point.quantity for point in mine):
            rounds = [
                (model, [point.step for point in points], [point.value for point in points])
                for model, points in (
                    (model, list(group))
                    for model, group in itertools.groupby(
                        (point for point in mine if point.quantity == quantity), key=lambda point: point.model
                    )
                )
            ]
            name = quantity.replace("_", " ")
            svg = curve_panel(rounds, css, f"{heading}: {name} by step")
            panels.append(f"<figure><h3>{text(name)}</h3>{svg}</figure>")
        parts.append(f'<h3>{text(heading)} <code class="note">{text(stage)}</code></h3>')
        parts.append(f'<div class="panels">{"".join(panels)}</div>')
    if not parts:
        return ""
    return (
        "<p>Faint: as logged, every step. Strong: a running mean. Rounds lie end to end, parted by dotted lines.</p>\n"
        + "\n".join(parts)
    )


def _curation(curation: dict[str, Any], histogram: Histogram | None) -> str:
    facts = {key: value for key, value in curation.items() if key != "scores"}
    if histogram is None:
        figure = "<p>The recipe has no scorer, so demonstrations were kept in the order they came.</p>"
    else:
        facts |= {f"scores {key}": value for key, value in curation["scores"].items() if key != "histogram"}
        description = f"Histogram of scores: {sum(histogram.all)} demonstrations, {sum(histogram.kept)} of them kept"
        figure = (
            f'<figure class="wide">{histogram_figure(histogram, description)}<div class="legend">'
            '<span><span class="dot irft"></span>kept for training</span>'
            '<span><span class="dot"></span>all that could be trained on</span></div></figure>'
        )
    half = (len(facts) + 1) // 2
    halves = (dict(itertools.islice(facts.items(), *part)) for part in ((half,), (half, None)))
    return f'{figure}\n<div class="facts">{"".join(_facts(each) for each in halves)}</div>'


def _samples(table: dict[str, Any], champion: str) -> str:
    models = [model for model in table["models"] if model.get("samples")]
    if not models:
        return ""
    cards = []
    for place, first in enumerate(models[0]["samples"]):
        answers = [(model, model["samples"][place]) for model in models if place < len(model["samples"])]
        top = [pair for pair in answers if len(answers) <= OPEN_SAMPLES or _is_open(pair[0], champion, models)]
        rest = [pair for pair in answers if pair not in top]
        demonstration = (
            '<div class="answer"><span class="who">demonstration</span>'
            f'<div class="text">{_response(first["demonstration"])}</div><span class="judged"></span></div>'
        )
        folded = "".join(_answer(model, sample, champion) for model, sample in rest)
        cards.append(
            f'<article class="sample"><div class="prompt">{_prompt(first)}</div>{demonstration}'
            + "".join(_answer(model, sample, champion) for model, sample in top)
            + (f"<details><summary>{len(rest)} more rounds</summary>{folded}</details>" if rest else "")
            + "</article>"
        )
    return (
        f"<p>{len(cards)} held-out prompts, the first ones, not picked. One sampled response each, with the same "
        "random numbers for every model.</p>\n" + "\n".join(cards)
    )


def _is_open(model: Row, champion: str, models: Sequence[Row]) -> bool:
    if model["method"] not in METHODS or model["name"] == champion:
        return True
    rounds = [other["round"] for other in models if other["method"] == model["method"]]
    return model["round"] in (min(rounds), max(rounds))


def _answer(model: Row, sample: Mapping[str, Any], champion: str) -> str:
    judged = []
    for key in ("score", "oracle"):
        if sample.get(key) is not None:
            judged.append(f"{key} {shown(sample[key], 2)}")
    css = "answer champion" if model["name"] == champion else "answer"
    return (
        f'<div class="{css}"><span class="who">{_dot(model["method"])}{text(model["name"])}</span>'
        f'<div class="text">{_response(sample["response"], cut=not sample.get("ended", True))}</div>'
        f'<span class="judged">{"<br>".join(judged)}</span></div>'
    )


def _prompt(sample: Mapping[str, Any]) -> str:
    """The prompt as the model saw it, or its turns where those are known."""
    if turns := sample.get("turns"):
        return "\n\n".join(f"<b>{text(turn['role'])}</b> {text(turn['content'].strip())}" for turn in turns)
    return text(sample["prompt"].strip())


def _response(response: str, *, cut: bool = False) -> str:
    stripped = response.strip()
    mark = '<span class="empty">… (cut)</span>' if cut else ""
    return f"<p>{text(stripped)}{mark}</p>" if stripped else '<p class="empty">empty response</p>'


def _provenance(content: Content) -> str:
    summary = content.summary
    recipe = {"recipe": summary["recipe"], "seed": summary["seed"], "models": len(summary["models"])}
    return f'<div class="facts">{_facts(content.provenance)}{_facts(recipe)}</div>'


def _facts(values: Mapping[str, Any]) -> str:
    rows = [
        f'<tr><th scope="row">{text(key.replace("_", " "))}</th><td>{_fact(value)}</td></tr>'
        for key, value in values.items()
    ]
    return f'<div class="scroll"><table>{"".join(rows)}</table></div>' if rows else ""


def _fact(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    if isinstance(value, float):
        return f"{value:.6g}".replace("-", "−")
    if isinstance(value, Mapping):
        return "<br>".join(f"{text(str(key).replace('_', ' '))}: {_fact(each)}" for key, each in value.items()) or "–"
    if isinstance(value, list):
        return "<br>".join(_fact(each) for each in value) or "–"
    return f'<span class="mono">{text(value)}</span>' if _is_hash(str(value)) else text(value)


def _is_hash(value: str) -> bool:
    return len(value) >= 32 and all(character in "0123456789abcdef" for character in value)


def _costs(table: dict[str, Any]) -> str:
    rows = []
    for model in table["models"]:
        training = model.get("training")
        for record in (training.get("reward"), training) if training else ():
            if record:
                whole = record is training
                numbers = [record.get("steps"), record.get("response_tokens")]
                numbers += [record.get("total_steps"), record.get("total_response_tokens")] if whole else [None, None]
                cells = "".join(f"<td>{shown(value, 0)}</td>" for value in numbers)
                rows.append(
                    f'<tr><th scope="row">{_dot(model["method"])}{text(model["name"])}</th>'
                    f'<td class="text">{text(record["stage"])}</td>{cells}</tr>'
                )
    counted = (
        '<div class="scroll"><table><thead><tr><th scope="col">Model</th><th scope="col" class="text">Stage</th>'
        '<th scope="col">Steps</th><th scope="col">Response tokens</th><th scope="col">Steps since sft</th>'
        f'<th scope="col">Response tokens since sft</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        if rows
        else ""
    )
    return (
        "<p>Optimiser steps, and response tokens trained on, are the same on every machine:</p>\n" + counted + "\n"
        "<p>Seconds and peak memory are not, so they stand beside this page, in "
        '<a href="costs.html">costs.html</a>, written anew by each run:</p>\n'
        '<object class="costs" data="costs.html" type="text/html" aria-label="Seconds and peak memory per stage">'
        '<p class="note">No costs.html here: <code>python -m juicer.reporting.costs</code> writes it.</p></object>'
    )
