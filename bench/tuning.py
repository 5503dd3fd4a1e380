"""Try settings of a method on validation prompts: it is trained in memory from the SFT that is there.

    juicer run quickstart seed=10 --until sft       # in a copy of the project, for every seed to tune on
    python -m bench.tuning irft irft.rounds=2 --try irft.training.beta=0.3 --try irft.training.beta=1
    python -m bench.tuning rft rft.rounds=3 --try rft.contrast=round --try rft.contrast=initial

Each setting is a run of Algorithm 1 or 2 with the active recipe (params.yaml), the words before --try, and its own. A
line of JSON is printed for each, and added to bench/out/tuning.jsonl.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from bench import results_file

PARAMS, SFT, DATA = Path("params.yaml"), Path("models/sft"), Path("data/curated")


def run(method: str, overrides: list[str]) -> dict[str, float | None]:
    """Train a method in memory and evaluate its last round on the validation prompts."""
    from juicer import scorers
    from juicer.data import demonstrations
    from juicer.evaluation.metrics import evaluate_policy
    from juicer.methods.algorithms import algorithm_1, algorithm_2
    from juicer.methods.reward import load_reward
    from juicer.models.loading import TRAINING_DTYPE, load_policy, load_template
    from juicer.quickstart.world import oracle
    from juicer.recipe.activation import load
    from juicer.runtime.seeding import derive

    recipe, graph = load(PARAMS, overrides)
    compute, seed = recipe.compute, recipe.seed
    template = load_template(SFT, recipe.template)
    if method == "rft" and recipe.rft.reward.model:
        raise SystemExit("rft.reward.model is set, but here the reward starts from the SFT policy")
    rows = list(demonstrations.read(DATA / "train.jsonl"))
    policy, sft = (load_policy(SFT, compute, TRAINING_DTYPE) for _ in range(2))
    started = time.monotonic()
    if method == "irft":
        used = sum(each.response_tokens for each in algorithm_2(policy, rows, template, recipe.irft, compute, seed))
    else:
        reward = load_reward(SFT, compute, derive(seed, "rft", "head"), TRAINING_DTYPE)
        with tempfile.TemporaryDirectory() as scratch:
            records = algorithm_1(policy, reward, SFT, rows, template, recipe.rft, compute, seed, Path(scratch))
        used = sum(each.response_tokens for pair in records for each in pair)
    validation = list(demonstrations.read(DATA / "validation.jsonl"))[: recipe.evaluation.prompts]
    scorer = scorers.load(recipe.scorer, Path(graph.scorer) if graph.scorer else None, compute)
    exact = oracle if recipe.world is not None else None
    purpose = derive(seed, "evaluation", "validation")
    sampling = recipe.evaluation.sampling
    found = evaluate_policy(policy.eval(), sft.eval(), scorer, exact, template, validation, sampling, purpose).metrics
    kept = found.rounded()
    return {
        "seed": seed,
        "score": kept.reward_mean,
        "score_error": kept.reward_sem,
        "oracle": kept.oracle_mean,
        "preference_accuracy": kept.preference_accuracy,
        "kl_to_sft": kept.kl_to_sft,
        "response_tokens": used,
        "seconds": round(time.monotonic() - started),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=("irft", "rft"))
    parser.add_argument("shared", nargs="*", metavar="key=value", help="changes of the active recipe for all settings")
    parser.add_argument("--try", dest="settings", nargs="+", action="append", required=True, metavar="key=value",
                        help="a setting: one or more changes")  # fmt: skip
    results_file.add_arguments(parser, "tuning.jsonl")
    given = parser.parse_args()
    for words in given.settings:
        values = run(given.method, [*given.shared, *words])
        line = json.dumps({"method": given.method, "shared": given.shared, "tried": words, **values})
        print(line, flush=True)
        before = given.out.read_text(encoding="utf-8") if given.out.is_file() else ""
        results_file.write(given.out, f"{before}{line}\n")


if __name__ == "__main__":
    main()
