"""Figures as inline SVG: crisp at any size, coloured by the page's style sheet, and the same bytes every time.

Colours are CSS classes (irft, rft, sft, matched), so one figure serves light and dark mode; each mark has a <title> as
its tooltip and for screen readers. All text is escaped here, so that templates may insert the SVG as it is.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from juicer.evaluation.significance import half_width
from juicer.reporting.formatting import shown
from juicer.reporting.plots import Bins, RoundPoint

MANY = 1_000_000
"""Stands for a number of prompts that is not known."""
ROUNDING = 1e-6
"""Values are stored with six digits, and sums of single precision err in the seventh."""
FIGURE, PANEL = 16.0, 12.5
"""The largest font, in units of the view box, that the style sheet gives to a figure and to a small panel: on a phone,
where they are drawn at less than their own size. Ticks are placed so that they do not meet in it."""
ABOUT = 8
"""Ticks of a vertical axis, at most."""
WIDTH_OF_A_DIGIT = 0.64
"""In font sizes; of the widest of the usual system fonts."""


@dataclass(frozen=True)
class Frame:
    """The plotting area and its two linear scales."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    width: int = 480
    height: int = 320
    left: int = 56
    right: int = 14
    top: int = 14
    bottom: int = 56
    font: float = FIGURE
    """Size of the largest font that its text is drawn in."""

    @property
    def floor(self) -> int:
        """The y coordinate of the horizontal axis."""
        return self.height - self.bottom

    def x(self, value: float) -> float:
        share = (value - self.x_low) / (self.x_high - self.x_low)
        return self.left + share * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return self.height - self.bottom - share * (self.height - self.top - self.bottom)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) that lie in [low, high]."""
    span = high - low
    if span <= 0 or not math.isfinite(span):
        return [low]
    power = 10.0 ** math.floor(math.log10(span / about))
    step = next(factor * power for factor in (1, 2, 5, 10) if span / (factor * power) <= about)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def fitting(values: Sequence[float], frame: Frame) -> list[float]:
    """The ticks of a horizontal axis that can stand beside one another: every nth of `values`, the first among them."""

    def fit(chosen: Sequence[float]) -> bool:
        ends = [(frame.x(value), _text_width(number(value), frame.font) / 2) for value in chosen]
        gap = frame.font / 2
        return all(right - half - gap >= left + other for (left, other), (right, half) in pairwise(ends))

    return next((list(values[::step]) for step in range(1, len(values)) if fit(values[::step])), list(values[:1]))


def _text_width(text: str, font: float) -> float:
    return len(text) * WIDTH_OF_A_DIGIT * font


def left_margin(low: float, high: float, about: int, font: float, *, labelled: bool) -> int:
    """Room for the labels of a vertical axis, so that they meet neither its name nor the edge."""
    widest = max((_text_width(number(value), font) for value in ticks(low, high, about)), default=0.0)
    return math.ceil(widest + 8 + (1.5 * font if labelled else 0))


def only_rounding(values: Sequence[float]) -> bool:
    """Whether a curve shows nothing but rounding: its values move by no more than a millionth of the largest, or by no
    more than a millionth where all are smaller than 1.

    The quantities of training (losses, margins, rewards, shares, lengths) are of the order of 1 when they mean
    something. RLOO's loss, for example, is 0 by construction, so that its curve is the error of a sum.
    """
    if len(values) < 2:
        return False
    return max(values) - min(values) <= ROUNDING * max(1.0, *(abs(value) for value in values))


def number(value: float) -> str:
    """A tick's label, as short as possible, with a true minus sign."""
    if value and not 1e-3 <= abs(value) < 1e6:
        text = f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    else:
        text = f"{value:.6g}"
    return text.replace("-", "−")


def figure_over_rounds(
    points: Sequence[RoundPoint], y_label: str, digits: int, description: str, unit: str = ""
) -> tuple[str, str]:
    """Figure 2 of the paper: IRFT and RFT by round, SFT and its matched control as reference lines.

    Both methods start at SFT, which is their round 0. Bars and bands are 95% intervals over prompts.

    Args:
        points: the models; base is drawn only if its value is near the others', so that it does not compress the scale.

    Returns:
        The <svg> element, and a note about base (empty if it is drawn or absent).
    """
    drawn = [point for point in points if point.method != "base"]
    if not drawn:
        return "", ""
    ends = [point.value + sign * _half_interval(point) for point in drawn for sign in (-1, 1)]
    low, high = _padded(min(ends), max(ends))
    base = next((point for point in points if point.method == "base"), None)
    note = ""
    if base is not None:
        if low - 0.35 * (high - low) <= base.value <= high + 0.35 * (high - low):
            low, high = _padded(min([*ends, base.value]), max([*ends, base.value]))
        else:
            side = "below" if base.value < low else "above"
            note = f"base, at {shown(base.value, digits)}, lies {side} the scale"
            base = None
    last = max([1, *(point.round for point in drawn)])
    frame = Frame(-0.35, last + 0.35, low, high, left=left_margin(low, high, ABOUT, FIGURE, labelled=True))
    parts = [_y_axis(frame, y_label), _x_axis(frame, range(last + 1), "round (0 is the SFT policy)")]
    for name, css in (("sft", "sft"), ("sft-matched", "matched")):
        for point in drawn:
            if point.method == name:
                parts.append(_reference(frame, point, css, digits, unit))
    if base is not None:
        parts.append(
            f'<line class="line base" x1="{frame.left}" x2="{frame.width - frame.right}" '
            f'y1="{frame.y(base.value):.1f}" y2="{frame.y(base.value):.1f}">'
            f"<title>{_tooltip(base, digits, unit)}</title></line>"
        )
    start = next((point for point in drawn if point.method == "sft"), None)
    methods = [name for name in ("irft", "rft") if any(point.method == name for point in drawn)]
    for place, name in enumerate(methods):
        # Side by side, so that the error bars of a round do not overlap.
        shift = (place - (len(methods) - 1) / 2) * 7
        series = sorted((point for point in drawn if point.method == name), key=lambda point: point.round)
        parts.append(_series(frame, series, start, name, shift, digits, unit))
    return _svg(frame, parts, description), note


def _half_interval(point: RoundPoint) -> float:
    """Half of the 95% interval; 0 without a standard error."""
    return half_width(point.cases or MANY) * point.sem if point.sem else 0.0


def _reference(frame: Frame, point: RoundPoint, css: str, digits: int, unit: str) -> str:
    left, right, y = frame.left, frame.width - frame.right, frame.y(point.value)
    band = ""
    if point.sem:
        top, bottom = (frame.y(point.value + sign * _half_interval(point)) for sign in (1, -1))
        band = f'<rect class="band {css}" x="{left}" y="{top:.1f}" width="{right - left}" height="{bottom - top:.1f}"/>'
    line = f'<line class="line {css}" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return f"<g>{band}{line}<title>{_tooltip(point, digits, unit)}</title></g>"


def _series(
    frame: Frame, series: Sequence[RoundPoint], start: RoundPoint | None, css: str, shift: float, digits: int, unit: str
) -> str:
    places = [(frame.x(point.round) + shift, frame.y(point.value)) for point in series]
    parts = []
    if start is not None:
        x, y = frame.x(0), frame.y(start.value)
        parts.append(f'<path class="line start {css}" d="M{x:.1f} {y:.1f}L{places[0][0]:.1f} {places[0][1]:.1f}"/>')
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    parts.append(f'<path class="line {css}" d="M{path}"/>')
    for point, (x, y) in zip(series, places, strict=True):
        bar = ""
        if point.sem:
            top, bottom = (frame.y(point.value + sign * _half_interval(point)) for sign in (1, -1))
            bar = (
                f'<path class="error {css}" d="M{x:.1f} {top:.1f}V{bottom:.1f}'
                f'M{x - 3:.1f} {top:.1f}h6M{x - 3:.1f} {bottom:.1f}h6"/>'
            )
        parts.append(f"<g>{bar}{marker(css, x, y)}<title>{_tooltip(point, digits, unit)}</title></g>")
    return "".join(parts)


def marker(css: str, x: float, y: float) -> str:
    """IRFT's circle or RFT's square, so that the two can be distinguished without colour."""
    if css == "rft":
        return f'<rect class="mark rft" x="{x - 4.2:.1f}" y="{y - 4.2:.1f}" width="8.4" height="8.4"/>'
    return f'<circle class="mark {css}" cx="{x:.1f}" cy="{y:.1f}" r="4.6"/>'


def _tooltip(point: RoundPoint, digits: int, unit: str) -> str:
    error = f" ± {shown(_half_interval(point), digits)} (95%)" if point.sem else ""
    return html.escape(f"{point.name}: {shown(point.value, digits)}{error}{unit}")


def curve_panel(
    rounds: Sequence[tuple[str, Sequence[int], Sequence[float]]], css: str, description: str, most: int = 240
) -> str:
    """One quantity of one kind of stage, round after round: faint lines as logged, strong lines as a running mean.

    Args:
        rounds: (model, steps, values) in order.
        css: colour class.
        most: points drawn per panel; of more, every nth is drawn.
    """
    values = [value for _, _, each in rounds for value in each]
    if not values:
        return ""
    low, high = _padded(_quantile(values, 0.005), _quantile(values, 0.995))
    total = sum(max(steps, default=0) for _, steps, _ in rounds)
    left = left_margin(low, high, 4, PANEL, labelled=False)
    frame = Frame(0, max(total, 1), low, high, 300, 180, left, right=10, top=8, bottom=42, font=PANEL)
    parts = [_y_axis(frame, "", about=4), _x_axis(frame, ticks(0, max(total, 1), 4), "step")]
    offset = 0
    stride = max(1, math.ceil(len(values) / most))
    for place, (model, steps, each) in enumerate(rounds):
        if place:
            x = frame.x(offset)
            parts.append(f'<line class="boundary" x1="{x:.1f}" x2="{x:.1f}" y1="{frame.top}" y2="{frame.y(low):.1f}"/>')
        smooth = running_mean(each, max(1, len(each) // 12))
        lines = []
        for kind, series in (("raw", each), ("smooth", smooth)):
            if kind == "raw" and len(each) < 4:
                continue
            path = "L".join(
                f"{frame.x(offset + step):.1f} {min(max(frame.y(value), frame.top), frame.y(low)):.1f}"
                for step, value in list(zip(steps, series, strict=True))[::stride]
            )
            lines.append(f'<path class="line {kind} {css}" d="M{path}"/>')
        text = f"{model}: {number(float(f'{each[0]:.3g}'))} at first, {number(float(f'{smooth[-1]:.3g}'))} at last"
        parts.append(f"<g>{''.join(lines)}<title>{html.escape(text)}</title></g>")
        offset += max(steps, default=0)
    return _svg(frame, parts, description)


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """Mean over the last `width` values (fewer at the start)."""
    result, total = [], 0.0
    for place, value in enumerate(values):
        total += value - (values[place - width] if place >= width else 0.0)
        result.append(total / min(place + 1, width))
    return result


def histogram_figure(histogram: Bins, threshold: float, description: str) -> str:
    """Scores of all demonstrations (outline) and of the kept ones (filled), with the threshold."""
    edges = histogram.edges
    top = max([*histogram.all, *histogram.kept, 1]) * 1.15
    left = left_margin(0, top, ABOUT, FIGURE, labelled=True)
    frame = Frame(edges[0], edges[-1], 0, top, height=270, left=left)
    parts = [
        _y_axis(frame, "demonstrations"),
        _x_axis(frame, ticks(edges[0], edges[-1], 8), "score of the demonstration"),
    ]
    for css, each in (("all", histogram.all), ("kept", histogram.kept)):
        for place, count in enumerate(each):
            if count:
                start, end, y = frame.x(edges[place]), frame.x(edges[place + 1]), frame.y(count)
                width = max(end - start - 1, 0.5)
                text = f"{count:,} {css}, score {number(edges[place])} to {number(edges[place + 1])}"
                parts.append(
                    f'<rect class="bar {css}" x="{start + 0.5:.1f}" y="{y:.1f}" width="{width:.1f}" '
                    f'height="{frame.y(0) - y:.1f}"><title>{html.escape(text)}</title></rect>'
                )
    x = frame.x(threshold)
    # The label goes to the side with more room.
    anchor, shift = ("end", -6) if x > frame.width * 0.6 else ("start", 6)
    parts.append(
        f'<line class="threshold" x1="{x:.1f}" x2="{x:.1f}" y1="{frame.top}" y2="{frame.y(0):.1f}"/>'
        f'<text class="label" x="{x + shift:.1f}" y="{frame.top + 12}" text-anchor="{anchor}">'
        f"lowest kept: {number(float(f'{threshold:.3g}'))}</text>"
    )
    return _svg(frame, parts, description)


def _padded(low: float, high: float) -> tuple[float, float]:
    margin = (high - low) * 0.06 or max(abs(high), 1.0) * 0.05
    return low - margin, high + margin


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[round(share * (len(ordered) - 1))]


def _y_axis(frame: Frame, label: str, about: int = ABOUT) -> str:
    parts = []
    for value in ticks(frame.y_low, frame.y_high, about):
        y = frame.y(value)
        parts.append(
            f'<line class="grid" x1="{frame.left}" x2="{frame.width - frame.right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{frame.left - 6}" y="{y + 4:.1f}" text-anchor="end">{number(value)}</text>'
        )
    if label:
        middle = (frame.top + frame.height - frame.bottom) / 2
        parts.append(
            f'<text class="label" x="{frame.font:g}" y="{middle:.1f}" text-anchor="middle" '
            f'transform="rotate(-90 {frame.font:g} {middle:.1f})">{html.escape(label)}</text>'
        )
    return "".join(parts)


def _x_axis(frame: Frame, values: Sequence[float], label: str) -> str:
    y = frame.floor
    parts = [f'<line class="axis" x1="{frame.left}" x2="{frame.width - frame.right}" y1="{y}" y2="{y}"/>']
    for value in fitting(values, frame):
        x = frame.x(value)
        parts.append(
            f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + 4}"/>'
            f'<text class="tick" x="{x:.1f}" y="{y + 6 + frame.font:.1f}" text-anchor="middle">{number(value)}</text>'
        )
    middle = (frame.left + frame.width - frame.right) / 2
    parts.append(
        f'<text class="label" x="{middle:.1f}" y="{frame.height - 6}" text-anchor="middle">{html.escape(label)}</text>'
    )
    return "".join(parts)


def _svg(frame: Frame, parts: Sequence[str], description: str) -> str:
    # No width or height: the style sheet scales the view box to the column, on phones too.
    return (
        f'<svg viewBox="0 0 {frame.width} {frame.height}" role="img" aria-label="{html.escape(description)}">'
        f"{''.join(parts)}</svg>"
    )
