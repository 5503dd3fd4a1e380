"""The paper's claim, tested over several seeds: does reward learning beat SFT with the same training budget?

Every seed is a separate world, with its own data, base model and scorer. Per seed the method's round and the
control's learning rate are chosen on validation by the scorer's mean reward; all differences are on held-out prompts.
    python bench/claim.py                    # 5 seeds, both settings: make claim
    python bench/claim.py --seeds 0 1 --settings imperfect --jobs 2
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scipy.stats import t as student

from juicer.evaluation.results import EvaluatedModel
from juicer.reporting.contract import Summary

ROOT = Path(__file__).parents[1]
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument(
        "--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), help="T = 3 and T = 12"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="parallel worlds, one thread each")
    parser.add_argument("--work", type=Path, default=ROOT / ".juicer/claim", help="working folder, also used to resume")
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results/claim.json")
    given = parser.parse_args()

    given.work.mkdir(parents=True, exist_ok=True)
    jobs = [(setting, seed) for setting in given.settings for seed in given.seeds]
    with ThreadPoolExecutor(given.jobs) as pool:
        list(pool.map(lambda job: run_seed(given.work, *job, given.variants), jobs))
    # Everything that the folder holds counts, including earlier calls, so that an interrupted claim can be resumed.
    seeds = {path.parent.name: json.loads(path.read_text()) for path in sorted(given.work.glob("*/results.json"))}
    table: dict[str, dict[str, dict[str, dict[str, float | None]]]] = {}
    for setting in SETTINGS:
        worlds = [world for name, world in seeds.items() if name.startswith(f"{setting}-")]
        if not worlds:
            continue
        print(f"\n{setting} demonstrations: held-out mean, and difference to sft-matched with its 95% interval")
        for name in max(worlds, key=len):
            having = [world for world in worlds if name in world]
            cells = []
            for metric in METRICS:
                mean = sum(world[name][metric] for world in having) / len(having)
                gap, width = interval([world[name][metric] - world["sft-matched"][metric] for world in having])
                row = table.setdefault(setting, {}).setdefault(name, {})
                row[metric] = {
                    "seeds": len(having),
                    "mean": mean,
                    "difference": gap,
                    "half_width": width if math.isfinite(width) else None,
                }
                cells.append(f"{metric} {mean:.3f} ({gap:+.3f} ± {width:.3f})")
            print(f"  {name:22s} n={len(having)}  {'  '.join(cells)}")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps({"differences": table, "seeds": seeds}, indent=1) + "\n")
    print(f"\nwritten: {given.out}")


if __name__ == "__main__":
    main()
