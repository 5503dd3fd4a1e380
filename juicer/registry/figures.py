"""The figures of a version, in one tag, and its description. Pure functions over tags.

Before, each figure was a tag of its own (`metric.NAME`); such versions are read as they are, and rewritten when
something about them changes.
"""

import json
from collections.abc import Mapping

from juicer.registry.card import METHODS

FIGURES = "metrics"
"""Tag of a version: a JSON object of metric name to value, of the newest evaluation on held-out prompts."""
FORMER = "metric."
"""What the tags of figures began with, one tag per figure."""
BENCHMARKED = "leaderboard_"
DESCRIBED = (
    ("reward_mean", "reward_sem"),
    ("win_rate_vs_sft", None),
    ("judge_mean", "judge_sem"),
    ("judge_win_rate", None),
    ("voted_win_rate", "voted_win_rate_sem"),
    ("judged_win_rate", "judged_win_rate_sem"),
    ("preference_accuracy", None),
    ("demonstration_nll", "demonstration_nll_sem"),
    ("demonstration_gap", None),
    ("leaderboard_average", None),
    ("prompts", None),
)
"""The figures of a description, as far as they were measured, and their standard errors."""


def figures_of(tags: Mapping[str, str]) -> dict[str, float]:
    """Metric name to value; {} for a version that was never evaluated."""
    if FIGURES in tags:
        return {name: float(value) for name, value in json.loads(tags[FIGURES]).items()}
    return {key.removeprefix(FORMER): float(value) for key, value in tags.items() if key.startswith(FORMER)}


def as_tag(figures: Mapping[str, float]) -> str:
    """The figures as the value of one tag, to six digits; MLflow's SQL stores take 5000 characters."""
    rounded = {name: float(f"{value:.6g}") for name, value in figures.items()}
    return json.dumps(rounded, sort_keys=True, separators=(",", ":"))


def measured_anew(
    tags: Mapping[str, str], figures: Mapping[str, float], evaluated_on: str | None, *, judged: bool = False
) -> dict[str, str]:
    """The tags of a version after an evaluation.

    What was measured on other prompts is dropped rather than mixed with the new figures. Benchmarks stay: they have
    questions of their own.

    Args:
        tags: the version's tags before.
        figures: what was measured.
        evaluated_on: md5 of what it was measured on; None keeps the one that is there.
        judged: whether the figures have all that judge and people say now, so that win rates which they lack are gone:
            votes that no longer count, or a judge that the recipe no longer has.
    """
    before = figures_of(tags)
    if judged:
        before = {name: value for name, value in before.items() if not _is_win_rate(name)}
    if evaluated_on is not None and tags.get("evaluated_on") not in (None, evaluated_on):
        before = {name: value for name, value in before.items() if name.startswith(BENCHMARKED)}
    changed = {FIGURES: as_tag({**before, **figures})}
    return changed if evaluated_on is None else {**changed, "evaluated_on": evaluated_on}


def _is_win_rate(name: str) -> bool:
    return name.removeprefix("validation_").startswith(("judged_win_rate", "voted_win_rate"))


def former(tags: Mapping[str, str]) -> list[str]:
    """The tags that FIGURES has replaced."""
    return sorted(key for key in tags if key.startswith(FORMER))


def describe(tags: Mapping[str, str]) -> str:
    """What a version is, in Markdown; its first line says most, because MLflow's list shows no more."""
    method, number = tags.get("method", ""), tags.get("round", "0")
    turn = f", round {number}" if number != "0" else ""
    of = f"{tags.get('model', '?')}: {METHODS.get(method, method)}{turn}."
    parent = f", trained from version {tags['parent']}" if "parent" in tags else ""
    figures = figures_of(tags)
    rows = [
        f"| {name} | {figures[name]:.4g}{f' ± {figures[error]:.2g}' if error and error in figures else ''} |"
        for name, error in DESCRIBED
        if name in figures
    ]
    above = "On held-out prompts, ± one standard error; all figures are in the tag `metrics`:"
    table = "\n".join([above, "", "| metric | value |", "|---|---|", *rows]) if rows else "Not evaluated yet."
    uncommitted = " with uncommitted changes" if tags.get("git_dirty") == "true" else ""
    commit = tags.get("git_commit", "unknown")
    code = f"commit `{commit}`{uncommitted}" if commit != "unknown" else "from outside git"
    return "\n\n".join(
        [
            of,
            f"Recipe `{tags.get('recipe', '?')}`, seed {tags.get('seed', '?')}{parent}.",
            table,
            f"Code: {code}. Weights: `{tags.get('dvc_path')}`, "
            f"md5 `{tags.get('dvc_md5')}` in DVC; `juicer restore` brings them back with their data and code.",
        ]
    )


def described_anew(description: str | None, before: Mapping[str, str], after: Mapping[str, str]) -> str | None:
    """The description that a version should get; None where it is right, or where it is a model card or a user's own.

    Args:
        description: the one that is there.
        before: the version's tags when it was written.
        after: the version's tags now.
    """
    text = describe(after)
    return text if text != description and (description or "") in ("", describe(before)) else None
