"""Training gives what TRL's own trainers give on the same rows, order, optimiser and seed."""

import copy

import datasets
import pytest
import torch
from transformers import PrinterCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from juicer.data.dialogues import Dialogue
from juicer.methods.irft import irft_round
from juicer.methods.pairs import Pair
from juicer.methods.sft import train_sft
from juicer.settings.compute import ComputeSettings
from juicer.settings.irft import IrftTrainingSettings
from juicer.settings.sft import SftSettings
from juicer.settings.training import OptimiserSettings
from juicer.training.loop import shuffled_batches

COMPUTE = ComputeSettings(device="cpu", threads=1)
QUIET = {"use_cpu": True, "bf16": False, "logging_steps": 1, "save_strategy": "no", "report_to": "none"}
QUIET |= {"disable_tqdm": True, "gradient_checkpointing": False, "max_length": None, "lr_scheduler_type": "linear"}
OPTIMISERS = {"adamw": "adamw_torch", "rmsprop": "rmsprop"}
RATES = {"adamw": 1e-4, "rmsprop": 3e-5}
BETA, SEED, BATCH = 0.2, 3, 4


def make_pairs(count):
    """Pairs of different lengths, some of whose samples were cut and so carry no end-of-text."""
    generator = torch.Generator().manual_seed(0)

    def tokens(shortest, longest):
        length = int(torch.randint(shortest, longest + 1, (), generator=generator))
        return torch.randint(2, 250, (length,), generator=generator).tolist()

    pairs = []
    for number in range(count):
        prompt = tokens(1, 6)
        end = [0] if number % 3 else []
        pairs.append(Pair(Dialogue(prompt, [*tokens(0, 5), 0]), Dialogue(prompt, [*tokens(1, 8), *end])))
    return pairs


class PlainDpo(DPOTrainer):
    """TRL's trainer on tokens that exist already: its own preparation would put end-of-text after a cut sample."""

    def _prepare_dataset(self, dataset, *_):
        return dataset


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if "loss" in entry]


def losses(trainer):
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return logged(trainer, "loss")


@pytest.mark.parametrize("name", list(OPTIMISERS))
def test_a_round_of_irft_is_dpo_with_samples_as_the_rejected_responses(policy, template, tmp_path, name):
    pairs, other = make_pairs(40), copy.deepcopy(policy)
    optimiser = OptimiserSettings(name=name, learning_rate=RATES[name])
    settings = IrftTrainingSettings(epochs=5, batch_size=BATCH, beta=BETA, optimiser=optimiser)
    record = irft_round(policy, policy, pairs, settings, template.padding, SEED)

    order = [pairs[row] for rows in shuffled_batches(len(pairs), BATCH, 5, SEED) for row in rows]
    trainer = PlainDpo(
        model=other,
        ref_model=copy.deepcopy(other),
        processing_class=template.tokenizer,
        train_dataset=datasets.Dataset.from_list(
            [
                {
                    "prompt_ids": pair.demonstration.prompt,
                    "chosen_ids": pair.demonstration.response,
                    "rejected_ids": pair.sample.response,
                }
                for pair in order
            ]
        ),
        args=DPOConfig(
            output_dir=str(tmp_path),
            beta=BETA,
            loss_type="sigmoid",
            per_device_train_batch_size=BATCH,
            num_train_epochs=1,
            train_sampling_strategy="sequential",
            optim=OPTIMISERS[name],
            learning_rate=optimiser.learning_rate,
            warmup_steps=optimiser.warmup_ratio,
            max_grad_norm=optimiser.max_gradient_norm,
            weight_decay=0.0,
            **QUIET,
        ),
    )
    theirs = losses(trainer)
    ours = record.curves["loss"]["value"]
    assert len(ours) == len(theirs) == 50
    assert ours[-1] < 0.5 * ours[0], "the losses must move for their agreement to mean something"
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert record.curves["learning_rate"]["value"] == pytest.approx(logged(trainer, "learning_rate"), rel=1e-5)
    for one, two in zip(policy.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=0)


def test_sft_is_trl_s_sft_on_the_texts(policy, template, tmp_path):
    rows = [([{"role": "user", "content": f"hello {n}"}], "very well, " + "thank you " * (n % 4)) for n in range(24)]
    other = copy.deepcopy(policy)
    optimiser = OptimiserSettings(learning_rate=3e-4)
    settings = SftSettings(epochs=5, batch_size=BATCH, optimiser=optimiser)
    dialogues = [Dialogue(template.prompt(prompt), template.response(prompt, response)) for prompt, response in rows]
    record = train_sft(policy, template, dialogues, settings, COMPUTE, SEED, tmp_path / "ours")

    trainer = SFTTrainer(
        model=other,
        processing_class=template.tokenizer,
        train_dataset=datasets.Dataset.from_list(
            [
                {"prompt": prompt, "completion": [{"role": "assistant", "content": response}]}
                for prompt, response in rows
            ]
        ),
        args=SFTConfig(
            output_dir=str(tmp_path / "theirs"),
            per_device_train_batch_size=BATCH,
            num_train_epochs=5,
            optim="adamw_torch",
            learning_rate=optimiser.learning_rate,
            warmup_steps=optimiser.warmup_ratio,
            max_grad_norm=optimiser.max_gradient_norm,
            weight_decay=0.0,
            seed=SEED,
            **QUIET,
        ),
    )
    theirs = losses(trainer)
    ours = record.curves["loss"]["value"]
    assert len(ours) == 30
    assert ours[-1] < 0.5 * ours[0], "the losses must move for their agreement to mean something"
    assert ours == pytest.approx(theirs, abs=1e-5)
    for one, two in zip(policy.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=0)
