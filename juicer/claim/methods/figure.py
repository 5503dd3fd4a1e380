"""The picture of a comparison of methods: each method's difference to the control, with its 95% interval."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from juicer.claim.figure import INCHES, STYLE, save, titled
from juicer.claim.measures import BY_KEY
from juicer.claim.methods.page import rows_of
from juicer.claim.methods.results import MethodComparison, Outcome
from juicer.claim.results import Compared, Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS: dict[Outcome, str] = {
    "better": "#15803d",
    "worse": "#c2410c",
    "not shown to differ": "#5f6368",
    "open": "#5f6368",
}
LINE, AROUND = 0.3, 1.1
"""Height of a method, and of what is around the methods of a panel, in inches."""


def draw(found: MethodComparison, stem: Path) -> list[Path]:
    """Write the picture as STEM.svg and STEM.png; returns the files, none where nothing can be drawn.

    One row per variant; the first primary metric, and beside it the oracle where there is one. The same results give
    the same bytes.
    """
    judged = {each.name for each in found.verdicts}
    models = {name: [each for each in rows_of(found, name) if each.name in judged] for name in found.seeds}
    metrics = [
        key
        for key in dict.fromkeys([*found.primary[:1], "oracle"])
        if any(each.figure(key) for those in models.values() for each in those)
    ]
    if not metrics:
        return []
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Canvas

    heights = [AROUND + LINE * len(those) for those in models.values()]
    with rc_context(STYLE):
        size = (INCHES if len(metrics) > 1 else INCHES / 1.5, sum(heights))
        canvas = Canvas(figsize=size, facecolor="white", layout="constrained")
        grid = canvas.subplots(
            len(models), len(metrics), squeeze=False, sharex="col", sharey="row", height_ratios=heights
        )
        for row, (variant, those) in zip(grid, models.items(), strict=True):
            for axes, metric in zip(row, metrics, strict=True):
                _panel(axes, found, those, metric)
                axes.set_title(titled(found, variant), loc="left", color="#202124")
        return save(canvas, stem)


def _panel(axes: "Axes", found: MethodComparison, models: Sequence[Compared], metric: str) -> None:
    axes.axvline(0, color="#15803d", linestyle=(0, (5, 2)), linewidth=1.4, zorder=1)
    for place, each in enumerate(models):
        figure = each.figure(metric)
        if figure is None or figure.difference is None:
            continue
        colour = COLOURS[_outcome(found, each, figure)]
        axes.errorbar(
            [figure.difference],
            [place],
            xerr=[figure.difference_half_width or 0.0],
            color=colour,
            marker="o",
            markersize=6,
            # Filled where it holds: the colour alone would not say it to everyone.
            markerfacecolor=colour if figure.holds else "white",
            linewidth=1.6,
            capsize=3,
            zorder=3,
        )
    axes.set_yticks(range(len(models)), [each.name for each in models])
    # The first method is at the top.
    axes.set_ylim(len(models) - 0.5, -0.5)
    axes.tick_params(labelbottom=True)
    axes.set_xlabel(f"{BY_KEY[metric].title}: difference to {found.reference}")
    axes.grid(axis="x", color="#e3e5e8", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _outcome(found: MethodComparison, compared: Compared, figure: Figure) -> Outcome:
    """The colour's meaning; a metric that was not declared is grey."""
    verdict = found.verdict(compared)
    return verdict.outcome if verdict is not None and verdict.metric == figure.metric else "not shown to differ"
