"""The explicit reward of RFT: a language-model trunk with a scalar head, and its training (reward alignment).

The reward is always read at the last real token of the response, end-of-text included, in training and in use.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from juicer.data.dialogues import Dialogue
from juicer.methods.objectives import contrastive_loss, mean_and_deviation
from juicer.methods.pairs import Pair, response_tokens
from juicer.models.folder import check_folder
from juicer.models.forward import blocks_of
from juicer.models.loading import (
    Frozen,
    attention_settings,
    check_finite,
    check_missing,
    device_of,
    dtype_of,
    load_weights,
)
from juicer.models.log_probability import Batch, compute_in_batches, compute_in_chunks, dialogues_of
from juicer.models.packing import PackedBatch, packed_hidden
from juicer.runtime.context import LOCAL, WorkContext
from juicer.runtime.errors import InputError
from juicer.settings.compute import ComputeSettings
from juicer.settings.rft import RewardSettings
from juicer.training.backends import Losses
from juicer.training.loop import recompute_activations, shuffled_batches, steps_for, train_loop
from juicer.training.memory import step_of
from juicer.training.passes import PADDED, Passes, pass_size
from juicer.training.record import TrainingRecord

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_reward(
    folder: Path, compute: ComputeSettings, seed: int, dtype: torch.dtype | None = None, frozen: Frozen | None = None
) -> "PreTrainedModel":
    """Load a reward model, or build one from a language model's trunk with a new bias-free head.

    Args:
        folder: a folder written by `save_model`, or that of any causal language model.
        seed: determines a new head.
        dtype: of the weights; None is the recipe's dtype.
        frozen: as `juicer.models.loading.load_policy`.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    check_folder(folder)
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    new = not any("SequenceClassification" in name for name in config.architectures or [])
    device = device_of(compute)
    torch.manual_seed(seed)
    # The new head is expected to be missing, and the language-model head to be unused.
    model, loaded = load_weights(
        AutoModelForSequenceClassification,
        folder,
        frozen,
        device,
        num_labels=1,
        dtype=dtype or dtype_of(compute),
        **attention_settings(compute),
    )
    check_missing(loaded, folder, allowed="score" if new else None)
    if not hasattr(model, "score"):
        do = "use a model whose AutoModelForSequenceClassification has one"
        raise InputError(f"{type(model).__name__} has no scalar head named `score`", where=str(folder), do=do)
    if new:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            weight = torch.randn(model.score.weight.shape, generator=generator) / model.score.weight.shape[1]
            model.score.weight.copy_(weight)
    reward: PreTrainedModel = model.to(device).eval()
    check_finite(reward, folder)
    return reward


def freeze_blocks(model: "PreTrainedModel", count: int) -> None:
    """Freeze the embedding and the `count` lowest transformer blocks.

    Raises:
        InputError: the trunk has fewer blocks.
    """
    if not count:
        return
    blocks = blocks_of(model)
    if blocks is None or len(blocks) < count:
        found = 0 if blocks is None else len(blocks)
        raise InputError(
            f"rft.reward.frozen_blocks is {count}, but the trunk has {found} blocks",
            do="lower rft.reward.frozen_blocks",
        )
    for module in (model.get_input_embeddings(), *blocks[:count]):
        module.requires_grad_(False)


def rewards(model: "PreTrainedModel", batch: Batch | PackedBatch) -> Tensor:
    """r(x, y): the head at the last real token. Returns (batch,) float32, differentiable."""
    scalar: torch.nn.Module = model.get_submodule("score")
    if isinstance(batch, PackedBatch):
        last_hidden = packed_hidden(model, batch)[batch.ends]
        # Beside bf16 copies of the trunk the head is float32.
        found: Tensor = scalar(last_hidden.to(next(scalar.parameters()).dtype))
        return found[:, 0].float()
    if not batch.padded_right:
        # Models with learnt positions count them from the left, padding included.
        batch = Batch.of(dialogues_of(batch.tokens, batch.attention, batch.response), 0, batch.tokens.device)
    hidden = model.base_model(input_ids=batch.tokens, attention_mask=batch.mask).last_hidden_state
    last = batch.attention.sum(1) - 1
    last_hidden = hidden[torch.arange(len(last), device=last.device), last]
    # Beside bf16 copies of the trunk the head is float32.
    values: Tensor = scalar(last_hidden.to(next(scalar.parameters()).dtype))
    return values[:, 0].float()


@torch.no_grad()
def score_rewards(
    model: "PreTrainedModel",
    dialogues: Sequence[Dialogue],
    padding: int,
    batch_size: int = 64,
    context: WorkContext = LOCAL,
) -> Tensor:
    """r(x, y) of many dialogues, batched by length, in the order given. Returns (dialogues,) float32 on the CPU."""
    return compute_in_batches(partial(rewards, model), dialogues, padding, model.device, batch_size, context)


def train_reward(
    model: "PreTrainedModel",
    pairs: Sequence[Pair],
    settings: RewardSettings,
    padding: int,
    seed: int,
    context: WorkContext = LOCAL,
    passes: Passes = PADDED,
) -> TrainingRecord:
    """Reward alignment: K steps of theta <- theta + eta grad h(r(x, y) - r(x, y')). Changes `model` in place.

    Source: Algorithm 1. theta is carried from round to round; only the optimiser starts anew.

    Args:
        passes: how `model` computes.

    Returns:
        The record. Its facts hold the normaliser (mean and deviation over the round's pairs) and the final accuracy.
    """
    demonstrations, samples = [pair.demonstration for pair in pairs], [pair.sample for pair in pairs]

    def loss_of(rows: list[int]) -> Losses:
        both = [demonstrations[row] for row in rows] + [samples[row] for row in rows]
        values = compute_in_chunks(partial(rewards, model), both, padding, model.device, packed=passes.packed)
        r_y, r_y_prime = values.chunk(2)
        margin = (r_y - r_y_prime).detach()
        return contrastive_loss(r_y, r_y_prime, settings.h), {"margin": margin, "accuracy": (margin > 0).float()}

    freeze_blocks(model, settings.frozen_blocks)
    steps = steps_for(settings.epochs, len(pairs), settings.batch_size)
    batches = list(shuffled_batches(len(pairs), settings.batch_size, settings.epochs, seed))
    record = TrainingRecord("rft_reward", response_tokens=response_tokens(pairs, batches))
    model.eval()
    if settings.gradient_checkpointing:
        recompute_activations(model)
    step = step_of(
        model,
        settings,
        lower=passes.copies or torch.is_autocast_enabled(model.device.type),
        sequences=2,
        length=max(map(len, (*demonstrations, *samples))),
        heads=0,
        in_chunks=True,
        processes=context.processes,
        copies=passes.copies,
    )
    tokens = [len(pair.demonstration) + len(pair.sample) for pair in pairs]
    micro, pass_tokens = pass_size(passes, settings, step, max(tokens), context)
    with passes.entered(model) as masters:
        train_loop(
            model,
            batches,
            steps,
            loss_of,
            settings.optimiser,
            micro,
            record,
            context,
            lengths=tokens,
            tokens_per_pass=pass_tokens,
            masters=masters,
        )
    both = (demonstrations, samples)
    final = torch.stack([score_rewards(model, each, padding, context=context) for each in both])
    mean, deviation = mean_and_deviation(final)
    record.facts |= {
        "K": steps,
        "pairs": len(pairs),
        "normaliser_mean": mean,
        "normaliser_deviation": deviation,
        "training_accuracy": float((final[0] > final[1]).float().mean()),
    }
    return record
