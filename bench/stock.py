"""What a round is compared with: the stock way of transformers and TRL, and the floor below which no trainer gets."""

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from transformers import PreTrainedModel, PrinterCallback
from trl import DPOConfig, DPOTrainer

from juicer.data.dialogues import Dialogue
from juicer.data.template import Template
from juicer.methods.pairs import Pair
from juicer.models.log_probability import Batch, response_log_probabilities
from juicer.settings.irft import IrftTrainingSettings

DEFAULTS: dict[str, Any] = {}
"""TRL's own: 8 pairs a step, bf16 autocast, activations recomputed, a live reference model in every step."""


def matched(settings: IrftTrainingSettings) -> dict[str, Any]:
    """The same trainer with our batch size, precision and memory policy: as many steps over as many pairs."""
    return {
        "per_device_train_batch_size": settings.batch_size,
        "bf16": False,
        "gradient_checkpointing": settings.gradient_checkpointing,
    }


def generate(
    policy: PreTrainedModel, template: Template, prompts: Sequence[list[int]], batch_size: int, seed: int
) -> list[list[int]]:
    """Sample by `generate`, prompts in the order of arrival; responses with their end-of-text, without what follows."""
    torch.manual_seed(seed)
    responses: list[list[int]] = []
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        length = max(map(len, batch))
        tokens = torch.full((len(batch), length), template.padding)
        attention = torch.zeros_like(tokens)
        for row, prompt in enumerate(batch):
            tokens[row, length - len(prompt) :] = torch.tensor(prompt)
            attention[row, length - len(prompt) :] = 1
        made = policy.generate(
            input_ids=tokens.to(policy.device),
            attention_mask=attention.to(policy.device),
            do_sample=True,
            top_k=0,
            top_p=1.0,
            temperature=1.0,
            max_new_tokens=template.settings.max_response_tokens,
            pad_token_id=template.padding,
        )
        for row in made[:, length:].tolist():
            end = next((place for place, token in enumerate(row, 1) if token in template.ends), len(row))
            responses.append(row[:end])
    return responses


class TokenDpo(DPOTrainer):
    """TRL's trainer on tokens that exist already: what tokenising again would cost is not counted against it."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset


def dpo_trainer(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    template: Template,
    pairs: Sequence[Pair],
    settings: IrftTrainingSettings,
    options: dict[str, Any],
) -> DPOTrainer:
    """A round of IRFT as TRL does it: DPO with the samples as rejected responses; `train()` takes the steps."""
    datasets.disable_progress_bars()
    rows = [
        {
            "prompt_ids": pair.sample.prompt,
            "chosen_ids": pair.demonstration.response,
            "rejected_ids": pair.sample.response,
        }
        for pair in pairs
    ]
    trainer = TokenDpo(
        model=policy,
        ref_model=reference,
        processing_class=template.tokenizer,
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

    def run(self, policy: PreTrainedModel) -> None:
        """One pass over the dialogues: the gradient of the sum of their log-probabilities."""
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
