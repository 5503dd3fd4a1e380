"""The picture of a claim, like the paper's Figure 2: the preference gap and the score by round, over the seeds.

One row per variant, so that lines of several worlds do not cross each other. The background is white and opaque: the
picture reads the same on a dark page.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from juicer.claim.measures import BY_KEY
from juicer.claim.results import Claim, Found, Point
from juicer.runtime.files import temporary_beside

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawn

METHODS = {"irft": ("IRFT", "#1f6fb4", "o"), "rft": ("RFT", "#c2410c", "s")}
LINES = {"sft": ("SFT", "#5f6368", (0, (1, 1.6))), "sft-matched": ("sft-matched", "#15803d", (0, (5, 2)))}
SHIFT = 0.06
"""By which the methods stand beside each other, in rounds, so that their error bars do not overlap."""
LABELS = {"judge": "average score by judge", "score": "average score"}
ENDS = ("svg", "png")
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "font.family": "DejaVu Sans",
    "svg.hashsalt": "juicer",
    "axes.titlesize": 9.5,
}
INCHES, ROW = 8.4, 2.9
"""Width, and height of a row."""


def draw(claim: Claim, stem: Path) -> list[Path]:
    """Write the picture as STEM.svg and STEM.png; returns the files, none where nothing can be drawn.

    The same results give the same bytes.
    """
    metrics = [key for key in ("gap", "judge", "score") if any(each.metric == key for each in claim.points)]
    if not metrics:
        return []
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    variants = list(claim.seeds)
    with rc_context(STYLE):
        size = (INCHES if len(metrics) > 1 else INCHES / 1.8, ROW * len(variants) + 0.7)
        figure = Figure(figsize=size, facecolor="white", layout="constrained")
        grid = figure.subplots(len(variants), len(metrics), squeeze=False, sharey="col", sharex="row")
        for row, variant in zip(grid, variants, strict=True):
            for axes, metric in zip(row, metrics, strict=True):
                _panel(axes, [each for each in claim.points if (each.variant, each.metric) == (variant, metric)])
                axes.set_ylabel(LABELS.get(metric, BY_KEY[metric].title))
                # With a shared scale, only the outer panels would have numbers.
                axes.tick_params(labelleft=True, labelbottom=True)
                axes.set_title(titled(claim, variant), loc="left", color="#202124")
        handles = {
            label: handle for axes in grid.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(
            handles.values(),
            handles.keys(),
            loc="outside lower center",
            ncols=len(handles),
            frameon=False,
            handlelength=2.6,
        )
        return save(figure, stem)


def save(figure: "Drawn", stem: Path) -> list[Path]:
    """Write a picture as STEM.svg and STEM.png; returns the files. Within `rc_context(STYLE)`."""
    files = [stem.with_name(f"{stem.name}.{end}") for end in ENDS]
    for file in files:
        with temporary_beside(file) as temporary:
            made = temporary.with_name(f"{temporary.name}.{file.suffix[1:]}")
            figure.savefig(
                made, format=file.suffix[1:], dpi=160, metadata={"Date": None} if file.suffix == ".svg" else {}
            )
            made.replace(file)
    return files


def titled(claim: Found, variant: str) -> str:
    """A variant and the number of its seeds."""
    count = len(claim.seeds[variant])
    return f"{variant} ({count} seed{'s' if count != 1 else ''})"


def _panel(axes: "Axes", points: Sequence[Point]) -> None:
    start = next((each for each in points if each.method == "sft"), None)
    for method, (label, colour, dashes) in LINES.items():
        for point in (each for each in points if each.method == method):
            axes.axhline(point.mean, color=colour, linestyle=dashes, linewidth=1.6, label=label, zorder=1)
    present = [method for method in METHODS if any(each.method == method for each in points)]
    for place, method in enumerate(present):
        label, colour, marker = METHODS[method]
        shift = (place - (len(present) - 1) / 2) * 2 * SHIFT
        series = sorted((each for each in points if each.method == method), key=lambda each: each.round)
        if start is not None:
            axes.plot(
                [0, series[0].round + shift],
                [start.mean, series[0].mean],
                color=colour,
                linewidth=1,
                alpha=0.45,
                zorder=2,
            )
        axes.errorbar(
            [each.round + shift for each in series],
            [each.mean for each in series],
            yerr=[each.half_width or 0.0 for each in series],
            color=colour,
            marker=marker,
            markersize=5,
            linewidth=1.6,
            elinewidth=1.1,
            capsize=3,
            label=label,
            zorder=3,
        )
    last = max([1, *(each.round for each in points)])
    axes.set_xlim(-0.25, last + 0.35)
    every = math.ceil((last + 1) / 9)
    axes.set_xticks(range(0, last + 1, every))
    axes.set_xlabel("round (0: SFT)")
    axes.grid(axis="y", color="#e3e5e8", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
