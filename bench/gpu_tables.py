"""The tables of docs/performance.md, from the stored results of bench/gpu.py. Nothing in them is typed by hand."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.gpu_parts import PARTS
from bench.gpu_store import MEASURED, RESULTS, Measurement, Results

PAGE = Path(__file__).resolve().parents[1] / "docs/performance.md"
BEGIN, END = "<!-- GPU tables: python bench/gpu.py --tables -->", "<!-- end of the GPU tables -->"
NOTHING = "No GPU has been measured yet: `bench/results/gpu/` is empty."
LABELS = {
    "ms_per_step": "ms a step",
    "pairs_per_step": "pairs a step",
    "tokens_per_step": "tokens a step",
    "tokens_per_second": "tokens/s",
    "response_tokens_per_second": "response tokens/s",
    "rows_per_second": "rows/s",
    "mfu": "MFU",
    "peak_gib": "peak GiB",
    "reserved_gib": "reserved GiB",
    "planned_gib": "planned GiB",
    "planned_at_these_lengths_gib": "planned GiB, these lengths",
    "tflops": "TFLOP/s",
    "tb_per_second": "TB/s",
    "live_share": "live rows",
    "busy_share": "device busy",
    "same_bytes_twice": "same bytes twice",
    "same_bytes_twice_deterministic": "same bytes twice, deterministic",
    "peak_device_memory_mb": "peak device MB",
}
SHARES = {"mfu", "live_share", "busy_share"}


def write(page: Path = PAGE, folder: Path = RESULTS) -> str:
    """Write the tables into the page. Returns what was done.

    Raises:
        ValueError: the page has no place for them, or a file holds no results.
    """
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no place for the tables: {BEGIN} and {END}")
    cards = [Results.read(path) for path in sorted(folder.glob("*.json"))]
    page.write_text(f"{before}{BEGIN}\n\n{render(cards)}\n\n{END}{after}", encoding="utf-8")
    return f"{page.name}: tables of {len(cards)} cards"


def render(cards: Sequence[Results]) -> str:
    """The tables of all cards, as Markdown."""
    return "\n\n".join(_card(results) for results in cards) if cards else NOTHING


def _card(results: Results) -> str:
    numbers = {key: number for number, key in enumerate(results.environments, 1)}
    lines = [f"### {_plain(results.card)}", ""]
    for key, number in numbers.items():
        lines.append(f"{number}. {_plain(_environment(results.environments[key]))}")
    for part in PARTS:
        rows = [each for each in results.measurements.values() if each.part == part]
        if rows:
            lines += ["", f"**{PARTS[part].title}**", "", *_table(rows, numbers)]
    return "\n".join(lines)


def _environment(found: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {value}" for name, value in found["versions"].items() if value)
    commit = f"commit {found['commit'][:12]}" if found["commit"] else "no commit"
    changed = " with changes" if found["clean"] is False else ""
    return (
        f"Driver {found['driver']}, CUDA {found['cuda']}, Python {found['python']}, {versions}; {commit}{changed}, "
        f"code {found['code'][:12]}: {found['command']}"
    )


def _table(rows: Sequence[Measurement], numbers: Mapping[str, int]) -> list[str]:
    flat = [_flat(each.values) for each in rows]
    columns = list(dict.fromkeys(name for values in flat for name in values))
    broken = any(each.state != MEASURED for each in rows)
    labels = [LABELS.get(name, name.replace("_", " ")) for name in columns]
    heads = ["what", *labels, *(["why there is none"] if broken else []), "when, where"]
    lines = [_row(heads), _row(["---"] * len(heads))]
    for each, values in zip(rows, flat, strict=True):
        why = [] if not broken else [""] if each.state == MEASURED else [f"{each.state}: {each.error}"]
        shown = [_shown(name, values.get(name)) for name in columns]
        lines.append(_row([each.name, *shown, *why, f"{each.date}, {numbers[each.environment]}"]))
    return lines


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(_plain(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def _plain(text: str) -> str:
    return html.escape(text, quote=False).replace("\n", " ").replace("`", "'")


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested names joined by a blank; a list of kernels as its first three."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{before}{name} ")
        elif isinstance(value, list):
            flat[before + name] = "; ".join(f"{each['name'][:40]} {each['share']:.0%}" for each in value[:3])
        else:
            flat[before + name] = value
    return flat


def _shown(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1%}" if name in SHARES else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
