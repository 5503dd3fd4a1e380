"""A round of IRFT at one size, against TRL's ways and the floor: sampling, then two passes over the pairs.

    python -m bench.speed --size 10M                       # some minutes
    python -m bench.speed --size 0.5M --prompts 100        # a quick look

All ways get the same policy, prompts and, for training, the same pairs. Ways in bf16 are measured where the processor
has instructions for it. Where it has none, they are measured at 0.5M only (`--emulated`: everywhere), and the results
say so: emulated, a matrix product is eight times slower than in float32.
"""

import gc
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from bench import arithmetic, sizes, stock
from bench.generation import generate
from bench.measure import Timings, fastest, ratio, total
from bench.part import bf16_support, size_main
from juicer.data.dialogues import Dialogue, Sample
from juicer.methods.irft import irft_round
from juicer.methods.pairs import Pair
from juicer.models.loading import mixed_precision
from juicer.settings.training import SamplingSettings
from juicer.training.record import TrainingRecord

ROWS = 128
SAMPLING = SamplingSettings(batch_size=ROWS)
PRECISIONS = ("fp32", "bf16")
WARM_UP = 4
"""Prompts of a first call of everything, which is slower: threads, kernels and memory are set up in it. Not where a
repeat takes minutes, which there are few of."""

Times = dict[str, Timings]


class Round:
    """The ways of one size, and what they have taken so far."""

    def __init__(self, subject: sizes.Subject, precisions: tuple[str, ...]) -> None:
        self.subject, self.settings, self.precisions = subject, subject.size.training, precisions
        self.policies = {precision: subject.policy(precision) for precision in precisions}
        self.trl = {
            name: options
            for name, options in stock.ways(self.settings).items()
            if name.rpartition("_")[2] in precisions
        }
        self.sampling: Times = {}
        self.training: Times = {}
        self.losses: dict[str, float] = {}
        self.records: dict[str, TrainingRecord] = {}
        self.samples: list[Sample] = []
        self.pairs: list[Pair] = []
        self.floor_tokens = 0

    def repeat(self, number: int) -> None:
        """Every way once, in turn, so that other work on the machine disturbs all alike."""
        for precision in self.precisions:
            samples = self._time(self.sampling, f"ours_{precision}", partial(self._sample, precision))
            if precision == "fp32":
                self.samples, self.pairs = samples, self.subject.pairs(samples)
            self._time(self.sampling, f"generate_{precision}", partial(self._generate, precision, number))
        for precision in self.precisions:
            policy = self.subject.policy(precision, training=True)
            record = self._time(self.training, f"ours_{precision}", partial(self._train, policy, precision))
            self.records[precision] = record
            self.losses[f"ours_{precision}"] = sum(record.curves["loss"]["value"]) / record.steps
        for name, options in self.trl.items():
            trainer = stock.dpo_trainer(
                self.subject.policy(training=True),
                self.subject.policy(training=True),
                self.subject.template.tokenizer,
                self.pairs,
                self.settings,
                options,
            )
            self.losses[name] = self._time(self.training, name, trainer.train).training_loss
            trainer.precomputing.added_to(self.training[name])
            # A trainer refers to itself: those of 135M would take more memory than a machine has.
            del trainer
            gc.collect()
        self._floor()

    def _time(self, times: Times, name: str, work: Callable[[], Any]) -> Any:
        return times.setdefault(name, Timings()).time(work)

    def _sample(self, precision: str) -> list[Sample]:
        return self.subject.sample(self.policies[precision], SAMPLING)

    def _generate(self, precision: str, seed: int) -> list[list[int]]:
        prompts = [prompt for _, prompt in self.subject.prompts]
        given = (self.policies[precision], self.subject.template, prompts, ROWS, seed)
        return generate(*given, lengths=self.subject.wanted)

    def _train(self, policy: Any, precision: str) -> TrainingRecord:
        with mixed_precision(sizes.compute(precision)):
            return irft_round(policy, policy, self.pairs, self.settings, self.subject.template.padding, 0)

    def _floor(self) -> None:
        dialogues = [each for pair in self.pairs for each in (pair.demonstration, pair.sample)]
        floor = stock.Floor.of(dialogues, self.subject.template.padding, torch.device("cpu"))
        policy, epochs = self.subject.policy(training=True), int(self.settings.epochs)
        self._time(self.training, "floor", partial(floor.run, policy, epochs))
        self.floor_tokens = epochs * floor.tokens

    def _baselines(self, times: Times) -> Times:
        return {name: each for name, each in times.items() if not name.startswith(("ours_", "floor"))}

    def results(self) -> dict[str, Any]:
        """The figures; our way is the faster of the precisions that were measured, and so is the stock way."""
        goal = self.subject.size.goal
        rounds = {name: total([self._sampled_for(name), each]) for name, each in self.training.items()}
        ours = {name: fastest(_ours(times)) for name, times in self._parts(rounds).items()}
        found: dict[str, Any] = {
            "round_vs_stock": ratio(rounds[ours["round"]], self._baselines(rounds), goal, stock.STOCK),
            "sampling_vs_stock": ratio(
                self.sampling[ours["sampling"]], self._baselines(self.sampling), None, self._baselines(self.sampling)
            ),
            "training_vs_stock": ratio(
                self.training[ours["training"]], self._baselines(self.training), None, stock.STOCK
            ),
        }
        for part, way in ours.items():
            found[f"{part}_vs_stock"]["ours"] = way
        found["training_vs_stock"]["mean_loss"] = {name: round(loss, 4) for name, loss in self.losses.items()}
        floor = {"floor": self.training["floor"]}
        found["training_vs_floor"] = ratio(self.training["ours_fp32"], floor, 0.8)
        if "bf16" in self.precisions:
            found["bf16_vs_fp32"] = {
                part: round(times["ours_fp32"].median("cpu") / times["ours_bf16"].median("cpu"), 3)
                for part, times in self._parts(rounds).items()
            }
        return found | {"arithmetic": self.arithmetic(), "shapes": self.shapes()}

    def _parts(self, rounds: Times) -> dict[str, Times]:
        return {"round": rounds, "sampling": self.sampling, "training": self.training}

    def _sampled_for(self, training: str) -> Timings:
        """The sampling of the round that a way of training belongs to: ours, or generate's faster precision."""
        if training.startswith("ours_"):
            return self.sampling[training]
        generated = self._baselines(self.sampling)
        return generated[fastest(generated)]

    def arithmetic(self) -> dict[str, Any]:
        """Where the time of our round in float32 goes, and how near the limit of matrix products it comes."""
        speed, policy, record = arithmetic.limit(), self.policies["fp32"], self.records["fp32"]
        sampling, training = (times["ours_fp32"].median("cpu") for times in (self.sampling, self.training))
        dialogues = [Dialogue(each.prompt, each.response) for each in self.samples]
        captured = bool(record.facts["captured"])
        needed = {
            "sampling": arithmetic.of_sampling(policy, dialogues),
            "training": arithmetic.of_training(policy, self.pairs, self.settings.epochs, captured),
        }
        seconds = {"sampling": sampling, "training": training}
        needed["round"], seconds["round"] = sum(needed.values()), sum(seconds.values())
        tokens = {"sampling": sum(len(each.response) for each in self.samples), "training": self.floor_tokens}
        return {
            "limit_gflops": round(speed / 1e9, 1),
            "limit_gflops_bf16": round(arithmetic.limit(torch.bfloat16) / 1e9, 1),
            "share_of_round": {name: round(each / seconds["round"], 3) for name, each in seconds.items()},
            "captured": captured,
            "tokens_per_second": {name: round(count / seconds[name], 1) for name, count in tokens.items()},
        } | {name: arithmetic.share(count, seconds[name], speed) for name, count in needed.items()}

    def shapes(self) -> dict[str, Any]:
        """What the figures are of."""
        count, size = len(self.pairs), self.subject.size
        lengths = {
            "prompt_tokens": [each.sample.prompt for each in self.pairs],
            "demonstration_tokens": [each.demonstration.response for each in self.pairs],
            "sample_tokens": [each.sample.response for each in self.pairs],
        }
        return {
            "policy": size.about,
            "parameters": sum(each.numel() for each in self.policies["fp32"].parameters()),
            "prompts": count,
            **{name: round(sum(map(len, each)) / count, 1) for name, each in lengths.items()},
            "epochs": self.settings.epochs,
            "batch_size": self.settings.batch_size,
            "sampling_batch_size": ROWS,
            "bf16": bf16_support(),
            "precisions": list(self.precisions),
        }


def _ours(times: Mapping[str, Timings]) -> Times:
    return {name: each for name, each in times.items() if name.startswith("ours_")}


def run(size: str, prompts: int | None, repeats: int | None, emulated: bool = False) -> dict[str, Any]:
    """Measure; returns the part's results."""
    subject = sizes.make(size, prompts)
    both = bf16_support() == "hardware" or emulated or subject.size.config is None
    precisions = PRECISIONS if both else PRECISIONS[:1]
    if subject.size.repeats > 1:
        Round(subject.first(WARM_UP), precisions).repeat(0)
    measured = Round(subject, precisions)
    for number in range(repeats or subject.size.repeats):
        measured.repeat(number)
    return measured.results()


if __name__ == "__main__":
    size_main(run, __doc__, more={"emulated": "ways in bf16 also where the processor only emulates it"})
