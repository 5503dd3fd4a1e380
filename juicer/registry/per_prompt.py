"""What was measured on each held-out prompt, kept with an evaluation's run: gates pair two models over the prompts."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from juicer.evaluation.documents import Document
from juicer.evaluation.likelihood import per_token_values
from juicer.evaluation.results import EvaluatedModel

FILE = "per_prompt.json"
"""Name of the artifact."""


class PerPromptFigures(Document):
    """per_prompt.json."""

    id: list[str]
    """Of each held-out prompt and its demonstration, in order."""
    figures: dict[str, list[float | None]]
    """By metric, a value per prompt; the metric is their mean. None where a prompt has none."""

    def of(self, metric: str, value: float) -> Sequence[float | None] | None:
        """The values of a metric; None if there are none, or their mean is not the stored value: then they are those of
        another evaluation."""
        known = [each for each in self.figures.get(metric, ()) if each is not None]
        return self.figures[metric] if known and math.isclose(fmean(known), value, rel_tol=1e-3, abs_tol=1e-4) else None


def per_prompt_of(model: EvaluatedModel) -> PerPromptFigures | None:
    """The figures of an evaluation; None for one of before, which has no ids."""
    rows = model.held_out_rows
    if rows is None or not rows.id:
        return None
    found: dict[str, Sequence[float | None]] = {
        "reward_mean": model.held_out_scores,
        "judge_mean": model.held_out_judged,
        "preference_gap": rows.gap,
        "demonstration_nll": model.held_out_nll,
    }
    if model.held_out_nll:
        found["demonstration_nll_per_token"] = per_token_values(model.held_out_nll, rows.demonstration_tokens)
    figures = {name: _rounded(values) for name, values in found.items() if any(each is not None for each in values)}
    return PerPromptFigures(id=rows.id, figures=figures)


def paired(
    mine: PerPromptFigures | None,
    theirs: PerPromptFigures | None,
    metric: str,
    figures: tuple[Mapping[str, float], Mapping[str, float]],
) -> list[float] | None:
    """The differences on each prompt that both have a value for; None where the two cannot be paired.

    Args:
        figures: the stored metrics of both, which have the metric.
    """
    if mine is None or theirs is None or mine.id != theirs.id:
        return None
    values, others = mine.of(metric, figures[0][metric]), theirs.of(metric, figures[1][metric])
    if values is None or others is None or len(values) != len(others):
        return None
    both = zip(values, others, strict=True)
    return [value - other for value, other in both if value is not None and other is not None] or None


def _rounded(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else float(f"{value:.6g}") for value in values]
