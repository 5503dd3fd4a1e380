"""A round of IRFT against the stock way and the floor, at the quickstart's shapes.

    python -m bench.speed --prompts 200     # a quick look

Sampling, then two passes over the pairs. All ways get the same policy, prompts and, for training, the same pairs.
"""

from typing import Any

import torch

from bench import inputs, stock
from bench.measure import Timings, ratio, total
from bench.part import main
from juicer.data.dialogues import Sample
from juicer.methods.irft import irft_round
from juicer.methods.pairs import make_pairs
from juicer.sampling.decoding import sample_responses
from juicer.settings.irft import IrftTrainingSettings
from juicer.settings.training import OptimiserSettings, SamplingSettings

TRAINING = IrftTrainingSettings(
    epochs=2, batch_size=32, beta=0.3, optimiser=OptimiserSettings(learning_rate=4e-4, warmup_ratio=0.1)
)
SAMPLING = SamplingSettings()


def run(prompts: int, repeats: int) -> dict[str, Any]:
    """Measure; returns the part's results."""
    given = inputs.make(prompts)
    template, policy = given.template, given.policy()
    named = given.prompts()
    # The first call of everything is slower: threads, kernels and memory are set up in it.
    _ours_sampled(policy, given, named[:64])
    stock.generate(policy, template, [prompt for _, prompt in named[:64]], 64, 0)
    times = {name: Timings() for name in ("sample", "stock_sample", "train", "stock_train", "matched_train", "floor")}
    losses: dict[str, float] = {}
    for repeat in range(repeats):
        samples = times["sample"].time(lambda: _ours_sampled(policy, given, named))
        times["stock_sample"].time(
            lambda repeat=repeat: stock.generate(
                policy, template, [prompt for _, prompt in named], SAMPLING.batch_size, repeat
            )
        )
        pairs = make_pairs(given.rows, samples, template)
        fresh = given.policy()
        record = times["train"].time(
            lambda fresh=fresh, pairs=pairs: irft_round(fresh, fresh, pairs, TRAINING, template.padding, 0)
        )
        losses["ours"] = sum(record.curves["loss"]["value"]) / record.steps
        for name, options in (
            ("stock_train", stock.DEFAULTS),
            ("matched_train", stock.matched(TRAINING)),
        ):
            trainer = stock.dpo_trainer(given.policy(), given.policy(), template, pairs, TRAINING, options)
            losses[name.removesuffix("_train")] = times[name].time(trainer.train).training_loss
        dialogues = [each for pair in pairs for each in (pair.demonstration, pair.sample)]
        floor = stock.Floor.of(dialogues, template.padding, torch.device("cpu"))
        fresh = given.policy()
        times["floor"].time(lambda floor=floor, fresh=fresh: [floor.run(fresh) for _ in range(int(TRAINING.epochs))])
    sampled = sum(len(sample.response) for sample in samples)
    tokens = int(TRAINING.epochs) * floor.tokens
    ours = total([times["sample"], times["train"]])
    stocks = {name: total([times["stock_sample"], times[f"{name}_train"]]) for name in ("stock", "matched")}
    floor_ratio = ratio(times["train"], {"floor": times["floor"]}, 0.8)
    return {
        "round_vs_stock": ratio(ours, stocks, 2.5),
        "sampling_vs_stock": ratio(times["sample"], {"stock": times["stock_sample"]}, 2.0)
        | {"response_tokens": sampled, "batch_size": SAMPLING.batch_size},
        "training_vs_stock": ratio(times["train"], {name: times[f"{name}_train"] for name in stocks}, 1.6)
        | {"mean_loss": {name: round(loss, 4) for name, loss in losses.items()}},
        "training_vs_floor": floor_ratio
        | {
            "useful_tokens": tokens,
            "tokens_per_second": {
                name: round(tokens / times[key].median("cpu")) for name, key in (("ours", "train"), ("floor", "floor"))
            },
        },
        "shapes": {
            "prompts": prompts,
            "prompt_tokens": round(sum(len(prompt) for _, prompt in named) / prompts, 1),
            "demonstration_tokens": round(sum(len(pair.demonstration.response) for pair in pairs) / prompts, 1),
            "sample_tokens": round(sampled / prompts, 1),
            "epochs": TRAINING.epochs,
            "batch_size": TRAINING.batch_size,
        },
    }


def _ours_sampled(policy: Any, given: inputs.Inputs, named: list[tuple[str, list[int]]]) -> list[Sample]:
    return sample_responses(policy, given.template, named, SAMPLING, seed=0)


if __name__ == "__main__":
    main(run, __doc__)
