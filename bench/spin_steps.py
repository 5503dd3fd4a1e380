"""The processes of a round the SPIN way (arXiv 2401.01335, uclaml/SPIN), re-implemented from its description, and ours.

    python -m bench.spin_steps STEP WORK [--part N]        # bench/spin.py runs them

SPIN's round is three kinds of process that hand files on: `generate` loads the policy and writes samples of 800
prompts a process by `generate`, 8 at a time in shuffled order, padded to a multiple of 8; `convert` gathers them into one
table; `train` loads the table and two models, a policy and a live reference, and trains on whole pairs, 8 a step, padded
to the longest, activations recomputed. Ours is two: `ours-generate` and `ours-train`. Files hold tokens, so tokenising
is not counted on either side, and both save the policy once, at the end (SPIN: after every epoch).

A step writes what it spent on start-up, which is imports and loading of models, and on its work.
"""

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.sizes import Subject

FRACTION = 800
"""Prompts per process that generates."""
SHUFFLE = 42
MULTIPLE = 8
IGNORED = -100
"""Label of tokens that are not the response's."""


@dataclass(frozen=True)
class Way:
    """How much is done at a time."""

    generated: int
    trained: int
    recompute: bool


@dataclass(frozen=True)
class Work:
    """A round's folder, in which the steps hand files on."""

    folder: Path
    size: str
    prompts: int
    threads: int
    way: Way

    @staticmethod
    def read(folder: Path) -> "Work":
        given = json.loads((folder / "work.json").read_text(encoding="utf-8"))
        return Work(folder, given["size"], given["prompts"], given["threads"], Way(**given["way"]))

    def write(self) -> None:
        given = {"size": self.size, "prompts": self.prompts, "threads": self.threads, "way": vars(self.way)}
        (self.folder / "work.json").write_text(json.dumps(given), encoding="utf-8")

    def subject(self) -> "Subject":
        """What all ways are given; made before, so this only reads it."""
        from bench import sizes

        return sizes.make(self.size, self.prompts)


class Clock:
    """Processor seconds of a step: of the whole process until its work begins, and of its work."""

    def __init__(self) -> None:
        self.work = 0.0

    @contextmanager
    def working(self) -> Iterator[None]:
        begun = time.process_time()
        yield
        self.work += time.process_time() - begun


def generate(work: Work, clock: Clock, part: int) -> None:
    """The samples of one fraction of the shuffled prompts, as JSON lines."""
    import random

    from transformers import AutoModelForCausalLM

    from bench.generation import generate as sample

    subject = work.subject()
    model = AutoModelForCausalLM.from_pretrained(subject.folder, trust_remote_code=False).eval()
    wanted = subject.wanted or [0] * len(subject.prompts)
    rows = list(zip(subject.prompts, wanted, strict=True))
    random.Random(SHUFFLE).shuffle(rows)
    rows = rows[part * FRACTION : (part + 1) * FRACTION]
    with clock.working():
        prompts, lengths = [prompt for (_, prompt), _ in rows], [length for _, length in rows]
        responses = sample(
            model, subject.template, prompts, work.way.generated, part, lengths if subject.wanted else None, MULTIPLE
        )
        with (work.folder / f"generated_{part}.jsonl").open("w", encoding="utf-8") as file:
            for ((name, prompt), _), response in zip(rows, responses, strict=True):
                row = {"prompt": prompt, "real": subject.demonstrations[name], "generated": response}
                file.write(json.dumps(row) + "\n")


def convert(work: Work, clock: Clock, part: int) -> None:
    """All fractions as one JSON file, then as one table."""
    import datasets

    datasets.disable_progress_bars()
    with clock.working():
        files = sorted(work.folder.glob("generated_*.jsonl"))
        rows = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
        whole = work.folder / "synthetic.json"
        whole.write_text(json.dumps(rows, indent=4), encoding="utf-8")
        table = datasets.load_dataset(
            "json", data_files=str(whole), split="train", cache_dir=str(work.folder / "cache")
        )
        table.to_parquet(work.folder / "pairs.parquet")


def train(work: Work, clock: Clock, part: int) -> None:
    """Two epochs of SPIN's loss by transformers' Trainer, with a live reference; then the policy is saved."""
    import datasets
    import torch
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    datasets.disable_progress_bars()
    subject, settings = work.subject(), work.subject().size.training
    policy, reference = (
        AutoModelForCausalLM.from_pretrained(subject.folder, trust_remote_code=False).eval() for _ in range(2)
    )

    def collate(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        """Real responses, then generated ones, all padded to the longest: (2 * rows, length)."""
        both = [(row["prompt"], row[column]) for column in ("real", "generated") for row in rows]
        length = max(len(prompt) + len(response) for prompt, response in both)
        tokens = torch.full((len(both), length), subject.template.padding)
        attention, labels = torch.zeros_like(tokens), torch.full_like(tokens, IGNORED)
        for place, (prompt, response) in enumerate(both):
            end = len(prompt) + len(response)
            tokens[place, :end] = torch.tensor(prompt + response)
            attention[place, :end] = 1
            labels[place, len(prompt) : end] = tokens[place, len(prompt) : end]
        return {"input_ids": tokens, "attention_mask": attention, "labels": labels}

    class SpinTrainer(Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
            with torch.no_grad():
                before = spin_log_probabilities(reference, inputs)
            log_ratios = spin_log_probabilities(model, inputs) - before
            real, generated = log_ratios.chunk(2)
            loss = -torch.nn.functional.logsigmoid(settings.beta * (real - generated)).mean()
            return (loss, {}) if return_outputs else loss

    arguments = TrainingArguments(
        output_dir=str(work.folder / "spin"),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=work.way.trained,
        gradient_checkpointing=work.way.recompute,
        optim="rmsprop",
        learning_rate=settings.optimiser.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=0.1,
        logging_steps=10,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    with clock.working():
        table = datasets.load_dataset(
            "parquet",
            data_files=str(work.folder / "pairs.parquet"),
            split="train",
            cache_dir=str(work.folder / "cache"),
        )
        trainer = SpinTrainer(model=policy, args=arguments, train_dataset=table, data_collator=collate)
        trainer.train()
        trainer.save_model(str(work.folder / "spin"))


def spin_log_probabilities(model: Any, inputs: Any) -> Any:
    """log pi(response|prompt): (rows,), from the float32 logits of every position, as SPIN computes it."""
    logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False).logits
    labels = inputs["labels"][:, 1:]
    counted = labels != IGNORED
    chosen = logits[:, :-1].float().log_softmax(-1).gather(2, labels.where(counted, 0)[..., None])[..., 0]
    return (chosen * counted).sum(-1)


def ours_generate(work: Work, clock: Clock, part: int) -> None:
    """Samples of all prompts by our sampler, as JSON lines."""
    import juicer.sampling.decoding  # noqa: F401  an import is start-up
    from juicer.data.dialogues import write_samples
    from juicer.settings.training import SamplingSettings

    subject = work.subject()
    policy = subject.policy()
    with clock.working():
        samples = subject.sample(policy, SamplingSettings(batch_size=work.way.generated))
        write_samples(work.folder / "samples.jsonl", samples)


def ours_train(work: Work, clock: Clock, part: int) -> None:
    """A round's training, with the optimiser and the epochs of SPIN's; then the policy is saved."""
    from juicer.data.dialogues import read_samples
    from juicer.methods.irft import irft_round

    subject = work.subject()
    policy, given = subject.policy(training=True), subject.size.training
    settings = given.model_copy(
        update={
            "batch_size": work.way.trained,
            "gradient_checkpointing": work.way.recompute,
            "optimiser": given.optimiser.model_copy(update={"name": "rmsprop"}),
        }
    )
    with clock.working():
        pairs = subject.pairs(read_samples(work.folder / "samples.jsonl"))
        irft_round(policy, policy, pairs, settings, subject.template.padding, 0)
        policy.save_pretrained(work.folder / "ours")


STEPS = {
    "generate": generate,
    "convert": convert,
    "train": train,
    "ours-generate": ours_generate,
    "ours-train": ours_train,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("work", type=Path)
    parser.add_argument("--part", type=int, default=0, help="of the prompts, from 0")
    given = parser.parse_args()
    from bench.part import quiet

    quiet()
    work, clock = Work.read(given.work), Clock()
    STEPS[given.step](work, clock, given.part)
    (given.work / "spent.json").write_text(json.dumps({"work": clock.work}), encoding="utf-8")


if __name__ == "__main__":
    main()
