"""The processes of a round the SPIN way (arXiv 2401.01335, uclaml/SPIN), re-implemented from its description, and ours.

    python -m bench.spin_steps STEP WORK [--part N]        # bench/spin.py runs them

SPIN's round is three kinds of process that hand files on: `generate` loads the policy and writes samples of 800 prompts
a process by `generate`, 8 at a time in shuffled order, padded to a multiple of 8; `convert` gathers them into one
table; `train` loads the table and two models, a policy and a live reference, and trains on whole pairs, 8 a step,
padded to the longest, activations recomputed. Ours is two: `ours-generate` and `ours-train`. Files hold tokens, so
tokenising is not counted on either side, and both save the policy once, at the end (SPIN: after every epoch).

A step writes how much processor time its work took; the rest is start-up: imports and loading of models.
"""

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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
class Row:
    """A prompt and its demonstration, as tokens."""

    id: str
    prompt: list[int]
    real: list[int]
    wanted: int | None
    """The length that the sample is made to have; None where the policy ends it."""


@dataclass(frozen=True)
class Work:
    """What all steps are given; a file, so that no step imports what only another needs."""

    policy: str
    rows: list[Row]
    lengths: list[int] | None
    """Those that `wanted` are of."""
    ends: list[int]
    end_of_text: int
    padding: int
    limit: int
    """Most tokens of a response."""
    training: dict[str, Any]
    """Settings of IRFT."""
    way: Way

    @staticmethod
    def read(folder: Path) -> "Work":
        given = json.loads((folder / "work.json").read_text(encoding="utf-8"))
        rows = [Row(**row) for row in given.pop("rows")]
        return Work(rows=rows, way=Way(**given.pop("way")), **given)

    def write(self, folder: Path) -> None:
        (folder / "work.json").write_text(json.dumps(asdict(self)), encoding="utf-8")

    @property
    def template(self) -> Any:
        """What sampling asks of a template."""
        settings = SimpleNamespace(max_response_tokens=self.limit)
        return SimpleNamespace(
            settings=settings, ends=tuple(self.ends), end_of_text=self.end_of_text, padding=self.padding
        )


class Clock:
    """Processor seconds of a step's work."""

    def __init__(self) -> None:
        self.work = 0.0

    @contextmanager
    def working(self) -> Iterator[None]:
        begun = time.process_time()
        yield
        self.work += time.process_time() - begun


def generate(work: Work, folder: Path, clock: Clock, part: int) -> None:
    """The samples of one fraction of the shuffled prompts, as JSON lines."""
    import random

    from transformers import AutoModelForCausalLM

    from bench.generation import generate as sample

    model = AutoModelForCausalLM.from_pretrained(work.policy, trust_remote_code=False).eval()
    rows = list(work.rows)
    random.Random(SHUFFLE).shuffle(rows)
    rows = rows[part * FRACTION : (part + 1) * FRACTION]
    lengths = None if work.lengths is None else [row.wanted or 0 for row in rows]
    with clock.working():
        prompts = [row.prompt for row in rows]
        responses = sample(model, work.template, prompts, work.way.generated, part, lengths, MULTIPLE)
        with (folder / f"generated_{part}.jsonl").open("w", encoding="utf-8") as file:
            for row, response in zip(rows, responses, strict=True):
                file.write(json.dumps({"prompt": row.prompt, "real": row.real, "generated": response}) + "\n")


def convert(work: Work, folder: Path, clock: Clock, part: int) -> None:
    """All fractions as one JSON file, then as one table."""
    import datasets

    datasets.disable_progress_bars()
    with clock.working():
        files = sorted(folder.glob("generated_*.jsonl"))
        rows = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
        whole = folder / "synthetic.json"
        whole.write_text(json.dumps(rows, indent=4), encoding="utf-8")
        table = datasets.load_dataset("json", data_files=str(whole), split="train", cache_dir=str(folder / "cache"))
        table.to_parquet(folder / "pairs.parquet")


def train(work: Work, folder: Path, clock: Clock, part: int) -> None:
    """Two epochs of SPIN's loss by transformers' Trainer, with a live reference; then the policy is saved."""
    import datasets
    import torch
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    datasets.disable_progress_bars()
    policy, reference = (
        AutoModelForCausalLM.from_pretrained(work.policy, trust_remote_code=False).eval() for _ in range(2)
    )
    beta = work.training["beta"]

    def collate(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        """Real responses, then generated ones, all padded to the longest: (2 * rows, length)."""
        both = [(row["prompt"], row[column]) for column in ("real", "generated") for row in rows]
        length = max(len(prompt) + len(response) for prompt, response in both)
        tokens = torch.full((len(both), length), work.padding)
        attention, labels = torch.zeros_like(tokens), torch.full_like(tokens, IGNORED)
        for place, (prompt, response) in enumerate(both):
            end = len(prompt) + len(response)
            tokens[place, :end] = torch.tensor(prompt + response)
            attention[place, :end] = 1
            labels[place, len(prompt) : end] = tokens[place, len(prompt) : end]
        return {"input_ids": tokens, "attention_mask": attention, "labels": labels}

    class SpinTrainer(Trainer):
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            with torch.no_grad():
                before = spin_log_probabilities(reference, inputs)
            log_ratios = spin_log_probabilities(model, inputs) - before
            real, generated = log_ratios.chunk(2)
            loss = -torch.nn.functional.logsigmoid(beta * (real - generated)).mean()
            return (loss, {}) if return_outputs else loss

    arguments = TrainingArguments(
        output_dir=str(folder / "spin"),
        num_train_epochs=work.training["epochs"],
        per_device_train_batch_size=work.way.trained,
        gradient_checkpointing=work.way.recompute,
        bf16=False,
        optim="rmsprop",
        learning_rate=work.training["optimiser"]["learning_rate"],
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
            data_files=str(folder / "pairs.parquet"),
            split="train",
            cache_dir=str(folder / "cache"),
        )
        trainer = SpinTrainer(model=policy, args=arguments, train_dataset=table, data_collator=collate)
        trainer.train()
        trainer.save_model(str(folder / "spin"))


def spin_log_probabilities(model: Any, inputs: Any) -> Any:
    """log pi(response|prompt): (rows,), from the float32 logits of every position, as SPIN computes it."""
    logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False).logits
    labels = inputs["labels"][:, 1:]
    counted = labels != IGNORED
    chosen = logits[:, :-1].float().log_softmax(-1).gather(2, labels.where(counted, 0)[..., None])[..., 0]
    return (chosen * counted).sum(-1)


def ours_generate(work: Work, folder: Path, clock: Clock, part: int) -> None:
    """Samples of all prompts by our sampler, as JSON lines."""
    from bench.gpu_parts.common import lengths_forced
    from juicer.data.dialogues import write_samples
    from juicer.models.loading import load_policy
    from juicer.sampling.decoding import sample_responses
    from juicer.settings.compute import ComputeSettings
    from juicer.settings.training import SamplingSettings

    policy, template = load_policy(Path(work.policy), ComputeSettings(device="cpu", precision="fp32")), work.template
    settings = SamplingSettings(batch_size=work.way.generated)
    with clock.working(), lengths_forced(work.lengths, work.end_of_text) if work.lengths else nullcontext():
        samples = sample_responses(policy, template, [(row.id, row.prompt) for row in work.rows], settings, 0)
        write_samples(folder / "samples.jsonl", samples)


def ours_train(work: Work, folder: Path, clock: Clock, part: int) -> None:
    """A round's training, with the optimiser and the epochs of SPIN's; then the policy is saved."""
    from transformers import get_linear_schedule_with_warmup  # noqa: F401  imported at the first step, or here

    from juicer.data.dialogues import Dialogue, read_samples
    from juicer.methods.irft import irft_round
    from juicer.methods.pairs import Pair
    from juicer.models.loading import TRAINING_DTYPE, load_policy
    from juicer.settings.compute import ComputeSettings
    from juicer.settings.irft import IrftTrainingSettings

    policy = load_policy(Path(work.policy), ComputeSettings(device="cpu", precision="fp32"), TRAINING_DTYPE)
    optimiser = {**work.training["optimiser"], "name": "rmsprop"}
    changed = {"batch_size": work.way.trained, "gradient_checkpointing": work.way.recompute, "optimiser": optimiser}
    settings = IrftTrainingSettings.model_validate(work.training | changed)
    with clock.working():
        demonstrations = {row.id: row.real for row in work.rows}
        pairs = [
            Pair(
                Dialogue(each.prompt, demonstrations[each.id]),
                Dialogue(each.prompt, each.response),
                each.log_probability,
            )
            for each in read_samples(folder / "samples.jsonl")
        ]
        irft_round(policy, policy, pairs, settings, work.padding, 0)
        policy.save_pretrained(folder / "ours")


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
    clock = Clock()
    STEPS[given.step](Work.read(given.work), given.work, clock, given.part)
    (given.work / "spent.json").write_text(json.dumps({"work": clock.work}), encoding="utf-8")


if __name__ == "__main__":
    main()
