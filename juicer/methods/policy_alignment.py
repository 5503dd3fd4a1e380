"""Policy alignment of RFT: maximise E[r] - beta KL(pi || pi_0) by RLOO (TRL), started at the current policy.

RLOO optimises exactly this objective: the reward of the whole response, minus beta [log pi - log pi_0].

Pitfall: with adapters TRL takes the policy without them as the reference of the KL term. That is pi_t, where the round
started, so pi_0 is loaded here and given to the trainer (`refer_to`).
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from juicer.data.demonstrations import Message
from juicer.data.dialogues import Dialogue
from juicer.data.template import Template
from juicer.methods.objectives import normalise
from juicer.methods.reading import RewardReader
from juicer.methods.reward import score_rewards
from juicer.models.casts import WeightCasts
from juicer.models.folder import base_record
from juicer.models.forks import Fork, ForkBatch, fork_features, forks_are_faster
from juicer.models.forward import features
from juicer.models.loading import load_policy, lower_precision, mixed_precision, skip_deepspeed_import
from juicer.models.log_probability import Batch, apply_to_logits, dialogues_of, length_sorted_batches
from juicer.models.mapped import release
from juicer.models.packing import PackedBatch, packed_attention_of, packed_features, packed_passes, padded_passes
from juicer.models.precision import training_compute
from juicer.models.shape import count_parameters
from juicer.runtime.context import LOCAL, WorkContext
from juicer.runtime.errors import InputError
from juicer.runtime.libraries import require
from juicer.runtime.memory import return_freed
from juicer.sampling.decoding import sample_responses
from juicer.sampling.renewed import RenewedSampler, check_agreement, renewed_sampler
from juicer.sampling.steppers import cache_of
from juicer.settings.compute import ComputeSettings
from juicer.settings.rft import PolicyAlignmentSettings
from juicer.settings.training import SamplingSettings
from juicer.training.adapters import frozen_weights, keep_masters, lora_config, merge_adapters
from juicer.training.backends import unshard
from juicer.training.memory import CPU_RLOO, micro_batch, step_of, weights_of
from juicer.training.passes import PADDED, passes_of
from juicer.training.record import TrainingRecord
from juicer.training.trainer import (
    LocalGpuRandomState,
    checkpoint_callbacks,
    deepspeed_arguments,
    on_single_cpu,
    progress_callback,
    saved_values,
    trainer_arguments,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOLERANCE = 1e-4
"""Largest difference, in nats, between a log-probability recorded while sampling and the one of a forward pass."""
CHECKED = 8
"""Number of recorded log-probabilities that each step compares with a forward pass, or few more."""
CURVES = {
    "loss": "loss",
    "reward": "reward",
    "kl_per_token": "kl",
    "entropy": "entropy",
    "length": "completions/mean_length",
}


def align_policy(
    policy: "PreTrainedModel",
    initial: Path,
    reward: "PreTrainedModel",
    normaliser: tuple[float, float],
    template: Template,
    prompts: Sequence[list[Message]],
    settings: PolicyAlignmentSettings,
    compute: ComputeSettings,
    seed: int,
    scratch: Path,
    context: WorkContext = LOCAL,
    *,
    reader: RewardReader | None = None,
) -> TrainingRecord:
    """Take `settings.steps` policy-gradient steps. Changes `policy` in place.

    Args:
        policy: pi_t, where the round starts.
        initial: folder of pi_0, the reference of the KL term in every round.
        reward: r_theta, read at the last real token, end-of-text included, as in its training.
        normaliser: mean and deviation of r_theta on the round's pairs.
        prompts: the round's prompts.
        context: the responses of each step are divided over its processes, whose number divides the responses.
        reader: how the reward reads a response; None for a reward with the policy's tokens.

    Returns:
        The record: reward, KL to pi_0, entropy and length per step.

    Raises:
        InputError: fewer prompts than a step takes, or a response that the reward cannot read.
    """
    require("trl")
    if len(prompts) < settings.prompts_per_step:
        do = "lower rft.policy.prompts_per_step"
        raise InputError(
            f"there are {len(prompts)} prompts, but a step of RLOO takes {settings.prompts_per_step}",
            where="rft_policy",
            do=do,
        )
    processes = context.processes
    latest = context.checkpoint.latest() if context.checkpoint else None
    saved: dict[str, Any] = {"step": 0, "response": 0} if latest is None else saved_values(latest, processes)
    length = max(len(template.prompt(prompt)) for prompt in prompts) + template.settings.max_response_tokens
    rows = settings.prompts_per_step * settings.samples_per_prompt // processes.world_size
    # An interrupted run goes on with the engine that it has begun with.
    asked = saved.get("engine", settings.engine)
    scratch.mkdir(parents=True, exist_ok=True)
    given = (asked, policy, compute, rows, length, scratch, processes, "rft.policy.engine", settings.lora)
    with renewed_sampler(*given) as renewed:
        context.note(engine=renewed.engine if renewed is not None else "torch")
        return _align_policy(
            policy,
            initial,
            reward,
            normaliser,
            template,
            prompts,
            settings,
            compute,
            seed,
            scratch,
            context,
            reader=reader or RewardReader(template),
            latest=latest,
            saved=saved,
            length=length,
            renewed=renewed,
        )


def _align_policy(
    policy: "PreTrainedModel",
    initial: Path,
    reward: "PreTrainedModel",
    normaliser: tuple[float, float],
    template: Template,
    prompts: Sequence[list[Message]],
    settings: PolicyAlignmentSettings,
    compute: ComputeSettings,
    seed: int,
    scratch: Path,
    context: WorkContext,
    *,
    reader: RewardReader,
    latest: Path | None,
    saved: dict[str, Any],
    length: int,
    renewed: RenewedSampler | None,
) -> TrainingRecord:
    """`align_policy`, where this is known too.

    Args:
        latest: folder of the state to resume from.
        saved: what is kept with it.
        length: tokens of the longest prompt and response together.
        renewed: what samples in place of our own decoding.
    """
    import datasets
    from transformers import PrinterCallback
    from trl.models.utils import prepare_deepspeed, unwrap_model_for_generation
    from trl.trainer.rloo_config import RLOOConfig
    from trl.trainer.rloo_trainer import RLOOTrainer
    from trl.trainer.utils import add_fused_lm_head, disable_dropout_in_model

    processes = context.processes
    training, casts = training_compute(compute, count_parameters(policy)), WeightCasts()
    passes, attention = passes_of(training, policy), policy.config._attn_implementation
    dropout = getattr(policy.config.get_text_config(decoder=True), "attention_dropout", 0.0) or 0.0
    if processes.world_size > 1 or processes.zero_stage or dropout:
        # Several processes take TRL's own passes, which shares the work. Packed attention has no dropout.
        passes = PADDED
    own_passes = passes.packed or on_single_cpu(policy, processes)
    # Each process samples its own responses.
    own = WorkContext(observers=context.observers)
    skip_deepspeed_import()
    datasets.disable_progress_bars()
    reward.eval()
    cache_of(policy)  # measured here, because DeepSpeed shards every model that is built after it has started
    mean, deviation = normaliser if settings.normalise_reward else (0.0, 1.0)
    tokens = {"response": saved["response"]}
    apart: list[float] = []
    orders = saved["step"] // max(1, len(prompts) // settings.prompts_per_step)

    known: dict[tuple[tuple[str, str], ...], list[int]] = {}

    def tokens_of(prompt: list[Message]) -> list[int]:
        key = tuple((turn["role"], turn["content"]) for turn in prompt)
        if key not in known:
            known[key] = template.prompt(prompt)
        return known[key]

    def learnt_reward(prompts: list[Any], completion_ids: list[list[int]], **_: Any) -> list[float | None]:
        both = zip(prompts, completion_ids, strict=True)
        if reader.text:
            dialogues = [reader.sample(*each) for each in both]
        else:
            dialogues = [Dialogue(tokens_of(prompt), response) for prompt, response in both]
        tokens["response"] += sum(map(len, completion_ids))
        values = normalise(group_rewards(reward, dialogues, reader.padding), mean, deviation)
        return [float(value) for value in values]

    class Trainer(LocalGpuRandomState, RLOOTrainer):
        """RLOO with our sampler: finished rows leave the batch, and every response has its own seed."""

        kept: tuple[Tensor, Tensor] | None = None
        """log pi and entropy of the rows whose loss is being computed, with gradient, if known already."""
        keeping: tuple[Tensor, Tensor] | None = None
        """The same of the rows that are being sampled."""
        recorded: Sequence[float] = ()
        """log pi of the responses as recorded while sampling."""

        def _tokenize_prompts(self, prompts: list[list[Message]]) -> tuple[list[list[int]], None, dict[str, Any]]:
            # TRL's way knows neither the arguments and the date of the template nor how the tokenizer begins a text.
            return [tokens_of(prompt) for prompt in prompts], None, {}

        def _generate_single_turn(self, prompt_ids: Any, images: Any, multimodal_fields: Any) -> list[list[int]]:
            # Equal prompts form a group; the position in the batch distinguishes the responses of a group.
            first = processes.rank * len(prompt_ids)
            named = [(f"{self.state.global_step}/{place}", prompt) for place, prompt in enumerate(prompt_ids, first)]
            sampling = SamplingSettings(temperature=settings.temperature, batch_size=len(named))
            return_freed()  # gradients of the last step, of other sizes than keys and values
            # Sharded weights are gathered for the block, so processes may take different numbers of decoding steps.
            # peft's wrapper is no model of transformers.
            with (
                unwrap_model_for_generation(self.model_wrapped, self.accelerator) as unwrapped,
                mixed_precision(compute),
                padded_passes(policy, attention) if passes.packed else nullcontext(),
            ):
                model = unwrapped if settings.lora is None else policy
                if renewed is not None:
                    renewed.renew(model)
                else:
                    samples = sample_responses(model, template, named, sampling, seed, own)
            if renewed is not None:
                samples = renewed.sample(template, named, sampling, seed, own)
            self.recorded = [sample.log_probability for sample in samples]
            return [sample.response for sample in samples]

        def _get_per_token_logps_and_entropies(
            self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, *rest: Any, **more: Any
        ) -> Any:
            found = self._read_rows(model, input_ids, attention_mask, logits_to_keep, *rest, **more)
            first = model is not self.ref_model and not torch.is_grad_enabled()
            if renewed is not None and first and settings.temperature == 1:
                mask = attention_mask[:, -logits_to_keep:]
                apart.append(check_agreement((found[0] * mask).sum(1).tolist(), self.recorded, mask.sum(1).tolist()))
            return found

        def _read_rows(
            self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, *rest: Any, **more: Any
        ) -> Any:
            if not own_passes:
                return super()._get_per_token_logps_and_entropies(
                    model, input_ids, attention_mask, logits_to_keep, *rest, **more
                )
            if self.kept is not None:
                return *self.kept, None
            if settings.lora is not None and model is not self.ref_model:
                model = policy  # inside peft's wrapper, and with the adapters
            response = torch.zeros_like(attention_mask)
            response[:, -logits_to_keep:] = 1
            dialogues = dialogues_of(input_ids, attention_mask, response)
            # TRL asks for pi of the responses three times: of the policy and of pi_0 without gradient, then of the
            # same policy with gradient. Where all rows are one micro-batch, the first pass serves as the last.
            first = model is not self.ref_model and not torch.is_grad_enabled()
            graph = (first and serves_twice) or torch.is_grad_enabled()
            # The reference is read once in a step: copies of its weights would only lie there during the policy's pass.
            kept = None if model is self.ref_model else casts
            with mixed_precision(training, kept), torch.set_grad_enabled(graph):
                compute_rows = partial(
                    per_token,
                    model,
                    length=logits_to_keep,
                    padding=template.padding,
                    temperature=settings.temperature,
                    packed=passes.packed,
                )
                if first and not serves_twice and settings.temperature == 1:
                    recorded = confirmed_log_probabilities(compute_rows, dialogues, self.recorded)
                    if recorded is not None:
                        return recorded, None, None
                log_probabilities, entropies = compute_rows(dialogues)
            if self.ref_model is not None and model is self.ref_model:
                release(model)  # before the reward is read
            if first and serves_twice:
                self.keeping = log_probabilities, entropies
            return log_probabilities.detach() if first else log_probabilities, entropies, None

        def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
            output: dict[str, Any] = super()._generate_and_score_completions(inputs)
            # Until the next responses only the policy is computed.
            release(reward, *([self.ref_model] if self.ref_model is not None else []))
            return_freed()
            if self.keeping is not None:
                # As part of the rows they take part in TRL's shuffling.
                output["log_pi"], output["entropy"] = self.keeping
                self.keeping = None
            return output

        def _compute_loss(self, model: Any, inputs: Any) -> Any:
            self.kept = (inputs["log_pi"], inputs["entropy"]) if "log_pi" in inputs else None
            try:
                return super()._compute_loss(model, inputs)
            finally:
                self.kept = None

        def refer_to(self, reference: "PreTrainedModel") -> None:
            """Take a model as the reference of the KL term, as the constructor does with the one that it loads."""
            disable_dropout_in_model(reference)
            add_fused_lm_head(reference, temperature=settings.temperature)
            if processes.zero_stage:
                self.ref_model = prepare_deepspeed(reference, self.accelerator)
            else:
                self.ref_model = self.accelerator.prepare_model(reference, evaluation_mode=True)
            self.beta = settings.kl_coefficient

        def _get_train_sampler(self, dataset: Any = None) -> Any:
            sampler = super()._get_train_sampler(dataset)
            # Each pass over the prompts draws an order from one generator; skip those of the interrupted run.
            for _ in range(orders):
                next(iter(sampler))
            return sampler

    # TRL loads the reference of the KL term from the path in the policy's config; it must be pi_0, not pi_t.
    # With beta 0 it loads none: it cannot load adapters, and with adapters on the policy it would take pi_t.
    policy.config._name_or_path = str(initial)
    given = settings.lora is not None or base_record(initial) is not None
    batch = settings.prompts_per_step * settings.samples_per_prompt
    micro = saved.get("micro_batch_size") or micro_batch(
        settings.micro_batch_size,
        batch,
        step_of(
            policy,
            settings,
            lower=lower_precision(training),
            sequences=1,
            length=length,
            heads=template.settings.max_response_tokens,
            in_chunks=own_passes,
            # The reference of the KL term is as large as the policy. On a CPU neither is held (`release`).
            others=CPU_RLOO if on_single_cpu(policy, processes) else weights_of(policy, reward),
            processes=processes,
        ),
        processes,
    )
    # Recomputed activations are there to save the memory that keeping them would take.
    serves_twice = micro == batch and not settings.gradient_checkpointing
    trainer = Trainer(
        model=policy,
        processing_class=template.tokenizer,
        reward_funcs=learnt_reward,
        train_dataset=datasets.Dataset.from_list([{"prompt": template.turns(prompt)} for prompt in prompts]),
        args=RLOOConfig(
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=batch // (micro * processes.world_size),
            steps_per_generation=batch // (micro * processes.world_size),
            num_generations=settings.samples_per_prompt,
            max_completion_length=template.settings.max_response_tokens,
            max_steps=settings.steps,
            temperature=settings.temperature,
            top_k=0,
            beta=0.0 if given else settings.kl_coefficient,
            disable_dropout=True,
            **trainer_arguments(
                settings.optimiser, training, seed, scratch, settings.gradient_checkpointing, context.tracking
            ),
            **deepspeed_arguments(processes, policy, training),
        ),
        callbacks=[
            progress_callback("rft_policy", CURVES, context),
            *checkpoint_callbacks(
                context,
                lambda: {**tokens, "micro_batch_size": micro, "engine": "torch" if renewed is None else "vllm"},
            ),
        ],
        peft_config=None if settings.lora is None else lora_config(settings.lora, policy),
    )
    trainer.remove_callback(PrinterCallback)
    if given and settings.kl_coefficient:
        trainer.refer_to(load_policy(initial, compute, policy.dtype, frozen_weights(settings.lora, compute)))
    if settings.lora is not None and not processes.zero_stage:
        keep_masters(trainer.model)
    with casts.dropped_after_steps(), ExitStack() as entered:
        if passes.packed:
            models = [policy, *([trainer.ref_model] if trainer.ref_model is not None else [])]
            entered.enter_context(packed_passes(*models, compiled=passes.compiled))
        trainer.train(resume_from_checkpoint=str(latest) if latest else None)
    if processes.zero_stage:
        unshard(trainer.model_wrapped)
    merge_adapters(None if settings.lora is None else trainer.model)
    sampled = round(processes.sum([tokens["response"]], policy.device)[0])
    record = TrainingRecord("rft_policy", steps=settings.steps, response_tokens=sampled)
    record.facts = {"precision": "bf16" if lower_precision(training) else "fp32", "micro_batch_size": micro}
    if passes.packed:
        record.facts["packed_attention"] = packed_attention_of(policy.device, lower=lower_precision(training))
    if renewed is not None:
        record.facts |= {"engine": renewed.engine}
        record.facts |= {"engine_difference": float(f"{max(apart):.3g}")} if apart else {}
    for entry in trainer.state.log_history:
        if "reward" in entry:
            record.log(int(entry["step"]), **{name: entry[key] for name, key in CURVES.items() if key in entry})
    return record


def per_token(
    policy: "PreTrainedModel",
    dialogues: Sequence[Dialogue],
    length: int,
    padding: int,
    temperature: float,
    chunk: int = 16,
    *,
    packed: bool = False,
) -> tuple[Tensor, Tensor]:
    """log pi(y_t|x, y_<t) and the entropy of pi(.|x, y_<t), in chunks of similar length.

    Responses to one prompt share a row where that is faster (`forks_are_faster`), with the same values up to rounding.

    Args:
        length: columns of the results; no response is longer.
        temperature: the sampling temperature.
        chunk: rows computed at once.
        packed: whether all dialogues are one packed row instead.

    Returns:
        (dialogues, length) each, zero after the response's end; the entropy carries no gradient.
    """

    def both(logits: Tensor, targets: Tensor) -> Tensor:
        log_pi = (logits / temperature).log_softmax(-1)
        with torch.no_grad():
            entropies = -(log_pi.exp() * log_pi).sum(-1)
        return torch.stack([log_pi.gather(1, targets[:, None])[:, 0], entropies], dim=-1)

    forks, rows_of = forks_of(dialogues)
    shared = not packed and forks_are_faster(policy, forks)
    values, order = [], []
    for chosen in length_sorted_batches(forks if shared else dialogues, len(dialogues) if packed else chunk):
        if packed:
            row = PackedBatch.of([dialogues[each] for each in chosen], padding, policy.device)
            given, targets = packed_features(policy, row)[row.sources], row.targets
            order += chosen
        elif shared:
            forked = ForkBatch.of([forks[each] for each in chosen], padding, policy.device)
            given, targets = fork_features(policy, forked)[forked.sources], forked.targets
            order += [row for each in chosen for row in rows_of[each]]
        else:
            batch = Batch.of([dialogues[row] for row in chosen], padding, policy.device)
            predicted = batch.response[:, 1:]
            given = features(policy, batch.tokens, batch.attention, use_cache=False)[:, :-1][predicted]
            targets = batch.tokens[:, 1:][predicted]
            order += chosen
        values.append(apply_to_logits(policy, both, given, targets))
    places = [(row, place) for row in order for place in range(len(dialogues[row].response))]
    where = tuple(torch.tensor(places, device=policy.device).T)
    empty = torch.zeros(len(dialogues), length, device=policy.device)
    log_probabilities, entropies = torch.cat(values).unbind(-1)
    return empty.index_put(where, log_probabilities), empty.index_put(where, entropies.detach())


def confirmed_log_probabilities(
    compute: Callable[[list[Dialogue]], tuple[Tensor, Tensor]],
    dialogues: Sequence[Dialogue],
    recorded: Sequence[float | None],
) -> Tensor | None:
    """log pi(y|x) as recorded while sampling at temperature 1, in place of a pass over all responses.

    Like the recorded log-probabilities of IRFT (`recorded_log_probabilities`) they are used only if a forward pass over
    some responses, short and long, agrees; in bf16 it does not.

    Args:
        compute: `per_token` of the same policy.

    Returns:
        as the first result of `compute`, but with the sum over a response in the place of its first token: RLOO sums
        them. None if any is missing or differs by more than `TOLERANCE`.
    """
    known = [each for each in recorded if each is not None]
    if len(known) < len(dialogues):
        return None
    order = sorted(range(len(dialogues)), key=lambda row: len(dialogues[row].response))
    checked = order[:: max(1, len(order) // CHECKED)]
    computed = compute([dialogues[row] for row in checked])[0]
    sums = torch.tensor(known, device=computed.device)
    if float((computed.sum(1) - sums[checked]).abs().max()) > TOLERANCE:
        return None
    result = computed.new_zeros(len(dialogues), computed.shape[1])
    result[:, 0] = sums
    return result


@torch.no_grad()
def group_rewards(model: "PreTrainedModel", dialogues: Sequence[Dialogue], padding: int, chunk: int = 16) -> Tensor:
    """r(x, y) like `score_rewards`; responses to one prompt share a row where that is faster.

    Returns:
        (dialogues,) float32 on the CPU.
    """
    forks, rows_of = forks_of(dialogues)
    if not forks_are_faster(model, forks):
        return score_rewards(model, dialogues, padding)
    head: torch.nn.Module = model.get_submodule("score")
    values = torch.empty(len(dialogues))
    for chosen in length_sorted_batches(forks, chunk):
        batch = ForkBatch.of([forks[each] for each in chosen], padding, model.device)
        body = model.base_model(input_ids=batch.tokens, attention_mask=batch.mask, position_ids=batch.positions)
        rewards: Tensor = head(body.last_hidden_state.flatten(0, 1)[batch.ends])
        values[[row for each in chosen for row in rows_of[each]]] = rewards[:, 0].float()
    return values


def forks_of(dialogues: Sequence[Dialogue]) -> tuple[list[Fork], list[list[int]]]:
    """The dialogues by prompt, in the order in which prompts first appear, and the indices of each fork's dialogues."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, dialogue in enumerate(dialogues):
        groups.setdefault(tuple(dialogue.prompt), []).append(row)
    forks = [Fork([*prompt], *(dialogues[row].response for row in rows)) for prompt, rows in groups.items()]
    return forks, list(groups.values())
