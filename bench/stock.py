"""What a round is compared with: DPO by TRL in its several ways, and the floor below which no trainer gets."""

import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from transformers import PreTrainedModel, PrinterCallback
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from bench.measure import Timings
from juicer.data.dialogues import Dialogue
from juicer.methods.pairs import Pair
from juicer.models.log_probability import Batch, response_log_probabilities
from juicer.settings.irft import IrftTrainingSettings

DEFAULTS: dict[str, Any] = {}
"""TRL's own: 8 pairs a step, bf16 autocast, activations recomputed, a live reference model in every step."""
FP32: dict[str, Any] = {"bf16": False}
PRECOMPUTED: dict[str, Any] = {"precompute_ref_log_probs": True}
"""The reference's log-probabilities once, before the first step."""


def matched(settings: IrftTrainingSettings) -> dict[str, Any]:
    """Our batch size, precision and memory policy: as many steps over as many pairs."""
    return {
        **FP32,
        "per_device_train_batch_size": settings.batch_size,
        "gradient_checkpointing": settings.gradient_checkpointing,
    }


def ways(settings: IrftTrainingSettings) -> dict[str, dict[str, Any]]:
    """The options of every way of TRL that is measured, by name; those in bf16 have it in theirs."""
    return {
        "stock_bf16": DEFAULTS,
        "stock_fp32": FP32,
        "precomputed_bf16": PRECOMPUTED,
        "precomputed_fp32": FP32 | PRECOMPUTED,
        "matched_fp32": matched(settings),
        "matched_precomputed_fp32": matched(settings) | PRECOMPUTED,
        "matched_precomputed_bf16": matched(settings) | PRECOMPUTED | {"bf16": True},
    }


STOCK = ("stock_bf16", "stock_fp32")
"""TRL's own settings at either precision; the goals are against the faster."""


@dataclass
class Precomputing:
    """Seconds that a trainer spent on the reference's log-probabilities when it was made, before `train()`."""

    wall: float = 0.0
    cpu: float = 0.0

    def added_to(self, times: Timings) -> None:
        """Count them to the last repeat."""
        times.wall[-1] = round(times.wall[-1] + self.wall, 4)
        times.cpu[-1] = round(times.cpu[-1] + self.cpu, 4)


class TokenDpo(DPOTrainer):
    """TRL's trainer on tokens that exist already: what tokenising again would cost is not counted against it."""

    def __init__(self, *given: Any, **more: Any) -> None:
        self.precomputing = Precomputing()
        super().__init__(*given, **more)

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, *given: Any) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        dataset = super()._precompute_ref_logps(*given)
        self.precomputing = Precomputing(time.perf_counter() - wall, time.process_time() - cpu)
        return dataset


def dpo_trainer(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    tokenizer: Any,
    pairs: Sequence[Pair],
    settings: IrftTrainingSettings,
    options: dict[str, Any],
) -> TokenDpo:
    """A round of IRFT as TRL does it: DPO with the samples as rejected responses; `train()` takes the steps.

    Args:
        tokenizer: any with a padding token.
        options: of `DPOConfig`; see `ways`.
    """
    datasets.disable_progress_bars()
    rows = [
        {
            "prompt_ids": pair.sample.prompt,
            "chosen_ids": pair.demonstration.response,
            "rejected_ids": pair.sample.response,
        }
        for pair in pairs
    ]
    # In memory, a table has no cache file, in which TRL would find an earlier repeat's reference log-probabilities.
    trainer = TokenDpo(
        model=policy,
        ref_model=reference,
        processing_class=tokenizer,
        train_dataset=datasets.Dataset.from_list(rows),
        args=DPOConfig(
            output_dir=tempfile.gettempdir(),
            num_train_epochs=settings.epochs,
            beta=settings.beta,
            learning_rate=settings.optimiser.learning_rate,
            use_cpu=policy.device.type == "cpu",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=policy.device.type != "cpu",
            **options,
        ),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


@dataclass(frozen=True)
class Floor:
    """Forward and backward passes over useful tokens only: batches of equal lengths, one model, nothing else."""

    batches: list[Batch]
    tokens: int
    """Useful tokens: prompts and responses of all dialogues."""

    @staticmethod
    def of(dialogues: Sequence[Dialogue], padding: int, device: torch.device, batch_size: int = 32) -> "Floor":
        """Batches of at most `batch_size` dialogues of equal lengths."""
        batches = [Batch.of(batch, padding, device) for batch in _equally_long(dialogues, batch_size)]
        return Floor(batches, sum(map(len, dialogues)))

    def run(self, policy: PreTrainedModel, times: int = 1) -> None:
        """Passes over the dialogues: the gradient of the sum of their log-probabilities."""
        for _ in range(times):
            policy.zero_grad()
            for batch in self.batches:
                response_log_probabilities(policy, batch).sum().backward()


def _equally_long(dialogues: Sequence[Dialogue], batch_size: int) -> Iterator[list[Dialogue]]:
    groups: dict[int, list[Dialogue]] = defaultdict(list)
    for dialogue in dialogues:
        groups[len(dialogue)].append(dialogue)
    for group in groups.values():
        for start in range(0, len(group), batch_size):
            yield group[start : start + batch_size]
