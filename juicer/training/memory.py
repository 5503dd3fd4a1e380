"""How much memory training takes, by the usual estimate, and the micro-batch that fits. Plans and training share it."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import psutil
import torch

from juicer.models.forward import blocks_of, body_of
from juicer.models.log_probability import LOGITS_AT_ONCE
from juicer.models.shape import ADAPTER, Shape, shape_of_model
from juicer.runtime.devices import GIB
from juicer.runtime.errors import InputError
from juicer.runtime.memory import main_memory
from juicer.runtime.processes import SINGLE_PROCESS, Processes
from juicer.settings.training import OptimiserSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WEIGHT = 4
"""Bytes of a weight that is trained or saved."""
OVERHEAD = 1 * GIB
"""Bytes per device of CUDA's context, the libraries' workspaces and fragmentation."""
CPU_OVERHEAD = 0.75e9
"""The same in main memory: the imported libraries (0.5 GB, measured), and what the allocator keeps."""
CPU_RLOO = 0.3e9
"""What RLOO takes in main memory beside: TRL's imports, and the second softmax, of which it takes entropies."""
CPU_BUDGET = 4e9
"""Bytes that a stage's training may take on a CPU. A constant, so that a recipe has the same micro-batches, and so the
same last bits, on every machine that has twice as much; not what happens to be free."""
CPU_SHARE = 0.5
"""Largest share of a machine's memory, where that is less: two stages may run at a time."""
LEAST_SHARE = 0.125
"""Activations may take this share of weights and optimiser at least, lest a large model train row by row."""
GPU_SHARE = 0.9
"""Share of a GPU's memory that training may take: blocks are fragmented."""
COPY = 2
"""Bytes of a weight's bf16 copy, and of a frozen weight that is loaded in bf16."""
NF4 = 0.55
"""Bytes of a weight quantised to 4 bits, with the scales of its blocks (arXiv 2305.14314, section 3)."""
BUCKET, LIVE = 500_000_000, 1_000_000_000
"""Values that DeepSpeed reduces at a time, and gathered weights that it keeps at stage 3: its defaults."""


class TrainingSettings(Protocol):
    """The settings of a stage that trains, as far as its memory depends on them."""

    @property
    def optimiser(self) -> OptimiserSettings: ...
    @property
    def gradient_checkpointing(self) -> bool: ...


@dataclass(frozen=True)
class Training:
    """How a model is trained."""

    shape: Shape
    trained: int
    """Trainable parameters."""
    depth: float
    """Share of the blocks that the backward pass goes through, from 0 to 1."""
    recomputed: bool
    """Whether activations are recomputed in the backward pass."""
    optimiser: Literal["adamw", "rmsprop"]
    frozen: float = WEIGHT
    """Bytes of a weight that is not trained: 4, 2 in bf16, or fewer where it is quantised."""
    lora: bool = False
    """Whether adapters train, which are not among the model's own parameters."""

    def operations(self, forward: float) -> float:
        """Operations of forward and backward passes, of which `forward` are the forward pass's.

        The gradients of activations cost as much as a forward pass, those of weights too, and so does recomputation.
        """
        weights = min(1.0, self.trained / self.shape.parameters / max(self.depth, 1e-9)) * self.depth
        return forward * (1 + self.depth + weights + (self.depth if self.recomputed else 0))

    def memory(self, devices: int, zero_stage: int) -> float:
        """Bytes per device of weights, gradients and optimiser state, all in float32.

        ZeRO shards the optimiser state from stage 1, gradients from stage 2 and weights from stage 3 (arXiv
        1910.02054, section 3).
        """
        moments = 2 if self.optimiser == "adamw" else 1
        weights, gradients = self.weights(), WEIGHT * self.trained
        return (
            weights / (devices if zero_stage == 3 else 1)
            + gradients / (devices if zero_stage >= 2 else 1)
            + moments * gradients / (devices if zero_stage else 1)
        )

    def weights(self) -> float:
        """Bytes of the whole model's weights, as they are loaded; of adapters beside a float32 model none."""
        if self.frozen == WEIGHT:
            return float(WEIGHT * self.shape.parameters)
        return self.frozen * self.shape.parameters + WEIGHT * self.trained

    def stepping(self, devices: int, zero_stage: int) -> float:
        """Bytes that a GPU needs during the optimiser's step beside these, when activations are gone already.

        torch's RMSprop takes the root of all second moments at once; its fused AdamW needs nothing.
        """
        return 0.0 if self.optimiser == "adamw" else WEIGHT * self.trained / (devices if zero_stage else 1)

    def sharding(self, devices: int, zero_stage: int) -> float:
        """Bytes that DeepSpeed takes on a GPU: its own copy of the trained weights, and buffers to communicate."""
        if not zero_stage:
            return 0.0
        copy = WEIGHT * self.trained / devices
        if zero_stage == 3:
            return copy + COPY * (min(BUCKET, self.trained) + min(LIVE, self.shape.parameters))
        return copy + WEIGHT * min(BUCKET, self.trained)


def logit_bytes(shape: Shape, positions: float, groups: int | None = None, *, on_cpu: bool = False) -> float:
    """Bytes of the logits of a number of positions: in bf16, an fp32 copy, and its softmax or gradient.

    On a CPU the softmax is kept while both gradients are computed.

    Args:
        groups: forward passes whose logits are held at the same time, each in chunks of `LOGITS_AT_ONCE`; None means
            that logits are not computed in chunks.
    """
    logits = positions * shape.vocabulary
    return (16.0 if on_cpu else 10.0) * (logits if groups is None else min(logits, groups * LOGITS_AT_ONCE))


MASK = 7.0
"""Bytes per pair of tokens of a packed row whose attention is masked: the mask, its two parts, and its float32 form."""
PACKED_MULTIPLE = 512
"""A packed pass takes a multiple of so many tokens, so that compiled kernels see few lengths."""
CHUNK = 16
"""Sequences of one forward pass that computes log-probabilities in training (`compute_in_chunks`)."""


@dataclass(frozen=True)
class Step:
    """What one optimiser step of a device holds in memory."""

    training: Training
    sequences: int
    """Sequences of a row: 1, or the 2 of a pair."""
    length: float
    """Tokens of the longest sequence."""
    heads: float
    """Positions of a sequence that the output head is applied to."""
    in_chunks: bool
    """Whether logits are computed in chunks."""
    bytes_: int
    """Bytes of an activation: 2 in bf16, else 4."""
    others: float = 0.0
    """Bytes of models that are only read."""
    devices: int = 1
    zero_stage: int = 0
    on_cpu: bool = False
    copies: bool = False
    """Whether passes compute with bf16 copies that are kept beside float32 weights (`compute.weights`)."""

    def peak(self, rows: int) -> float:
        """Bytes per device with so many rows in one forward pass, all as long as the longest."""
        sequences = rows * self.sequences
        groups = -(-sequences // CHUNK) if self.in_chunks else None
        return self._peak(sequences * self.length, sequences * self.heads, groups)

    def packed_peak(self, tokens: float) -> float:
        """Bytes per device with so many tokens in one packed pass, all dialogues in a single row without padding.

        The output head is applied to the responses' positions only, of which the longest sequence has the usual share.
        """
        heads = tokens * min(1.0, self.heads / self.length)
        # Without the kernel for variable lengths attention is by a mask over the whole row.
        mask = MASK * tokens**2 if self.bytes_ == WEIGHT or self.on_cpu else 0.0
        return self._peak(tokens, heads, 1 if self.in_chunks else None) + mask

    def _peak(self, tokens: float, heads: float, groups: int | None) -> float:
        training, state = self.training, self.training.memory(self.devices, self.zero_stage)
        kept = self._activations(tokens) + logit_bytes(training.shape, heads, groups, on_cpu=self.on_cpu)
        if self._casts or (self.copies and self.on_cpu):
            kept += training.shape.parameters * self.bytes_  # the cast matrices are kept for the backward pass
        if self.on_cpu:
            return state + kept + self.others + CPU_OVERHEAD
        if self.copies:
            # A copy of every weight that is not in bf16 already, and the gradient of the matrix that is at hand.
            adapters = training.trained if training.lora else 0
            state += COPY * (adapters + (training.shape.parameters if training.frozen == WEIGHT else 0))
            kept += COPY * min(training.trained, max(training.shape.head, training.shape.embedding))
        kept = max(kept, training.stepping(self.devices, self.zero_stage))
        state += training.sharding(self.devices, self.zero_stage)
        # With ZeRO too, every process loads the whole model before it is divided.
        return max(training.weights(), state + kept + self.others) + OVERHEAD

    @property
    def _casts(self) -> bool:
        """Whether casts of all matrices stay for the backward pass."""
        if self.copies or self.training.recomputed or self.zero_stage == 3:
            return False
        return self.bytes_ < WEIGHT and self.training.frozen == WEIGHT

    def _activations(self, tokens: float) -> float:
        shape, training = self.training.shape, self.training
        if self.on_cpu:
            return shape.activations(tokens, self.bytes_, recomputed=training.recomputed)
        # Under autocast a float32 embedding makes the hidden states float32, and so all sums of them.
        in_float32 = self.bytes_ == WEIGHT or (training.frozen == WEIGHT and not self.copies)
        residual = WEIGHT if in_float32 else self.bytes_
        kept = shape.kept_bytes(tokens, self.bytes_, residual, depth=training.depth, recomputed=training.recomputed)
        if training.lora and not self.copies:
            # Under autocast adapters keep inputs of their own, where queries, keys and values would share one.
            blocks = 1 if training.recomputed else shape.layers
            kept += blocks * tokens * 2.0 * self.bytes_ * shape.width
        return kept

    def packed_tokens(self, most: int, budget: float) -> int:
        """The most tokens of a packed pass that fit into `budget` bytes: a multiple of 512 up to `most`.

        At least one row of the longest sequences, whether that fits or not, because a row is not divided.
        """
        least = -(-math.ceil(self.sequences * self.length) // PACKED_MULTIPLE) * PACKED_MULTIPLE
        tried = range(most - most % PACKED_MULTIPLE, least, -PACKED_MULTIPLE)
        return next((tokens for tokens in tried if self.packed_peak(tokens) <= budget), least)

    def largest(self, share: int, budget: float) -> int:
        """The largest divisor of `share` whose rows fit into `budget` bytes in one forward pass; at least 1."""
        fitting = (rows for rows in range(share, 0, -1) if share % rows == 0 and self.peak(rows) <= budget)
        return next(fitting, 1)

    def budget(self, memory: float) -> float:
        """Bytes that the step may take of a device with so much memory."""
        if not self.on_cpu:
            return GPU_SHARE * memory
        least = self.peak(0) + LEAST_SHARE * self.training.memory(self.devices, self.zero_stage)
        return max(min(CPU_BUDGET, CPU_SHARE * memory), least)


def training_of_model(
    model: "PreTrainedModel", optimiser: Literal["adamw", "rmsprop"], *, recomputed: bool
) -> Training | None:
    """How a model is trained, counted on it; None for an architecture that the estimate does not know."""
    head = getattr(model, "score", None) or model.get_output_embeddings()
    if head is None:
        return None
    try:
        shape = shape_of_model(type(model).__name__, model, body_of(model), head)
    except (InputError, AttributeError):
        return None
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    lora = any(ADAPTER in name for name, _ in model.named_parameters())
    base = sum(weight.nbytes for name, weight in model.named_parameters() if ADAPTER not in name)
    frozen = base / shape.parameters if lora else float(WEIGHT)
    blocks = blocks_of(model) or ()
    lowest = next((place for place, block in enumerate(blocks) if _is_trained(block)), 0)
    return Training(shape, trained, 1 - lowest / shape.layers, recomputed, optimiser, frozen, lora)


def step_of(
    model: "PreTrainedModel",
    settings: TrainingSettings,
    *,
    lower: bool,
    sequences: int,
    length: float,
    heads: float,
    in_chunks: bool,
    others: float = 0.0,
    processes: Processes = SINGLE_PROCESS,
    copies: bool = False,
) -> Step | None:
    """What an optimiser step of a stage holds in memory; see `Step`. None where nobody knows.

    Args:
        lower: whether passes are in bf16.
        copies: whether they compute with bf16 copies that are kept beside float32 weights.
    """
    how = training_of_model(model, settings.optimiser.name, recomputed=settings.gradient_checkpointing)
    if how is None:
        return None
    return Step(
        how,
        sequences,
        length,
        heads,
        in_chunks,
        bytes_=2 if lower else WEIGHT,
        others=others,
        devices=processes.world_size,
        zero_stage=processes.zero_stage,
        on_cpu=model.device.type == "cpu",
        copies=copies,
    )


def weights_of(*models: torch.nn.Module) -> float:
    """Bytes of the weights of models."""
    return float(sum(weight.nbytes for model in models for weight in model.parameters()))


def _is_trained(block: torch.nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in block.parameters())


def micro_batch(
    asked: int | Literal["auto"] | None, batch: int, step: Step | None, processes: Processes = SINGLE_PROCESS
) -> int:
    """Rows per forward pass of a process, the same in all of them.

    Args:
        asked: the recipe's `micro_batch_size`.
        batch: rows of a whole optimiser step.
        step: what a step holds in memory; None where nobody knows, so that `auto` takes the process's whole share.
    """
    share = -(-batch // processes.world_size)
    if asked == "auto" and step is not None:
        return min(processes.gather(step.largest(share, _available(step))))
    return share if asked is None or asked == "auto" else asked


MOST_TOKENS = 2**16
"""Tokens of a packed pass, at most: more make no kernel faster."""


def tokens_per_pass(
    asked: int | Literal["auto"], step: Step | None, longest: int, processes: Processes = SINGLE_PROCESS
) -> int:
    """Tokens of a packed pass, the same in all processes; never fewer than the longest row has.

    Args:
        asked: the recipe's `tokens_per_pass`.
        step: what a step holds in memory; None where nobody knows, so that `auto` takes the most.
        longest: tokens of the longest row that cannot be divided.
    """
    if asked != "auto" or step is None:
        return max(longest, MOST_TOKENS if asked == "auto" else asked)
    return max(longest, min(processes.gather(step.packed_tokens(MOST_TOKENS, _available(step)))))


def _available(step: Step) -> float:
    """Bytes that a step may take of this process's device: of all, and of what is free.

    Where the same bytes are to come again, not of what happens to be free.
    """
    total, free = main_memory() if step.on_cpu else _gpu_memory()
    if not step.on_cpu and torch.are_deterministic_algorithms_enabled():
        return step.budget(total)
    used = psutil.Process().memory_info().rss if step.on_cpu else 0
    return min(step.budget(total), free + used)


def _gpu_memory() -> tuple[float, float]:
    """Bytes of this process's GPU: all, and free for it, its own included."""
    free, total = torch.cuda.mem_get_info()
    return float(total), GPU_SHARE * (free + torch.cuda.memory_reserved())
