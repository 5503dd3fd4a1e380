"""What a recipe will cost, without weights and without a network; refuses what cannot fit (`juicer plan`)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from juicer.data.sources import SourceFile, files_of, is_path, rows_of
from juicer.models.configuration import read_config, shrunk
from juicer.planning.costs import (
    OVERHEAD,
    WEIGHT,
    Role,
    Shape,
    Training,
    cache_bytes,
    decoding_seconds,
    logit_bytes,
    shape_of,
    training_of,
)
from juicer.quickstart.pretraining import policy_config, scorer_config
from juicer.recipe.activation import existing, load
from juicer.recipe.graph import SFT, WORLD_POLICY, WORLD_SCORER, Graph, config_of
from juicer.recipe.schema import Recipe
from juicer.runtime.devices import DEVICES, GIB, Device
from juicer.runtime.errors import InputError, nearest
from juicer.runtime.files import read_json
from juicer.settings.training import SamplingSettings

RECORD = 110
"""Bytes of a sample's line besides its tokens."""
READ_AT_ONCE, TRAINED_AT_ONCE = 64, 16
"""Dialogues whose log-probabilities are computed at once: where nothing is trained, and in IRFT."""


@dataclass(frozen=True)
class Lengths:
    """Mean lengths in tokens; without better knowledge the template's limits, an upper bound."""

    prompt: float
    response: float
    """Of a demonstration."""
    sample: float
    """Of a policy's own response."""


@dataclass
class StagePlan:
    """What one stage costs."""

    name: str
    model: str
    parameters: int = 0
    trained: int = 0
    steps: int = 0
    """Optimiser steps: K of a round."""
    tokens: float = 0
    """Response tokens, sampled or trained on, as the stage records them."""
    operations: float = 0
    decoding: float = 0
    """Seconds of one device that decodes alone; its operations are part of `operations` too."""
    decoded: float = 0
    """Operations that `decoding` covers."""
    memory: float = 0
    """Bytes per device at the peak."""
    disk: float = 0
    """Bytes of the stage's outputs."""
    advice: str = ""
    """What makes it need less memory."""

    def hours(self, device: Device, devices: int, utilisation: float) -> float:
        """Work divides over devices without loss."""
        computing = (self.operations - self.decoded) / (device.operations * utilisation)
        return (computing + self.decoding) / devices / 3600


class Planner:
    """Walks the graph of a recipe and adds up what each stage costs.

    Args:
        recipe: validated.
        graph: derived from it.
        device: on which it is to run.
        utilisation: share of the device's peak that is reached.
        lengths: None takes the template's limits.
    """

    def __init__(
        self, recipe: Recipe, graph: Graph, device: Device, utilisation: float, lengths: Lengths | None
    ) -> None:
        limits = recipe.template
        self.recipe, self.graph, self.device, self.utilisation = recipe, graph, device, utilisation
        longest = float(limits.max_prompt_tokens), float(limits.max_response_tokens)
        self.lengths = lengths or Lengths(longest[0], longest[1], longest[1])
        self.longest = sum(longest)
        """Tokens of the longest dialogue: memory has to suffice for it."""
        self.devices, self.zero = recipe.compute.processes, recipe.compute.zero_stage
        self.bytes = 4 if recipe.compute.precision == "fp32" or recipe.compute.device == "cpu" else 2
        self.policy = self._shape(recipe.policy.model, "policy", "policy.model")
        self.scorer = None
        if recipe.scorer.kind != "none":
            self.scorer = self._shape(str(recipe.scorer.model), "scorer", "scorer.model")
        self.reward = self._shape(recipe.rft.reward.model or recipe.policy.model, "reward", "rft.reward.model")
        self.available = self._available()
        self.rows = self._rows()
        self.stages: list[StagePlan] = []
        self._methods: dict[str, tuple[int, float]] = {"irft": (0, 0.0), "rft": (0, 0.0)}
        """Steps and response tokens of each method, which the control is given too."""

    def plan(self) -> list[StagePlan]:
        """All stages that compute or store something, in their order."""
        self._check_lengths()
        for name in self.graph.downloads:
            shape = self.scorer if name == "scorer" and self.scorer else self.policy
            if name == "reward":  # downloaded with the output head that a reward does not have
                shape = self._shape(str(self.recipe.rft.reward.model), "policy", "rft.reward.model")
            self._add(f"download@{name}", shape, disk=shape.parameters * 2.0)
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
        return self.stages

    def _shape(self, model: str, role: Role, key: str) -> Shape:
        pretrain = self.recipe.pretrain
        if pretrain is not None and model == WORLD_POLICY:
            return shape_of("world", policy_config(pretrain.policy, pretrain.policy.vocabulary), role)
        if pretrain is not None and model == WORLD_SCORER:
            return shape_of("world", scorer_config(pretrain.scorer, pretrain.policy, pretrain.policy.vocabulary), role)
        path = config_of(model, key)
        _, config = read_config(path)
        if self.recipe.tiny is not None:
            vocabulary = self.recipe.tiny.vocabulary
            config.update(shrunk(config, self.recipe.tiny, vocabulary, 2 * int(self.longest)))
            config.pad_token_id = None  # the real one is no token of so small a vocabulary
        return shape_of(Path(model).name, config, role)

    def _available(self) -> int | None:
        """Rows to train on; None where nobody knows."""
        fetch, curate = self.recipe.fetch, self.recipe.curate
        if fetch.rows is not None or fetch.source == "world" or not is_path(fetch.source):
            return fetch.rows
        files = files_of(fetch.source)
        rows = sum(count_rows(file) for file in files if not file.held_out)
        if curate.keep is not None and curate.keep > rows:
            what = f"curate.keep = {curate.keep}, but {fetch.source} has {rows} rows"
            raise InputError(what, do="lower it, or set it to null to keep all")
        held_out = 0 if any(file.held_out for file in files) else curate.held_out_share
        return round(rows * (1 - curate.validation_share - held_out))

    def _rows(self) -> int:
        fetch, keep = self.recipe.fetch, self.recipe.curate.keep
        if keep is None and self.available is None:
            raise InputError("curate.keep is null: nobody knows how many rows there are", do="set fetch.rows")
        if keep is not None and fetch.rows is not None and keep > fetch.rows:
            raise InputError(f"curate.keep = {keep}, but the source has {fetch.rows} rows (fetch.rows)")
        return keep or self.available or 0

    def _check_lengths(self) -> None:
        limits = self.recipe.template
        for shape, key in ((self.policy, "policy.model"), (self.reward, "rft.reward.model")):
            if (key == "policy.model" or self.graph.rft) and self.longest > shape.positions:
                what = (
                    f"template.max_prompt_tokens + max_response_tokens = {limits.max_prompt_tokens} + "
                    f"{limits.max_response_tokens} = {self.longest:.0f} exceeds the {shape.positions} positions of "
                    f"{shape.name}"
                )
                raise InputError(what, where=key, do="lower one of the two")

    def _add(self, name: str, shape: Shape, **costs: Any) -> StagePlan:
        stage = StagePlan(name, shape.name, shape.parameters, **costs)
        self.stages.append(stage)
        return stage

    def _pairs(self, part: str, samples: int, method: str) -> int:
        """Pairs of a round: `part` is "all" or "i/n", as juicer.data.pairs.part_of cuts."""
        if part == "all":
            return self.rows * samples
        index, count = map(int, part.split("/"))
        if self.rows < count:
            what = f"{self.rows} demonstrations cannot be split over {count} parts"
            raise InputError(what, where=f"{method}.rounds", do="lower the rounds")
        return (index * self.rows // count - (index - 1) * self.rows // count) * samples

    def _micro(self, batch: int, micro: int | None, key: str) -> int:
        """Rows of one forward pass of a device."""
        if batch < self.devices:
            raise InputError(
                f"{key} = {batch} leaves devices idle: compute.processes = {self.devices}", do="change either"
            )
        return min(micro or batch, math.ceil(batch / self.devices))

    def _trained(
        self, training: Training, sequences: int, head: float, others: float = 0, *, in_chunks: bool = False
    ) -> float:
        """Peak bytes per device of a training stage.

        Args:
            sequences: of one forward pass; all as long as the template allows.
            head: positions of each that reach the output head.
            others: bytes of models that are only read.
            in_chunks: the logits of a group of sequences are computed in chunks, as IRFT does.
        """
        kept = training.shape.activations(sequences * self.longest, self.bytes, recomputed=training.recomputed)
        groups = math.ceil(sequences / TRAINED_AT_ONCE) if in_chunks else None
        kept += logit_bytes(training.shape, sequences * head, groups)
        if self.bytes < WEIGHT and not training.recomputed and self.zero < 3:
            kept += training.shape.parameters * self.bytes  # the backward pass takes the matrices as they were cast
        return training.memory(self.devices, self.zero) + kept + others + OVERHEAD

    def _read(self, shape: Shape) -> float:
        """Bytes that log-probabilities of many dialogues take, besides the weights."""
        limit = self.recipe.template.max_response_tokens
        return logit_bytes(shape, READ_AT_ONCE * limit, 1) + shape.working(READ_AT_ONCE * self.longest, self.bytes)

    def _curate(self) -> None:
        if self.scorer is None:
            return
        length = self.lengths.prompt + self.lengths.response
        read = max(self.available or 0, self.rows)
        working = self.scorer.working(self.recipe.scorer.batch_size * self.longest, self.bytes)
        memory = self.scorer.parameters * self.bytes + working + OVERHEAD
        # Curation is one process, so its work is not divided: `hours` divides by the devices.
        operations = self.devices * self.scorer.forward(read * length, length, read)
        curate = self._add("curate", self.scorer, tokens=read * self.lengths.response, operations=operations)
        curate.memory, curate.advice = memory, "scorer.batch_size"

    def _sft_training(self) -> Training:
        settings = self.recipe.sft
        return training_of(
            self.policy, settings.optimiser.name, lora=settings.lora, recomputed=settings.gradient_checkpointing
        )

    def _sft_batch(self) -> float:
        """Rows of a step of SFT on average: the last batch of an epoch is what is left."""
        return self.rows / math.ceil(self.rows / self.recipe.sft.batch_size)

    def _sft_stage(self, name: str, steps: int, times: int) -> StagePlan:
        settings, training, lengths = self.recipe.sft, self._sft_training(), self.lengths
        length, rows = lengths.prompt + lengths.response, steps * self._sft_batch()
        micro = self._micro(settings.batch_size, settings.micro_batch_size, "sft.batch_size")
        memory = self._trained(training, micro, self.longest)
        return self._add(
            name,
            self.policy,
            trained=training.trained if steps else 0,
            steps=steps,
            tokens=rows * lengths.response,
            operations=times * training.operations(self.policy.forward(rows * length, length)),
            memory=memory if steps else self.policy.parameters * WEIGHT + OVERHEAD,
            disk=self.policy.parameters * float(WEIGHT),
            advice="sft.micro_batch_size, sft.gradient_checkpointing, sft.lora",
        )

    def _sft(self) -> None:
        settings = self.recipe.sft
        self._sft_stage("sft", math.ceil(settings.epochs * self.rows / settings.batch_size), 1)

    def _generate(self, name: str, pairs: int, sampling: SamplingSettings) -> None:
        lengths, shape = self.lengths, self.policy
        length = lengths.prompt + lengths.sample
        operations = shape.forward(pairs * length, length, pairs * lengths.sample)
        # A token is its number, of so many digits on average, a comma and a blank.
        longest = len(str(shape.vocabulary - 1))
        token = longest - sum(10**digits for digits in range(1, longest)) / shape.vocabulary + 2
        rows = min(sampling.batch_size, pairs)
        self._add(
            name,
            shape,
            tokens=pairs * lengths.sample,
            operations=operations,
            decoded=operations,
            decoding=self._decoding(pairs, sampling.batch_size),
            memory=shape.parameters * self.bytes + cache_bytes(shape, rows, self.longest, self.bytes) + OVERHEAD,
            disk=pairs * (RECORD + token * length),
            advice=f"{name.split('_')[0]}.sampling.batch_size",
        )

    def _decoding(self, rows: int, batch: int) -> float:
        lengths = self.lengths
        return decoding_seconds(
            self.policy, rows, batch, lengths.prompt, lengths.sample, self.bytes, self.device, self.utilisation
        )

    def _irft(self, key: str, part: str) -> None:
        settings, lengths, shape = self.recipe.irft, self.lengths, self.policy
        pairs = self._pairs(part, settings.sampling.samples_per_prompt, "irft")
        self._generate(f"irft_generate@{key}", pairs, settings.sampling)
        training, run = settings.training, settings.training.epochs * pairs
        how = training_of(
            shape, training.optimiser.name, lora=training.lora, recomputed=training.gradient_checkpointing
        )
        responses = lengths.response + lengths.sample
        forward = shape.forward(2 * lengths.prompt + responses, self._sequence(), responses)
        micro = self._micro(training.batch_size, training.micro_batch_size, "irft.training.batch_size")
        limit = self.recipe.template.max_response_tokens
        weights = float(shape.parameters * WEIGHT)
        initial = weights if training.reference == "initial" else 0.0
        # The reference reads all pairs before training starts.
        memory = self._trained(how, 2 * micro, limit, initial, in_chunks=True)
        memory = max(memory, weights + initial + self._read(shape) + OVERHEAD)
        steps = math.ceil(run / training.batch_size)
        self._add(
            f"irft_train@{key}",
            shape,
            trained=how.trained,
            steps=steps,
            tokens=run * responses,
            # The reference's log-probabilities are computed once, before the first step.
            operations=pairs * forward + how.operations(run * forward),
            memory=memory,
            disk=shape.parameters * float(WEIGHT),
            advice="irft.training.micro_batch_size, gradient_checkpointing, lora",
        )
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
        how = training_of(
            self.reward,
            learning.optimiser.name,
            frozen_blocks=learning.frozen_blocks,
            recomputed=learning.gradient_checkpointing,
        )
        responses = lengths.response + lengths.sample
        forward = self.reward.forward(2 * lengths.prompt + responses, self._sequence(), 2)
        micro = self._micro(learning.batch_size, learning.micro_batch_size, "rft.reward.batch_size")
        memory = self._trained(how, 2 * micro, 0)
        steps = math.ceil(run / learning.batch_size)
        self._add(
            f"rft_reward@{key}",
            self.reward,
            trained=how.trained,
            steps=steps,
            tokens=run * responses,
            operations=pairs * forward + how.operations(run * forward),
            memory=memory,
            disk=self.reward.parameters * float(WEIGHT),
            advice="rft.reward.micro_batch_size, gradient_checkpointing, frozen_blocks",
        )
        self._count("rft", steps, run * responses)
        self._alignment(key)

    def _alignment(self, key: str) -> None:
        settings, lengths, shape = self.recipe.rft.policy, self.lengths, self.policy
        how = training_of(shape, settings.optimiser.name, recomputed=settings.gradient_checkpointing)
        each = settings.prompts_per_step * settings.samples_per_prompt
        samples, length = settings.steps * each, lengths.prompt + lengths.sample
        forward = shape.forward(samples * length, length, samples * lengths.sample)
        reward = self.reward.forward(samples * length, length, samples)
        micro = self._micro(each, settings.micro_batch_size, "rft.policy.prompts_per_step * samples_per_prompt")
        others = shape.parameters * WEIGHT + self.reward.parameters * self.bytes
        limit = self.recipe.template.max_response_tokens
        memory = self._trained(how, micro, limit, others)
        self._add(
            f"rft_policy@{key}",
            shape,
            trained=how.trained,
            steps=settings.steps,
            tokens=samples * lengths.sample,
            # Sampled, read by the reward and by the reference, then trained on.
            operations=forward + reward + forward + how.operations(forward),
            decoded=forward,
            decoding=settings.steps * self.devices * self._decoding(math.ceil(each / self.devices), each),
            memory=memory,
            disk=shape.parameters * float(WEIGHT),
            advice="rft.policy.micro_batch_size, gradient_checkpointing",
        )
        self._count("rft", settings.steps, samples * lengths.sample)

    def _control(self) -> None:
        rates = len(self.recipe.sft_matched.learning_rates)
        tokens = max(used[1] for used in self._methods.values())
        by_tokens = math.ceil(tokens / (self._sft_batch() * self.lengths.response))
        steps = max(by_tokens, *(used[0] for used in self._methods.values()))
        control = self._sft_stage("sft_matched@control", steps, rates)
        if rates > 1:
            judged = self._evaluation(1, is_sft=True)
            control.operations += rates * judged.operations
            control.decoded += rates * judged.decoded
            control.decoding += rates * judged.decoding

    def _evaluation(self, splits: int, *, is_sft: bool) -> StagePlan:
        """Sample, read demonstration, sample and rejected response by policy and SFT policy, score the sample."""
        settings, lengths, shape = self.recipe.evaluation, self.lengths, self.policy
        if settings.prompts is None:
            raise InputError("evaluation.prompts is null: nobody knows how many there are", do="set it")
        prompts = splits * settings.prompts
        length = lengths.prompt + lengths.sample
        decoded = shape.forward(prompts * length, length, prompts * lengths.sample)
        read = (2.0 if is_sft else 3.0) * shape.forward(
            prompts * (2 * lengths.prompt + lengths.sample + lengths.response),
            self._sequence(),
            prompts * lengths.sample,
        )
        models = shape.parameters * (1 if is_sft else 2)
        if self.scorer is not None:
            read += self.scorer.forward(prompts * length, length, prompts)
            models += self.scorer.parameters
        rows = min(settings.sampling.batch_size, prompts)
        return StagePlan(
            "",
            shape.name,
            shape.parameters,
            tokens=prompts * lengths.sample,
            operations=decoded + read,
            decoded=decoded,
            decoding=self._decoding(prompts, settings.sampling.batch_size),
            memory=models * self.bytes
            + max(cache_bytes(shape, rows, self.longest, self.bytes), self._read(shape))
            + OVERHEAD,
            advice="evaluation.sampling.batch_size",
        )

    def _evaluate(self, name: str, *, is_sft: bool) -> None:
        stage = self._evaluation(2, is_sft=is_sft)
        stage.name = name
        self.stages.append(stage)


def check_memory(stages: list[StagePlan], device: Device, gpu: str) -> None:
    """Refuse a plan that does not fit into a device.

    Raises:
        InputError: names the stage that needs most, what it needs and what there is.
    """
    worst = max(stages, key=lambda stage: stage.memory)
    if worst.memory > device.memory:
        what = f"{worst.name} needs {worst.memory / GIB:.1f} GiB per device, {gpu} has {device.memory / GIB:.0f}"
        # Only what trains is sharded; models that are read stand whole on every device.
        sharding = "compute.processes, compute.zero_stage, " if worst.trained else ""
        raise InputError(what, do=f"take a larger GPU, or change {sharding}{worst.advice}")


def format_plan(stages: list[StagePlan], device: Device, devices: int, utilisation: float) -> str:
    """The plan as a table of plain lines."""
    heads = ["stage", "model", "parameters", "trained", "steps", "tokens", "PFLOP", "GiB/device", "disk GB", "hours"]
    lines = [heads]
    for stage in stages:
        hours = stage.hours(device, devices, utilisation)
        lines.append(
            [
                stage.name,
                stage.model,
                f"{stage.parameters / 1e6:,.1f}M",
                f"{stage.trained / 1e6:,.1f}M" if stage.trained else "-",
                f"{stage.steps:,}" if stage.steps else "-",
                f"{stage.tokens / 1e6:,.2f}M" if stage.tokens else "-",
                f"{stage.operations / 1e15:,.1f}" if stage.operations else "-",
                f"{stage.memory / GIB:.1f}" if stage.memory else "-",
                f"{stage.disk / 1e9:.2f}" if stage.disk else "-",
                f"{hours:.2f}" if hours else "-",
            ]
        )
    hours = sum(stage.hours(device, devices, utilisation) for stage in stages)
    total = [
        f"{sum(stage.steps for stage in stages):,}",
        f"{sum(stage.tokens for stage in stages) / 1e6:,.2f}M",
        f"{sum(stage.operations for stage in stages) / 1e15:,.1f}",
        f"{max(stage.memory for stage in stages) / GIB:.1f}",
        f"{sum(stage.disk for stage in stages) / 1e9:.2f}",
        f"{hours:.2f}",
    ]
    lines.append(["total", "", "", "", *total])
    return _aligned(lines)


def _aligned(lines: list[list[str]]) -> str:
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place > 1 else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def count_rows(file: SourceFile) -> int:
    """Rows of a local file, malformed ones included; where that suffices its lines are counted, and not read."""
    if file.path.name.endswith(".parquet"):
        from pyarrow import parquet

        return int(parquet.read_metadata(file.path).num_rows)
    if not file.path.name.endswith(".jsonl"):
        return sum(1 for _ in rows_of(file.path, file.name))
    with file.path.open("rb") as lines:
        return sum(1 for line in lines if line.strip())


def outputs_of(graph: Graph) -> dict[str, Path]:
    """Where the stages that a plan counts leave what can be compared with it."""
    found = {"sft": Path(SFT), "sft_matched@control": Path("models/sft-matched")}
    for key in graph.irft:
        found[f"irft_train@{key}"] = Path("models/irft", key)
        found[f"irft_generate@{key}"] = Path(f"data/samples/irft-{key}.jsonl")
    for key in graph.rft:
        found[f"rft_reward@{key}"] = Path("models/rft", key, "reward")
        found[f"rft_policy@{key}"] = Path("models/rft", key, "policy")
        found[f"rft_generate@{key}"] = Path(f"data/samples/rft-{key}.jsonl")
    return found


def measured(output: Path) -> dict[str, float]:
    """What a finished stage left: parameters, steps, response tokens and bytes, as far as its output tells."""
    from safetensors import safe_open

    from juicer.data.samples import read_samples

    if output.suffix == ".jsonl":
        return {"tokens": sum(len(sample.response) for sample in read_samples(output)), "disk": output.stat().st_size}
    record = read_json(output / "training.json")
    weights = list(output.glob("*.safetensors"))
    parameters = 0
    for path in weights:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118  not a mapping
                parameters += math.prod(file.get_slice(key).get_shape())
    return {
        "parameters": parameters,
        "steps": record["steps"],
        "tokens": record["response_tokens"],
        "disk": sum(path.stat().st_size for path in weights),
    }


def measured_lengths(recipe: Recipe, graph: Graph) -> Lengths:
    """Mean lengths of the curated demonstrations, and of the samples of the first round there is."""
    from juicer.data import demonstrations
    from juicer.data.samples import read_samples
    from juicer.models.loading import load_template

    template = load_template(Path(graph.base), recipe.template)
    rows = list(demonstrations.read(Path("data/curated/train.jsonl")))
    prompt = sum(len(template.prompt(row.prompt)) for row in rows) / len(rows)
    response = sum(len(template.response(row.prompt, row.response)) for row in rows) / len(rows)
    samples = [path for path in (Path(f"data/samples/{kind}-r1.jsonl") for kind in ("irft", "rft")) if path.is_file()]
    if not samples:
        return Lengths(prompt, response, response)
    drawn = read_samples(samples[0])
    return Lengths(prompt, response, sum(len(sample.response) for sample in drawn) / len(drawn))


def compare(stages: list[StagePlan], graph: Graph) -> list[tuple[str, str, float, float]]:
    """(stage, quantity, planned, measured) of everything that a finished run in this folder left."""
    outputs = outputs_of(graph)
    pairs = []
    for stage in stages:
        output = outputs.get(stage.name)
        if output is not None and output.exists():
            for quantity, value in measured(output).items():
                pairs.append((stage.name, quantity, float(getattr(stage, quantity)), float(value)))
    return pairs


def format_comparison(pairs: list[tuple[str, str, float, float]]) -> str:
    """Planned and measured side by side."""
    lines = [["stage", "quantity", "planned", "measured", "ratio"]]
    for stage, quantity, planned, found in pairs:
        ratio = f"{planned / found:.3f}" if found else "-"
        lines.append([stage, quantity, f"{planned:,.0f}", f"{found:,.0f}", ratio])
    return _aligned(lines)


@dataclass(frozen=True)
class Assumptions:
    """What a plan assumes beside the recipe."""

    gpu: str = "H100"
    """A name in DEVICES."""
    utilisation: float = 0.4
    """Share of the GPU's peak that training reaches."""
    prompt_tokens: float | None = None
    """Mean lengths in tokens; None takes the template's limits, and for samples that of responses."""
    response_tokens: float | None = None
    sample_tokens: float | None = None

    def lengths(self, recipe: Recipe) -> Lengths:
        """Mean lengths of the recipe's dialogues."""
        response = self.response_tokens or recipe.template.max_response_tokens
        prompt = self.prompt_tokens or recipe.template.max_prompt_tokens
        return Lengths(prompt, response, self.sample_tokens or response)


def device_named(name: str) -> Device:
    """The device called `name`.

    Raises:
        InputError: there is none; names the nearest.
    """
    if name not in DEVICES:
        near = nearest(name, DEVICES, cutoff=0.3)
        raise InputError(f"no GPU called {name!r} is known", where="--gpu", do=f"did you mean {near}?" if near else "")
    return DEVICES[name]


def show(path: Path, overrides: Sequence[str], assumed: Assumptions, *, tiny: bool = False, measured: bool) -> None:
    """Plan, print, and refuse what does not fit.

    Args:
        path: the recipe's file.
        overrides: changes to it, each `key=value`.
        tiny: plan the recipe scaled down.
        measured: take the mean lengths from what a finished run left in this folder, and compare the plan with it.
    """
    device = device_named(assumed.gpu)
    if not 0 < assumed.utilisation <= 1:
        raise InputError(f"--utilisation is {assumed.utilisation}", do="give a share above 0 and at most 1")
    recipe, graph = load(existing(path), overrides, tiny=tiny, pinned=False)
    lengths = measured_lengths(recipe, graph) if measured else assumed.lengths(recipe)
    planner = Planner(recipe, graph, device, assumed.utilisation, lengths)
    stages = planner.plan()
    print(f"Recipe {recipe.name}: {planner.devices} x {assumed.gpu}, ZeRO stage {planner.zero}, ", end="")
    print(f"{assumed.utilisation:.0%} of {device.operations / 1e12:.0f} TFLOP/s and {device.bandwidth / 1e12:.2f} TB/s")
    print(f"{planner.rows:,} demonstrations; mean tokens: prompt {lengths.prompt:.0f}, ", end="")
    print(f"response {lengths.response:.0f}, sample {lengths.sample:.0f}\n")
    print(format_plan(stages, device, planner.devices, assumed.utilisation))
    unpinned = [name for name, each in graph.downloads.items() if not each.revision]
    print(f"\nNot pinned yet: {', '.join(unpinned)}. " if unpinned else "\n", end="")
    print("Not counted: the leaderboard. Disk: the outputs once; DVC's cache holds them once more.")
    if measured:
        print("\n" + format_comparison(compare(stages, graph)))
    check_memory(stages, device, assumed.gpu)
