"""The tables of docs/claim.md, from the figures of each seed in bench/results/claim.json.

They were measured before `juicer claim` existed, by the same pipeline. `juicer claim quickstart` measures anew.
    python -m bench.claim
"""

import argparse
import json
import math
from pathlib import Path

from bench import results_file
from juicer.claim.intervals import holm, over_units

Row = dict[str, float | None]
METRICS = ("oracle_mean", "preference_accuracy", "preference_accuracy_per_token", "reward_mean")
SETTINGS = ("imperfect", "clean")
"""Worlds with imperfect demonstrations (the quickstart's) and with 96% good ones."""


def differences(seeds: dict[str, dict[str, dict[str, float]]]) -> dict[str, dict[str, dict[str, Row]]]:
    """Setting, model and metric to the mean over worlds and the difference to the control, with its interval."""
    table: dict[str, dict[str, dict[str, Row]]] = {}
    for setting in SETTINGS:
        worlds = [world for name, world in seeds.items() if name.startswith(f"{setting}-")]
        for name in max(worlds, key=len, default={}):
            having = [world for world in worlds if name in world]
            for metric in METRICS:
                found = over_units([world[name][metric] - world["sft-matched"][metric] for world in having], "seeds")
                table.setdefault(setting, {}).setdefault(name, {})[metric] = {
                    "seeds": len(having),
                    "mean": sum(world[name][metric] for world in having) / len(having),
                    "difference": found.mean,
                    "half_width": found.half_width if math.isfinite(found.half_width) else None,
                    "p": float(f"{found.p:.3g}"),
                }
    # The control has no difference to itself; all others are tested together.
    others = [found for models in table.values() for name, found in models.items() if name != "sft-matched"]
    rows = [row for found in others for row in found.values()]
    for row, survives in zip(rows, holm([float(row["p"] or 0) for row in rows]), strict=True):
        row["survives"] = survives
    return table


def show(table: dict[str, dict[str, dict[str, Row]]]) -> None:
    """Print the tables of docs/claim.md."""
    for setting, models in table.items():
        print(f"\n{setting} demonstrations: held-out mean, difference to sft-matched and its 95% interval")
        print("* holds after Holm's correction for all intervals of all settings\n")
        print(f"| model | seeds | {' | '.join(METRICS)} |\n|---|---|{'---|' * len(METRICS)}")
        for name, metrics in models.items():
            cells = []
            for row in metrics.values():
                width = math.inf if row["half_width"] is None else row["half_width"]
                star = "*" if row.get("survives") else ""
                cells.append(f"{row['mean']:.3f} ({row['difference']:+.3f} ± {width:.3f}){star}")
            print(f"| {name} | {metrics[METRICS[0]]['seeds']} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.claim", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stored", type=Path, default=results_file.TRACKED / "claim.json", help="default %(default)s")
    show(differences(json.loads(parser.parse_args().stored.read_text(encoding="utf-8"))["seeds"]))


if __name__ == "__main__":
    main()
