"""Walks the graph of a recipe and adds up what each stage costs: steps, tokens, operations, memory and disk."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from juicer.models.precision import slow_bf16, training_compute
from juicer.models.shape import Shape
from juicer.planning.costs import Base, decoding_seconds, training_of
from juicer.planning.kept import kept_bytes
from juicer.planning.processors import START, cpu_share
from juicer.planning.roles import (
    available_rows,
    check_lengths,
    evaluated_rows,
    from_hub,
    roles_of,
    shape_in,
    training_rows,
)
from juicer.planning.speed import HOST, Speeds, Way
from juicer.recipe.graph import Graph
from juicer.recipe.schema import Recipe
from juicer.runtime.devices import DEVICES, GIB, Device
from juicer.runtime.errors import InputError
from juicer.sampling.rows import MEMORY_SHARE, cache_bytes, fitting_rows
from juicer.sampling.steppers import REFILL_FROM
from juicer.sampling.vllm_engine import ROOM
from juicer.sampling.vllm_environment import roomy_rank
from juicer.settings.preferences import Role as PreferenceRole
from juicer.settings.sft import SftObjective
from juicer.settings.training import ROWS, GenerationSettings, LoraSettings, MicroBatch, SamplingSettings
from juicer.training.memory import (
    COPY,
    CPU_OVERHEAD,
    CPU_RLOO,
    MOST_TOKENS,
    OVERHEAD,
    WEIGHT,
    Step,
    Training,
    logit_bytes,
)

RECORD = 110
"""Bytes of a sample's line besides its tokens."""
READ_AT_ONCE = 64
"""Dialogues per forward pass that computes log-probabilities without training."""


@dataclass(frozen=True)
class Lengths:
    """Mean lengths in tokens. The template's limits are the upper bound if the real ones are unknown."""

    prompt: float
    response: float
    """Response of a demonstration."""
    sample: float
    """Response sampled from a policy."""


@dataclass
class StagePlan:
    """What one stage costs."""

    name: str
    model: str
    parameters: int = 0
    trained: int = 0
    steps: int = 0
    """Optimiser steps; K in a round."""
    micro: int = 0
    """Rows of a device's forward pass in training; where `auto` takes them, as many of the longest rows as fit."""
    pass_tokens: int = 0
    """Tokens of a packed pass, which has no number of rows."""
    share: float = 0.0
    """Share of the device's peak that the stage is planned with."""
    tokens: float = 0
    """Response tokens that are sampled or trained on, counted as the stage records them."""
    operations: float = 0
    decoding: float = 0
    """Seconds that one device would decode; the operations of decoding are part of `operations` too."""
    decoded: float = 0
    """Operations of decoding."""
    memory: float = 0
    """Peak memory per device, in bytes."""
    disk: float = 0
    """Size of the stage's outputs, in bytes."""
    beside: float = 0
    """Of `memory`, what another process takes on the device: vLLM beside RLOO."""
    advice: str = ""
    """Parameters that lower the memory, for the error message."""
    start: float = 0.0
    """Seconds in which it starts and loads, where that is counted."""

    def hours(self, device: Device, devices: int, utilisation: float | None = None) -> float:
        """Hours on `devices` devices, over which the work is assumed to divide without loss.

        Args:
            utilisation: share of the peak; None takes the stage's own.
        """
        share = utilisation or self.share
        computing = (self.operations - self.decoded) / (device.operations * share) if share else 0.0
        return ((computing + self.decoding) / devices + self.start) / 3600


class Planner:
    """Walks the graph of a recipe and adds up what each stage costs.

    Args:
        recipe: the validated recipe.
        graph: the graph derived from it.
        device: the type of device to plan for.
        utilisation: share of the device's peak that is reached, from 0 to 1; None takes what was measured on it, or
            else what is assumed of each way to train.
        lengths: mean lengths; None uses the template's limits.
        card: the device's name in `runtime.devices.DEVICES`.

    Raises:
        InputError: the recipe asks for bf16 on a device without it.
    """

    def __init__(
        self,
        recipe: Recipe,
        graph: Graph,
        device: Device,
        utilisation: float | None,
        lengths: Lengths | None,
        card: str = "",
    ) -> None:
        limits = recipe.template
        self.recipe, self.graph, self.device = recipe, graph, device
        self.speeds = Speeds(card, utilisation)
        longest = float(limits.max_prompt_tokens), float(limits.max_response_tokens)
        self.lengths = lengths or Lengths(longest[0], longest[1], longest[1])
        self.longest = sum(longest)
        """Tokens of the longest dialogue, for which the memory must suffice."""
        self.devices, self.zero = recipe.compute.processes, recipe.compute.zero_stage
        self.on_cpu = recipe.compute.device == "cpu"
        if recipe.compute.precision == "bf16" and not (self.on_cpu or device.has_bf16):
            without = [each for each in card.split("+") if each in DEVICES and not DEVICES[each].has_bf16]
            named = " and ".join(without) or card or "the GPU"
            what = f"compute.precision is bf16, but {named} does not compute in it"
            raise InputError(what, do="set compute.precision=fp32, or use a GPU of Ampere's generation or later")
        self.bytes = 2 if recipe.compute.precision == "bf16" or self._is_lower_on_gpu() else WEIGHT
        """Of a weight or an activation where nothing is trained."""
        self.in_float32 = not self.on_cpu and self.bytes == WEIGHT
        """Whether a GPU computes everything in float32."""
        if self.in_float32:
            self.device = device.in_float32()
            # What was measured on a card with bf16 are shares of that peak.
            self.speeds = Speeds(card if device.operations32 is None else "", utilisation)
        self.overhead = CPU_OVERHEAD if self.on_cpu else OVERHEAD
        roles = roles_of(recipe)
        self.policy, self.scorer, self.reward = roles.policy, roles.scorer, roles.reward
        self.judge, self.trunks = roles.judge, roles.trunks
        self.available = available_rows(recipe)
        self.rows = training_rows(recipe, self.available)
        self.stages: list[StagePlan] = []
        self._methods: dict[str, tuple[int, float]] = {"irft": (0, 0.0), "rft": (0, 0.0)}
        """Steps and response tokens of each method; the control gets as many as the longer method."""

    def plan(self) -> list[StagePlan]:
        """The cost of every stage that computes or stores something, in the order of the graph.

        Raises:
            InputError: the recipe cannot run as it is; gives the numbers.
        """
        check_lengths(self.recipe, self.policy, "policy.model")
        if self.graph.rft:
            check_lengths(self.recipe, self.reward, "rft.reward.model")
        shapes = {"scorer": self.scorer, "judge": self.judge}
        shapes |= {f"{role}_trunk": trunk for role, trunk in self.trunks.items()}
        for name in self.graph.downloads:
            shape = shapes.get(name) or self.policy
            if name == "reward":  # the download includes an output head, which the reward drops
                shape = shape_in(self.recipe, str(self.recipe.rft.reward.model), "policy", "rft.reward.model")
            self._add(f"download@{name}", shape, disk=shape.parameters * 2.0)
        for role, shape in self.trunks.items():
            self._preferences(role, shape)
        self._curate()
        self._sft()
        for key in self.graph.irft:
            self._irft(key, self.graph.irft[key].part)
        for key in self.graph.rft:
            self._rft(key, self.graph.rft[key].part)
        if self.graph.sft_matched:
            self._control()
        for name in self.graph.models:
            self._evaluate(f"evaluate@{name}", is_sft=name == "sft")
        if self.on_cpu and math.isfinite(self.device.operations):
            for stage in self.stages:
                stage.start = START if stage.operations else 0.0
        return self.stages

    def said(self) -> list[str]:
        """What the recipe's `auto` comes to, in sentences."""
        lines = [f"The sizes of {name} are those of its config.json on the hub." for name in from_hub(self.recipe)]
        if self.recipe.evaluation.prompts is None:
            held_out, validation = self._prompts(None)
            lines.append(f"Evaluated: about {held_out:,} held-out and {validation:,} validation prompts.")
        if self.on_cpu:
            trained = training_compute(self.recipe.compute, self.policy.parameters).precision
            other = "bf16" if self.bytes < WEIGHT else "fp32"
            lines.append(f"On this CPU the policy trains in {trained}, and samples and is evaluated in {other}.")
            lines += slow_bf16(self.recipe.compute)
        sections = (self.recipe.sft, self.recipe.irft.training, self.recipe.rft.reward, self.recipe.rft.policy)
        if self.packed:
            lines.append("micro: rows of one forward pass, or, with a t, tokens of a packed one.")
        elif any(section.micro_batch_size == "auto" for section in sections):
            lines.append("micro: rows of one forward pass; `auto` takes more where the longest rows are shorter.")
        if not self.on_cpu:
            lines.append(
                f"Sampling: {self.speeds.decoding:.0%} of the bandwidth or of the peak"
                + (f", and {1000 * HOST:.1f} ms a block and step for the host" if self.speeds.given is None else "")
                + ", assumed; a batch lasts as long as its longest response"
                + ("; engine auto is planned as torch." if self._has_auto_engine else ".")
            )
        return lines

    @property
    def _has_auto_engine(self) -> bool:
        """Whether a sampling engine is left to the machine, where it is vLLM if that is installed."""
        irft, rft = self.recipe.irft, self.recipe.rft
        engines = [method.sampling.engine for method in (irft, rft) if method.rounds]
        engines += [rft.policy.engine] if rft.rounds and rft.optimiser == "rloo" else []
        return "auto" in engines

    def _add(self, name: str, shape: Shape, **costs: Any) -> StagePlan:
        stage = StagePlan(name, shape.name, shape.parameters, **costs)
        self.stages.append(stage)
        return stage

    def _pairs(self, part: str, samples: int, method: str) -> int:
        """Number of pairs of a round; `part` is "all" or "i/n", as in juicer.methods.pairs.part_of."""
        if part == "all":
            return self.rows * samples
        index, count = map(int, part.split("/"))
        if self.rows < count:
            what = f"{self.rows} demonstrations cannot be split over {count} parts"
            raise InputError(what, where=f"{method}.rounds", do="lower the number of rounds")
        return (index * self.rows // count - (index - 1) * self.rows // count) * samples

    def _is_lower_on_gpu(self) -> bool:
        return not self.on_cpu and self.device.has_bf16 and self.recipe.compute.precision == "auto"

    @property
    def packed(self) -> bool:
        """Whether training packs dialogues into one row, RLOO excepted."""
        return self.recipe.compute.packs(gpu=not self.on_cpu, lower=self.bytes < WEIGHT)

    def _step(
        self, training: Training, sequences: int, head: float, others: float = 0, *, in_chunks: bool = False
    ) -> Step:
        """What a training stage holds in memory, if all sequences are as long as the template allows.

        Args:
            sequences: sequences of a row.
            head: positions of each sequence that the output head is applied to.
            others: bytes of models that are only read.
            in_chunks: whether the logits of a group of sequences are computed in chunks, as in IRFT.
        """
        lower = self._trains_in_bf16(training.shape)
        weights = self.recipe.compute.weights
        copies = lower and not self.zero and (weights == "bf16" or (weights == "auto" and self.packed))
        return Step(
            training,
            sequences,
            self.longest,
            head,
            in_chunks,
            2 if lower else WEIGHT,
            others,
            self.devices,
            self.zero,
            self.on_cpu,
            copies and not self.on_cpu,
        )

    def _trains_in_bf16(self, shape: Shape) -> bool:
        if not self.on_cpu:
            return self.bytes < WEIGHT
        return training_compute(self.recipe.compute, shape.parameters).precision == "bf16"

    def _training(self, shape: Shape, settings: Any, frozen_blocks: int = 0) -> Training:
        """How a section of the recipe trains a model."""
        lora: LoraSettings | None = getattr(settings, "lora", None)
        base: Base = "fp32"
        if lora is not None:
            in_bf16 = not self.on_cpu and self.bytes < WEIGHT and not self.zero
            base = ("bf16" if in_bf16 else "fp32") if lora.base == "auto" else lora.base
        return training_of(
            shape,
            settings.optimiser.name,
            lora=lora,
            frozen_blocks=frozen_blocks,
            recomputed=settings.gradient_checkpointing,
            base=base,
        )

    def _earlier(self, stage: str, how: Training, settings: Any) -> float:
        """Bytes of the adapters of earlier stages, which stay beside frozen weights of fewer bits, in bf16.

        Args:
            stage: that trains further ones, such as irft_train@r3.
        """
        lora: LoraSettings | None = getattr(settings, "lora", None)
        if lora is None or how.frozen == WEIGHT or lora.save != "adapters":
            return 0.0
        return COPY * (kept_bytes(self.recipe, self.graph, stage, how.shape) / WEIGHT - how.trained)

    def _passes(
        self,
        stage: StagePlan,
        step: Step,
        batch: int,
        micro: MicroBatch,
        key: str,
        length: float,
        *,
        never_packed: bool = False,
    ) -> None:
        """What a pass of a stage's training takes: its rows or its tokens, its memory, and the share of the peak.

        Args:
            batch: rows of an optimiser step.
            key: names it in errors.
            length: mean tokens of a row's sequences.
        """
        rows, packed = self._micro(batch, micro, key, step), self.packed and not never_packed
        share = math.ceil(batch / self.devices)
        if packed:
            asked, most = self.recipe.compute.tokens_per_pass, math.ceil(share * step.sequences * step.length)
            budget = step.budget(self.device.memory)
            # A row is not divided, whatever was asked for.
            longest = math.ceil(step.sequences * step.length)
            fitting = step.packed_tokens(MOST_TOKENS, budget) if asked == "auto" else max(asked, longest)
            stage.pass_tokens = min(most, fitting)
            stage.memory = step.packed_peak(stage.pass_tokens)
        else:
            stage.micro, stage.memory = rows, step.peak(rows)
        way = Way(packed, step.training.recomputed, share * step.sequences * length)
        stage.share = self._share(way, step.training.shape)

    def _share(self, way: Way, shape: Shape) -> float:
        if not self.on_cpu:
            return self.speeds.of(way)
        return self.speeds.given or cpu_share(shape.parameters)

    def _micro(self, batch: int, micro: MicroBatch, key: str, step: Step) -> int:
        """Rows of one forward pass of a device."""
        if batch < self.devices:
            what = f"{key} = {batch} leaves devices idle: compute.processes = {self.devices}"
            raise InputError(what, do="raise the first or lower the second")
        share = math.ceil(batch / self.devices)
        if micro == "auto":
            return step.largest(share, step.budget(self.device.memory))
        return min(micro or share, share)

    @property
    def _alone_on_cpu(self) -> bool:
        """Whether SFT and RLOO have no logits of prompts, and compute the others in chunks."""
        return self.on_cpu and self.devices == 1 and not self.zero

    def _read(self, shape: Shape) -> float:
        """Bytes, besides the weights, for computing the log-probabilities of many dialogues."""
        limit = self.recipe.template.max_response_tokens
        return logit_bytes(shape, READ_AT_ONCE * limit, 1) + shape.working(READ_AT_ONCE * self.longest, self.bytes)

    def _preferences(self, role: PreferenceRole, shape: Shape) -> None:
        """The reward models that are trained on pairs; where these have a file of their own, its rows are not known."""
        section = self.recipe.preferences
        if section is None:
            return
        settings, lengths = section.models[role], self.lengths
        curate, withheld = self.recipe.curate, sum(section.withheld.values())
        left = max(0.0, 1 - withheld - curate.validation_share - curate.held_out_share)
        rows = settings.least_pairs / (1 - settings.held_out_share)
        if section.withheld and self.available is not None and left:
            rows = self.available * settings.share / left
        pairs = max(1.0, rows * (1 - settings.held_out_share))
        how = self._training(shape, settings, settings.frozen_blocks)
        length = min(float(settings.max_tokens), lengths.prompt + lengths.response)
        step = replace(self._step(how, 2, 0, in_chunks=True), length=float(settings.max_tokens))
        stage = self._add(
            f"preferences@{role}",
            shape,
            trained=how.trained,
            steps=math.ceil(settings.epochs * pairs / settings.batch_size),
            tokens=settings.epochs * pairs * 2 * lengths.response,
            operations=how.operations(settings.epochs * shape.forward(2 * pairs * length, length, 2 * pairs)),
            disk=float(WEIGHT * shape.parameters),
            advice=f"preferences.{role}.micro_batch_size, max_tokens, gradient_checkpointing, frozen_blocks",
        )
        key = f"preferences.{role}.batch_size"
        self._passes(stage, step, settings.batch_size, settings.micro_batch_size, key, length)

    def _curate(self) -> None:
        if self.scorer is None:
            return
        length = self.lengths.prompt + self.lengths.response
        read = max(self.available or 0, self.rows)
        working = self.scorer.working(self.recipe.scorer.batch_size * self.longest, self.bytes)
        memory = self.scorer.parameters * self.bytes + working + self.overhead
        operations = self.scorer.forward(read * length, length, read)
        curate = self._add("curate", self.scorer, tokens=read * self.lengths.response, operations=operations)
        curate.memory, curate.advice = memory, "scorer.batch_size"
        curate.share = self._reading(self.scorer, length)

    def _sft_training(self) -> Training:
        return self._training(self.policy, self.recipe.sft)

    def _sft_batch(self) -> float:
        """Mean number of rows in a step of SFT; the last batch of an epoch is smaller."""
        return self.rows / math.ceil(self.rows / self.recipe.sft.batch_size)

    def _sft_tokens(self, objective: SftObjective) -> float:
        """Response tokens that a row of SFT trains on; DFT's row has samples too."""
        samples = self.recipe.sft.dft.samples if objective == "dft" else 0
        return self.lengths.response + samples * self.lengths.sample

    def _sft_stage(self, name: str, steps: int, times: int, objective: SftObjective) -> StagePlan:
        settings, training, lengths = self.recipe.sft, self._sft_training(), self.lengths
        length, rows = lengths.prompt + lengths.response, steps * self._sft_batch()
        limit = self.recipe.template.max_response_tokens
        # TRL passes prompts through the output head, except on a CPU, but packed training does not.
        dropout = settings.lora is not None and settings.lora.dropout > 0
        by_trl = objective == "nll" and (dropout or not self.packed)
        in_chunks = not by_trl or self._alone_on_cpu
        samples = settings.dft.samples if objective == "dft" else 0
        step = self._step(training, 1 + samples, limit if in_chunks else self.longest, in_chunks=in_chunks)
        step = replace(step, copies=step.copies and not by_trl)
        forward = self.policy.forward(rows * length, length)
        stage = self._add(
            name,
            self.policy,
            trained=training.trained if steps else 0,
            steps=steps,
            tokens=rows * self._sft_tokens(objective),
            operations=times * training.operations(forward),
            memory=self.policy.parameters * WEIGHT + self.overhead,
            disk=kept_bytes(self.recipe, self.graph, name, self.policy),
            advice="sft.micro_batch_size, sft.gradient_checkpointing, sft.lora",
        )
        batch, asked = settings.batch_size, settings.micro_batch_size
        if steps:
            self._passes(stage, step, batch, asked, "sft.batch_size", length, never_packed=by_trl)
        else:
            self._micro(batch, asked, "sft.batch_size", step)
        if samples and steps:
            # Sampled once, read once as the reference by every training, then trained on.
            length, drawn = lengths.prompt + lengths.sample, self.rows * samples
            once = self.policy.forward(drawn * length, length, drawn * lengths.sample)
            trained = self.policy.forward(rows * samples * length, length, rows * samples * lengths.sample)
            stage.operations += once + times * (once + training.operations(trained))
            stage.decoded += once
            stage.decoding += self._decoding(drawn, settings.dft.sampling_batch_size)
        return stage

    def _sft(self) -> None:
        settings = self.recipe.sft
        self._sft_stage("sft", math.ceil(settings.epochs * self.rows / settings.batch_size), 1, settings.objective)

    def _generate(self, name: str, pairs: int, sampling: GenerationSettings) -> None:
        lengths, shape = self.lengths, self.policy
        length = lengths.prompt + lengths.sample
        operations = shape.forward(pairs * length, length, pairs * lengths.sample)
        # A token is written as its id, with this mean number of digits, a comma and a blank.
        longest = len(str(shape.vocabulary - 1))
        token = longest - sum(10**digits for digits in range(1, longest)) / shape.vocabulary + 2
        batch = self._rows(sampling, shape.parameters * self.bytes)
        rows = min(batch, pairs)
        self._add(
            name,
            shape,
            tokens=pairs * lengths.sample,
            operations=operations,
            decoded=operations,
            decoding=self._decoding(pairs, batch, sampling.engine),
            memory=shape.parameters * self.bytes + cache_bytes(shape, rows, self.longest, self.bytes) + self.overhead,
            disk=pairs * (RECORD + token * length),
            advice=f"{name.split('_')[0]}.sampling.batch_size",
            share=self._reading(shape, length),
        )

    def _rows(self, sampling: SamplingSettings, held: float) -> int:
        """Rows that the policy decodes at the same time, where weights take so many bytes."""
        by_vllm = isinstance(sampling, GenerationSettings) and sampling.engine == "vllm"
        if sampling.batch_size != "auto" and not by_vllm:  # vLLM does not read it
            return sampling.batch_size
        if self.on_cpu:
            return ROWS
        free = self.device.memory - held - self.overhead
        return fitting_rows(self.policy, self.longest, MEMORY_SHARE * free, self.bytes)

    def _decoding(self, rows: int, batch: int, engine: str = "torch") -> float:
        """Seconds of one device for so many responses.

        vLLM, and our own loop with models that are not small, give the row of an ended response to a waiting prompt.
        """
        lengths, limit = self.lengths, float(self.recipe.template.max_response_tokens)
        by_vllm = engine == "vllm"
        return decoding_seconds(
            self.policy,
            rows,
            batch,
            lengths.prompt,
            lengths.sample,
            self.bytes,
            self.device,
            self._share(Way(True, False, 0), self.policy) if self.on_cpu else self.speeds.decoding,
            longest=max(limit, lengths.sample),
            refilled=by_vllm or self.policy.parameters >= REFILL_FROM,
            host=0.0 if by_vllm or self.on_cpu else HOST * self.policy.layers,
        )

    def _reading(self, shape: Shape, length: float) -> float:
        """Share of the peak that forward passes over many dialogues reach."""
        return self._share(Way(True, False, READ_AT_ONCE * length), shape)

    def _irft(self, key: str, part: str) -> None:
        settings, lengths, shape = self.recipe.irft, self.lengths, self.policy
        pairs = self._pairs(part, settings.sampling.samples_per_prompt, "irft")
        self._generate(f"irft_generate@{key}", pairs, settings.sampling)
        samples = settings.sampling.samples_per_prompt
        rows = pairs // samples
        training, run = settings.training, settings.training.epochs * rows
        how = self._training(shape, training)
        responses = lengths.response + samples * lengths.sample
        forward = shape.forward((1 + samples) * lengths.prompt + responses, self._sequence(), responses)
        limit = self.recipe.template.max_response_tokens
        weights = how.weights()
        initial = weights if training.reference == "initial" else 0.0
        initial += self._earlier(f"irft_train@{key}", how, training)
        step = self._step(how, 1 + samples, limit, initial, in_chunks=True)
        if step.copies and training.reference == "initial" and how.frozen == WEIGHT:
            step = replace(step, others=initial + COPY * shape.parameters)  # as in irft_round
        steps = math.ceil(run / training.batch_size)
        stage = self._add(
            f"irft_train@{key}",
            shape,
            trained=how.trained,
            steps=steps,
            tokens=run * responses,
            # The reference's log-probabilities are computed once, before the first step.
            operations=rows * forward + how.operations(run * forward),
            disk=kept_bytes(self.recipe, self.graph, f"irft_train@{key}", shape),
            advice="irft.training.micro_batch_size, gradient_checkpointing, lora",
        )
        batch, asked = training.batch_size, training.micro_batch_size
        self._passes(stage, step, batch, asked, "irft.training.batch_size", self._sequence())
        # The reference reads all pairs before training starts.
        stage.memory = max(stage.memory, weights + initial + self._read(shape) + self.overhead)
        self._count("irft", steps, run * responses)

    def _sequence(self) -> float:
        return self.lengths.prompt + (self.lengths.response + self.lengths.sample) / 2

    def _count(self, method: str, steps: int, tokens: float) -> None:
        before = self._methods[method]
        self._methods[method] = (before[0] + steps, before[1] + tokens)

    def _rft(self, key: str, part: str) -> None:
        settings, lengths = self.recipe.rft, self.lengths
        pairs = self._pairs(part, settings.sampling.samples_per_prompt, "rft")
        self._generate(f"rft_generate@{key}", pairs, settings.sampling)
        learning, run = settings.reward, settings.reward.epochs * pairs
        how = self._training(self.reward, learning, learning.frozen_blocks)
        responses = lengths.response + lengths.sample
        forward = self.reward.forward(2 * lengths.prompt + responses, self._sequence(), 2)
        step = self._step(how, 2, 0, in_chunks=True)
        steps = math.ceil(run / learning.batch_size)
        stage = self._add(
            f"rft_reward@{key}",
            self.reward,
            trained=how.trained,
            steps=steps,
            tokens=run * responses,
            operations=pairs * forward + how.operations(run * forward),
            disk=kept_bytes(self.recipe, self.graph, f"rft_reward@{key}", self.reward),
            advice="rft.reward.micro_batch_size, gradient_checkpointing, frozen_blocks",
        )
        batch, asked = learning.batch_size, learning.micro_batch_size
        self._passes(stage, step, batch, asked, "rft.reward.batch_size", self._sequence())
        self._count("rft", steps, run * responses)
        self._alignment(key)

    def _alignment(self, key: str) -> None:
        settings, lengths, shape = self.recipe.rft.policy, self.lengths, self.policy
        how = self._training(shape, settings)
        each = settings.prompts_per_step * settings.samples_per_prompt
        samples, length = settings.steps * each, lengths.prompt + lengths.sample
        forward = shape.forward(samples * length, length, samples * lengths.sample)
        reward = self.reward.forward(samples * length, length, samples)
        # On a CPU their pages are dropped before training goes on (`juicer.models.mapped`).
        others = CPU_RLOO if self._alone_on_cpu else shape.parameters * WEIGHT + self.reward.parameters * self.bytes
        if how.lora:
            reference = shape.parameters * how.frozen if settings.kl_coefficient else 0.0
            others += self._earlier(f"rft_policy@{key}", how, settings) + reference - shape.parameters * WEIGHT
        beside = 0.0
        if settings.engine == "vllm" and not self.on_cpu and self.recipe.rft.optimiser == "rloo":
            rows = math.ceil(each / self.devices)  # as juicer.sampling.renewed has it
            cache = cache_bytes(shape, rows, self.longest, self.bytes)
            beside = shape.parameters * self.bytes + cache + ROOM
            if settings.lora is not None and self.bytes < WEIGHT:
                earlier = self._earlier(f"rft_policy@{key}", how, settings) / (COPY * shape.adapters)
                beside += roomy_rank(settings.lora.r + round(earlier)) * shape.adapters * self.bytes
        limit = self.recipe.template.max_response_tokens
        alone = self.packed and self.devices == 1 and not self.zero  # packs by itself (`_align_policy`)
        step = self._step(how, 1, limit, others + beside, in_chunks=self._alone_on_cpu or alone)
        step = replace(step, copies=False)  # over float32 weights, under autocast
        batch, engine = "rft.policy.prompts_per_step * samples_per_prompt", settings.engine
        stage = self._add(
            f"rft_policy@{key}",
            shape,
            trained=how.trained,
            steps=settings.steps,
            tokens=samples * lengths.sample,
            # Sampled, read by the reward and by the reference, then trained on.
            operations=forward + reward + forward + how.operations(forward),
            decoded=forward,
            decoding=settings.steps * self.devices * self._decoding(math.ceil(each / self.devices), each, engine),
            disk=kept_bytes(self.recipe, self.graph, f"rft_policy@{key}", shape),
            beside=beside,
            advice="rft.policy.micro_batch_size, gradient_checkpointing" + ", engine" * bool(beside),
        )
        # TRL's RLOO pads its rows.
        self._passes(stage, step, each, settings.micro_batch_size, batch, length, never_packed=True)
        self._count("rft", settings.steps, samples * lengths.sample)

    def _control(self) -> None:
        settings = self.recipe.sft_matched
        rates, objective = len(settings.learning_rates), settings.objective or self.recipe.sft.objective
        budgets = [(settings.steps or 0, float(settings.response_tokens or 0)), *self._methods.values()]
        tokens = max(used[1] for used in budgets)
        by_tokens = math.ceil(tokens / (self._sft_batch() * self._sft_tokens(objective)))
        steps = max(by_tokens, *(used[0] for used in budgets))
        control = self._sft_stage("sft_matched@control", steps, rates, objective)
        if rates > 1:
            judged = self._evaluation(self._prompts(settings.prompts)[1], is_sft=True)
            control.operations += rates * judged.operations
            control.decoded += rates * judged.decoded
            control.decoding += rates * judged.decoding

    def _evaluation(self, prompts: int, *, is_sft: bool) -> StagePlan:
        """The cost of an evaluation: sample, compute log-probabilities by policy and SFT policy, score the samples."""
        settings, lengths, shape = self.recipe.evaluation, self.lengths, self.policy
        length = lengths.prompt + lengths.sample
        decoded = shape.forward(prompts * length, length, prompts * lengths.sample)
        read = (2.0 if is_sft else 3.0) * shape.forward(
            prompts * (2 * lengths.prompt + lengths.sample + lengths.response),
            self._sequence(),
            prompts * lengths.sample,
        )
        models = shape.parameters * (1 if is_sft else 2)
        for scorer in (self.scorer, self.judge):
            if scorer is not None:
                read += scorer.forward(prompts * length, length, prompts)
                models += scorer.parameters
        batch = self._rows(settings.sampling, models * self.bytes)
        rows = min(batch, prompts)
        return StagePlan(
            "",
            shape.name,
            shape.parameters,
            tokens=prompts * lengths.sample,
            operations=decoded + read,
            decoded=decoded,
            decoding=self._decoding(prompts, batch),
            memory=models * self.bytes
            + max(cache_bytes(shape, rows, self.longest, self.bytes), self._read(shape))
            + self.overhead,
            advice="evaluation.sampling.batch_size",
            share=self._reading(shape, length),
        )

    def _prompts(self, most: int | None) -> tuple[int, int]:
        """Held-out prompts, and validation prompts; of each as many as `most`, or all."""
        if most is not None:
            return most, most
        return evaluated_rows(self.recipe, self.available or self.rows)

    def _evaluate(self, name: str, *, is_sft: bool) -> None:
        stage = self._evaluation(sum(self._prompts(self.recipe.evaluation.prompts)), is_sft=is_sft)
        stage.name = name
        self.stages.append(stage)


def check_memory(
    stages: list[StagePlan],
    device: Device,
    gpu: str,
    instead: Callable[[], str] = lambda: "a larger GPU",
    *,
    sharded: bool = True,
) -> None:
    """Refuse a plan that does not fit into the memory of a device.

    Args:
        instead: says what would fit; only asked where this does not.
        sharded: whether more processes have more memory, which those of one machine's CPU share.

    Raises:
        InputError: names the stage that needs most memory, how much it needs and how much there is.
    """
    worst = max(stages, key=lambda stage: stage.memory)
    if worst.memory > device.memory:
        needed, there = f"{worst.memory / GIB:.1f} GiB per device", f"{device.memory / GIB:.0f} GiB"
        what = f"{worst.name} needs {needed}, but {gpu} has {there}"
        # Only training is sharded; models that are only read are whole on every device.
        sharding = "compute.processes, compute.zero_stage, " if worst.trained and sharded else ""
        raise InputError(what, do=f"use {instead()}, or change {sharding}{worst.advice}")
