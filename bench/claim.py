"""The paper's claim, tested over several seeds: does reward learning beat SFT with the same training budget?

Every seed is a separate world, with its own data, base model and scorer. Per seed the method's round and the
control's learning rate are chosen on validation by the scorer's mean reward; all differences are on held-out prompts.
    python bench/claim.py                    # 5 seeds, both settings: make claim
    python bench/claim.py --seeds 0 1 --settings imperfect --jobs 2
    python bench/claim.py --again            # the tables from the stored seeds, without a run
    python bench/claim.py --keep             # into the tracked bench/results/claim.json instead of bench/out/
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scipy.stats import t as student

from bench import results_file
from juicer.evaluation.results import EvaluatedModel
from juicer.reporting.contract import Summary

ROOT = Path(__file__).parents[1]
Row = dict[str, float | None]
METRICS = ("oracle_mean", "preference_accuracy", "preference_accuracy_per_token", "reward_mean")
RATES = "sft_matched.learning_rates=[4e-4, 8e-4, 1.6e-3]"
# A small and a large T at equal steps: the same passes over the same pairs, divided into 3 or 12 rounds.
VARIANTS = {
    "few": [RATES],
    "many": ["irft.rounds=12", "irft.training.epochs=0.25", "rft.rounds=0", "sft_matched.enabled=false"],
}
TARGETS = {"few": ["report"], "many": ["evaluate@irft-r12"]}
SETTINGS: dict[str, list[str]] = {
    "imperfect": [],
    # 96% of what is kept is good. A large T adds nothing to the question asked here.
    "clean": ["world.good_share=0.73", "world.label_noise=0"],
}


def run_seed(work: Path, setting: str, seed: int, variants: list[str]) -> None:
    """Run one world in its own folder, and add the held-out metrics of the chosen models to its results."""
    folder = work / f"{setting}-{seed}"
    if not (folder / "dvc.yaml").is_file():
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*IGNORED), dirs_exist_ok=True)
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    results = folder / "results.json"
    chosen: dict[str, dict[str, float]] = json.loads(results.read_text()) if results.is_file() else {}
    for variant in variants:
        if variant == "many" and setting == "clean":
            continue
        overrides = VARIANTS[variant]
        recipe = ["recipes/quickstart.yaml", f"seed={seed}", "compute.threads=1", *SETTINGS[setting], *overrides]
        log = folder / f"{variant}.log"
        with log.open("w") as output:
            for command in (
                [sys.executable, "-m", "juicer", "use", *recipe],
                [sys.executable, "-m", "dvc", "repro", *TARGETS[variant]],
            ):
                done = subprocess.run(
                    command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False
                )
                if done.returncode:
                    raise SystemExit(f"{setting}, seed {seed}: {' '.join(command)} failed; see {log}")
        if variant == "many":
            last = EvaluatedModel.read(folder / "evaluation/models/irft-r12.json")
            chosen["irft T=12, last round"] = held_out(last)
            continue
        # By name: the folder may hold evaluations of rounds that only T = 12 has.
        names = [row.name for row in Summary.read(folder / "metrics/summary.json").models]
        evaluations = [EvaluatedModel.read(folder / f"evaluation/models/{name}.json") for name in names]
        for method in ("base", "sft", "sft-matched", "irft", "rft"):
            rounds = [each for each in evaluations if each.method == method]
            best = max(rounds, key=validation_reward)
            last = max(rounds, key=lambda each: each.round)
            kept = {"rft": {"rft": best}, "irft": {"irft T=3": best, "irft T=3, last round": last}}.get(method)
            for name, each in (kept or {method: best}).items():
                chosen[name] = held_out(each)
    results.write_text(json.dumps(chosen, indent=1) + "\n")


IGNORED = (
    ".git",
    ".venv",
    ".juicer",
    "data",
    "models",
    "evaluation",
    "metrics",
    "report",
    "mlruns",
    "mlflow.db*",
    "cache",
    "tmp",
    "dvc.lock",
    ".*cache*",
    "__pycache__",
    "params.yaml",
)


def held_out(model: EvaluatedModel) -> dict[str, float]:
    """The held-out metrics of a model, and its round."""
    numbers = model.held_out.numbers()
    return {metric: numbers[metric] for metric in METRICS} | {"round": model.round}


def validation_reward(model: EvaluatedModel) -> float:
    """Mean reward on validation prompts, by which rounds are chosen."""
    assert model.validation is not None and model.validation.reward_mean is not None  # the quickstart has both
    return model.validation.reward_mean


def interval(differences: list[float]) -> tuple[float, float]:
    """Mean and half-width of the 95% Student interval of paired differences."""
    count = len(differences)
    mean = sum(differences) / count
    if count < 2:
        return mean, math.inf
    error = math.sqrt(sum((value - mean) ** 2 for value in differences) / (count - 1) / count)
    return mean, float(student.ppf(0.975, count - 1)) * error


def p_value(differences: list[float]) -> float:
    """The p-value of Student's test of a mean of 0; 1 below two differences."""
    mean, half_width = interval(differences)
    if not math.isfinite(half_width) or mean == 0:
        return 1.0
    degrees = len(differences) - 1
    error = half_width / float(student.ppf(0.975, degrees))
    return 2 * float(student.sf(abs(mean) / error, degrees)) if error else 0.0


def holm(values: Sequence[float], level: float = 0.05) -> list[bool]:
    """Which of many p-values are significant together, by Holm: the chance that one of them is not real is `level`."""
    found, refused = [False] * len(values), False
    for place, number in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        refused = refused or values[number] > level / (len(values) - place)
        found[number] = not refused
    return found


def differences(seeds: dict[str, dict[str, dict[str, float]]]) -> dict[str, dict[str, dict[str, Row]]]:
    """Setting, model and metric to the mean over worlds and the difference to the control, with its interval."""
    table: dict[str, dict[str, dict[str, Row]]] = {}
    for setting in SETTINGS:
        worlds = [world for name, world in seeds.items() if name.startswith(f"{setting}-")]
        for name in max(worlds, key=len, default={}):
            having = [world for world in worlds if name in world]
            for metric in METRICS:
                gaps = [world[name][metric] - world["sft-matched"][metric] for world in having]
                gap, width = interval(gaps)
                table.setdefault(setting, {}).setdefault(name, {})[metric] = {
                    "seeds": len(having),
                    "mean": sum(world[name][metric] for world in having) / len(having),
                    "difference": gap,
                    "half_width": width if math.isfinite(width) else None,
                    "p": float(f"{p_value(gaps):.3g}"),
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument(
        "--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), help="T = 3 and T = 12"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="parallel worlds, one thread each")
    parser.add_argument("--work", type=Path, default=ROOT / ".juicer/claim", help="working folder, also used to resume")
    results_file.add_arguments(parser, "claim.json")
    parser.add_argument(
        "--again", action="store_true", help="no runs: the tables anew, from the seeds of the last ones"
    )
    given = parser.parse_args()

    if given.again:
        stored = given.out if given.out.is_file() else results_file.TRACKED / "claim.json"
        seeds = json.loads(stored.read_text())["seeds"]
    else:
        given.work.mkdir(parents=True, exist_ok=True)
        jobs = [(setting, seed) for setting in given.settings for seed in given.seeds]
        with ThreadPoolExecutor(given.jobs) as pool:
            list(pool.map(lambda job: run_seed(given.work, *job, given.variants), jobs))
        # Everything that the folder holds counts, including earlier calls, so that an interrupted claim can be resumed.
        seeds = {path.parent.name: json.loads(path.read_text()) for path in sorted(given.work.glob("*/results.json"))}
    table = differences(seeds)
    show(table)
    results_file.write(given.out, json.dumps({"differences": table, "seeds": seeds}, indent=1) + "\n")
    print(f"\nwritten: {given.out}")


if __name__ == "__main__":
    main()
