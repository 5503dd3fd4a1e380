"""The metrics of a policy: the scorer's reward, the preference gap, and symptoms of failing self-play."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from torch import Tensor

from juicer.data.demonstrations import Demonstration, Message
from juicer.data.dialogues import Dialogue, Sample
from juicer.data.template import Template
from juicer.evaluation.results import Metrics
from juicer.models.log_probability import score_dialogues
from juicer.runtime.context import LOCAL, WorkContext
from juicer.sampling.decoding import sample_responses
from juicer.scorers import Scorer
from juicer.settings.training import SamplingSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Oracle = Callable[[list[Message], str], float]


@dataclass(frozen=True)
class Evaluation:
    """Metrics and the samples, texts and scores that they were computed from."""

    metrics: Metrics
    samples: list[Sample]
    texts: list[str]
    scores: list[float | None]
    oracles: list[float | None]


def evaluate_policy(
    policy: "PreTrainedModel",
    sft: "PreTrainedModel | None",
    scorer: Scorer | None,
    oracle: Oracle | None,
    template: Template,
    rows: Sequence[Demonstration],
    settings: SamplingSettings,
    seed: int,
    context: WorkContext = LOCAL,
) -> Evaluation:
    """Evaluate a policy on held-out rows. One sampled response per prompt.

    Args:
        sft: the SFT policy that KL and implicit reward refer to; None if `policy` is the SFT policy itself.
        scorer: scores the samples; None leaves the reward out.
        oracle: the exact quality of a response; None outside the quickstart.
        seed: the same for every policy, so that all are sampled with the same random numbers.
        context: its memo keeps samples and scores; the result does not depend on the number of processes.
    """
    prompts = [template.prompt(row.prompt) for row in rows]
    single = settings.model_copy(update={"samples_per_prompt": 1})
    named = [(row.id, prompt) for row, prompt in zip(rows, prompts, strict=True)]
    samples = sample_responses(policy, template, named, single, seed, context)
    texts = [template.decode(sample.response) for sample in samples]
    demonstrations = [
        Dialogue(prompt, template.response(row.prompt, row.response)) for row, prompt in zip(rows, prompts, strict=True)
    ]
    own = [Dialogue(sample.prompt, sample.response) for sample in samples]
    with_rejected = [row for row in range(len(rows)) if rows[row].rejected is not None]
    rejected = [
        Dialogue(prompts[row], template.response(rows[row].prompt, rows[row].rejected or "")) for row in with_rejected
    ]

    def log_probabilities(model: "PreTrainedModel", dialogues: Sequence[Dialogue]) -> Tensor:
        return score_dialogues(model, dialogues, template.padding, context=context)

    chosen_log, own_log, rejected_log = (log_probabilities(policy, each) for each in (demonstrations, own, rejected))

    kl, implicit = 0.0, None
    if sft is not None:
        kl = float((own_log - log_probabilities(sft, own)).mean())
    gap_mean = gap_sem = accuracy = accuracy_per_token = None
    if with_rejected:
        gaps = (chosen_log[with_rejected] - rejected_log).tolist()
        gap_mean, gap_sem = mean_and_error(gaps)
        accuracy = sum(gap > 0 for gap in gaps) / len(gaps)
        chosen_lengths = [len(demonstrations[row].response) for row in with_rejected]
        per_token = [
            float(chosen_log[row]) / length > float(rejected_log[number]) / len(rejected[number].response)
            for number, (row, length) in enumerate(zip(with_rejected, chosen_lengths, strict=True))
        ]
        accuracy_per_token = sum(per_token) / len(per_token)
        if sft is not None:
            chosen_dialogues = [demonstrations[row] for row in with_rejected]
            implicit_gaps = (
                (chosen_log[with_rejected] - log_probabilities(sft, chosen_dialogues))
                - (rejected_log - log_probabilities(sft, rejected))
            ).tolist()
            implicit = sum(gap > 0 for gap in implicit_gaps) / len(implicit_gaps)

    asked = [(row.prompt, text) for row, text in zip(rows, texts, strict=True)]
    scores: list[float | None] = [None] * len(rows) if scorer is None else list(scorer.score(asked, context))
    oracles: list[float | None] = [None if oracle is None else oracle(prompt, text) for prompt, text in asked]
    reward_mean, reward_sem = mean_and_error([score for score in scores if score is not None])
    oracle_mean, oracle_sem = mean_and_error([value for value in oracles if value is not None])
    metrics = Metrics(
        prompts=len(rows),
        reward_mean=reward_mean,
        reward_sem=reward_sem,
        preference_accuracy=accuracy,
        preference_accuracy_per_token=accuracy_per_token,
        preference_gap=gap_mean,
        preference_gap_sem=gap_sem,
        implicit_preference_accuracy=implicit,
        demonstration_gap=float((chosen_log - own_log).mean()),
        response_tokens=sum(len(sample.response) for sample in samples) / len(samples),
        ended=sum(sample.ended for sample in samples) / len(samples),
        kl_to_sft=kl,
        distinct_2=distinct_pairs([sample.response for sample in samples]),
        oracle_mean=oracle_mean,
        oracle_sem=oracle_sem,
        pairs=len(with_rejected),
    )
    return Evaluation(metrics, samples, texts, scores, oracles)


def mean_and_error(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and standard error of the mean; (None, None) without values, no error for a single value."""
    if not values:
        return None, None
    mean = sum(values) / len(values)
    if len(values) == 1:
        return mean, None
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))


def distinct_pairs(responses: Sequence[list[int]]) -> float:
    """Number of distinct adjacent token pairs divided by the number of all, in [0, 1]; 0 if there are none."""
    pairs = [pair for response in responses for pair in pairwise(response)]
    return len(set(pairs)) / len(pairs) if pairs else 0.0
