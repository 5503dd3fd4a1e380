"""The results of bench/round.py as tables, for the terminal and docs/performance.md: no figure is typed by hand."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.results_file import ROOT, TRACKED

PAGE, RESULTS = ROOT / "docs/performance.md", TRACKED / "latest.json"
BEGIN, END = "<!-- tables of a round: python -m bench.round --tables -->", "<!-- end of the tables of a round -->"
NAMES = {
    "round_vs_stock": "round, against stock",
    "sampling_vs_stock": "sampling, against `generate`",
    "training_vs_stock": "training, against stock",
    "training_vs_floor": "training, against the floor",
}


@dataclass(frozen=True)
class Row:
    """One figure."""

    figure: str
    value: str
    goal: str = ""
    beside: str = ""
    missed: bool = False


def rows(results: Mapping[str, Any]) -> Iterator[Row]:
    """Every figure of the results, those of the sizes first."""
    for size, found in results.get("sizes", {}).items():
        yield from (_ratio(f"{size}: {name}", found[key]) for key, name in NAMES.items() if key in found)
        yield from _spin(size, found.get("spin", {}))
        yield from _arithmetic(size, found.get("arithmetic", {}))
        for part, value in found.get("bf16_vs_fp32", {}).items():
            yield Row(f"{size}: our {part} in bf16, against fp32", f"{value:.2f}x")
    if "memory_vs_stock" in results:
        row = results["memory_vs_stock"]
        peaks = ", ".join(f"{way} {mb:,.0f} MB" for way, mb in row["peak_mb"].items())
        yield Row("memory of a step, relative to stock", f"{row['ratio']:.0%}", "<= 60%", peaks, row["ratio"] > 0.6)
        peaks = ", ".join(f"{count} rows {mb:.0f} MB" for count, mb in results["memory_by_rows"]["peak_mb"].items())
        yield Row("memory by rows", "", "flat", peaks)
    for name, row in results.get("growth_exponents", {}).items():
        at = ", ".join(map(str, row["sizes"]))
        missed = row["exponent"] > row["goal"]
        yield Row(f"growth in {name}", f"{row['exponent']:.2f}", f"<= {row['goal']:g}", f"at {at}", missed)
    for name, row in results.get("startup", {}).items():
        yield Row(f"start-up: {name}", f"{row['cpu_seconds']:.2f} s", "", f"wall {row['wall_seconds']:g} s")


def _ratio(figure: str, row: Mapping[str, Any]) -> Row:
    suffix = "_cpu"
    others = {key.removesuffix(suffix): value for key, value in row.items() if key.endswith(suffix)}
    beside = ", ".join(f"{name} {value:.2f}" for name, value in others.items())
    goal = f">= {row['goal']:g}" if row.get("goal") else ""
    missed = bool(row.get("goal")) and row["ratio"] < row["goal"]
    return Row(figure, f"{row['ratio']:.2f}x", goal, beside, missed)


def _spin(size: str, found: Mapping[str, Any]) -> Iterator[Row]:
    for key, name in (("with_startup", "with start-up"), ("without_startup", "without start-up")):
        if key in found:
            yield _ratio(f"{size}: round, against SPIN's way, {name}", found[key])


def _arithmetic(size: str, found: Mapping[str, Any]) -> Iterator[Row]:
    for part in ("training", "sampling", "round"):
        if part in found:
            row = found[part]
            beside = f"{row['gflops']:g} of {found['limit_gflops']:g} GFLOP/s"
            if part in found["tokens_per_second"]:
                beside += f", {found['tokens_per_second'][part]:,.0f} tokens/s"
                beside += f", {found['share_of_round'][part]:.0%} of the round"
            name = f"{size}: {part}, share of the limit of matrix products"
            yield Row(name, f"{row['share_of_limit']:.0%}", "", beside)


def about(results: Mapping[str, Any]) -> Iterator[str]:
    """What each part was measured on: one line each."""
    for name, part in results.get("parts", {}).items():
        machine = part["machine"]
        bf16 = f", bf16 {machine['bf16']}" if "bf16" in machine else ""
        yield (
            f"{name}: {machine['processor']}, {machine['cores']} cores, {machine['threads']} thread{bf16}, "
            f"{machine['memory_gb']} GB, load {part['load_before']} before, {part['measured_at']}, "
            f"{part['seconds']:.0f} s"
        )


def shapes(results: Mapping[str, Any]) -> Iterator[str]:
    """What each size is: one line each."""
    for size, found in results.get("sizes", {}).items():
        if shape := found.get("shapes"):
            policy = f"{shape['policy']}; " if "policy" in shape else ""
            yield (
                f"{size}: {policy}{shape['prompts']} prompts of {shape['prompt_tokens']} tokens, demonstrations of "
                f"{shape['demonstration_tokens']}, samples of {shape['sample_tokens']}; {shape['epochs']:g} passes, "
                f"{shape['batch_size']} pairs a step"
            )


def terminal(results: Mapping[str, Any]) -> str:
    """One line per figure: what it is, its value, the goal, the other figures of its kind; then the machine."""
    found = list(rows(results))
    width = max((len(row.figure) for row in found), default=0)
    lines = [f"{'figure':{width}s} {'value':>9s} {'goal':>8s}   beside"]
    for row in found:
        mark = "!" if row.missed else " "
        lines.append(f"{row.figure.replace('`', ''):{width}s} {row.value:>9s} {row.goal:>8s} {mark} {row.beside}")
    if any(row.missed for row in found):
        lines.append("! misses its goal")
    return "\n".join([*lines, "", *shapes(results), "", *about(results)])


def markdown(results: Mapping[str, Any]) -> str:
    """The same as Markdown."""
    lines = ["| figure | value | goal | beside |", "|---|---|---|---|"]
    for row in rows(results):
        goal = f"{row.goal}, missed" if row.missed else row.goal
        cells = (row.figure, row.value, goal, row.beside)
        lines.append(f"| {' | '.join(cell.replace('<=', '≤').replace('>=', '≥') for cell in cells)} |")
    listed = [f"- {line}" for line in (*shapes(results), *about(results))]
    return "\n".join([*lines, "", *listed])


def write(page: Path = PAGE, results: Path = RESULTS) -> str:
    """Write the tables into the page. Returns what was done.

    Raises:
        ValueError: the page has no place for them.
    """
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no place for the tables: {BEGIN} and {END}")
    found = markdown(json.loads(results.read_text(encoding="utf-8")))
    page.write_text(f"{before}{BEGIN}\n\n{found}\n\n{END}{after}", encoding="utf-8")
    return f"{page.name}: the tables of a round"
