"""A plan, and its comparison with a finished run, as tables of plain lines."""

from juicer.planning.comparison import Compared
from juicer.planning.planner import StagePlan
from juicer.runtime.devices import GIB, Device


def format_plan(stages: list[StagePlan], device: Device, devices: int, utilisation: float | None = None) -> str:
    """The plan as a table of plain lines."""
    heads = [
        "stage",
        "model",
        "parameters",
        "trained",
        "steps",
        "micro",
        "tokens",
        "PFLOP",
        "GiB/device",
        "disk GB",
        "hours",
    ]
    lines = [heads]
    for stage in stages:
        hours = stage.hours(device, devices, utilisation)
        lines.append(
            [
                stage.name,
                stage.model,
                f"{stage.parameters / 1e6:,.1f}M",
                f"{stage.trained / 1e6:,.1f}M" if stage.trained else "-",
                f"{stage.steps:,}" if stage.steps else "-",
                f"{stage.pass_tokens:,}t" if stage.pass_tokens else f"{stage.micro:,}" if stage.micro else "-",
                f"{stage.tokens / 1e6:,.2f}M" if stage.tokens else "-",
                f"{stage.operations / 1e15:,.3f}" if stage.operations else "-",
                f"{stage.memory / GIB:.1f}" if stage.memory else "-",
                f"{stage.disk / 1e9:.2f}" if stage.disk else "-",
                f"{hours:.2f}" if hours else "-",
            ]
        )
    hours = sum(stage.hours(device, devices, utilisation) for stage in stages)
    total = [
        f"{sum(stage.steps for stage in stages):,}",
        "",
        f"{sum(stage.tokens for stage in stages) / 1e6:,.2f}M",
        f"{sum(stage.operations for stage in stages) / 1e15:,.3f}",
        f"{max(stage.memory for stage in stages) / GIB:.1f}",
        f"{sum(stage.disk for stage in stages) / 1e9:.2f}",
        f"{hours:.2f}" if hours else "-",
    ]
    lines.append(["total", "", "", "", *total])
    return _aligned(lines)


def format_comparison(compared: list[Compared]) -> str:
    """Planned and measured side by side."""
    lines = [["stage", "quantity", "planned", "measured", "ratio"]]
    for stage, quantity, planned, found in compared:
        ratio = f"{planned / found:.3f}" if found else "-"
        lines.append([stage, quantity, f"{planned:,.0f}", f"{found:,.0f}", ratio])
    return _aligned(lines)


def _aligned(lines: list[list[str]]) -> str:
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place > 1 else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
