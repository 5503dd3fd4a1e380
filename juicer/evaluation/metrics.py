"""The metrics of a policy: the scorer's reward, the preference gap, and symptoms of failing self-play."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, tensor

from juicer.data.demonstrations import Demonstration, Message
from juicer.data.dialogues import Dialogue, Sample
from juicer.data.template import Template
from juicer.evaluation.likelihood import likelihood_of
from juicer.evaluation.pairs_record import accuracy_of
from juicer.evaluation.repetition import repeats_itself
from juicer.evaluation.results import Instruments, Metrics, PerPrompt
from juicer.evaluation.significance import mean_and_error
from juicer.models.forks import Fork, score_forks
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
    judged: list[float | None]
    oracles: list[float | None]
    nll: list[float]
    """-log pi(y|x) of each demonstration, in nats."""
    rows: PerPrompt


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
    judge: Scorer | None = None,
) -> Evaluation:
    """Evaluate a policy on held-out rows. One sampled response per prompt.

    Args:
        sft: the SFT policy that KL and implicit reward refer to; None if `policy` is the SFT policy itself.
        scorer: scores the samples; None leaves the reward out.
        oracle: the exact quality of a response; None outside the quickstart.
        seed: the same for every policy, so that all are sampled with the same random numbers.
        context: its memo keeps samples and scores; the result does not depend on the number of processes.
        judge: scores the samples apart from the scorer; None leaves its score out.
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

    worse = {row: [each.response] for row, each in zip(with_rejected, rejected, strict=True)}

    def log_probabilities(model: "PreTrainedModel") -> tuple[Tensor, Tensor, Tensor]:
        """log pi of demonstrations, own samples and rejected responses; those to one prompt are computed together."""
        forks = [
            Fork(prompt, demonstrations[row].response, own[row].response, *worse.get(row, []))
            for row, prompt in enumerate(prompts)
        ]
        values = score_forks(model, forks, template.padding, context=context)
        last = [values[row][2] for row in with_rejected]
        return tensor([each[0] for each in values]), tensor([each[1] for each in values]), tensor(last)

    chosen_log, own_log, rejected_log = log_probabilities(policy)
    chosen_sft, own_sft, rejected_sft = log_probabilities(sft) if sft is not None else (None, None, None)
    log_ratios, implicit = torch.zeros(len(rows)), None
    if own_sft is not None:
        log_ratios = own_log - own_sft
    gaps_of, per_token_of = dict[int, float](), dict[int, float]()
    gap_mean = gap_sem = accuracy = accuracy_per_token = None
    if with_rejected:
        gaps = (chosen_log[with_rejected] - rejected_log).tolist()
        gap_mean, gap_sem = mean_and_error(gaps)
        accuracy = sum(gap > 0 for gap in gaps) / len(gaps)
        chosen_lengths = [len(demonstrations[row].response) for row in with_rejected]
        per_token = [
            float(chosen_log[row]) / length - float(rejected_log[number]) / len(rejected[number].response)
            for number, (row, length) in enumerate(zip(with_rejected, chosen_lengths, strict=True))
        ]
        accuracy_per_token = sum(gap > 0 for gap in per_token) / len(per_token)
        gaps_of = dict(zip(with_rejected, gaps, strict=True))
        per_token_of = dict(zip(with_rejected, per_token, strict=True))
        if chosen_sft is not None and rejected_sft is not None:
            implicit_gaps = ((chosen_log - chosen_sft)[with_rejected] - (rejected_log - rejected_sft)).tolist()
            implicit = sum(gap > 0 for gap in implicit_gaps) / len(implicit_gaps)

    asked = [(row.prompt, text) for row, text in zip(rows, texts, strict=True)]
    scores, judged = (_scores(each, asked, context) for each in (scorer, judge))
    oracles: list[float | None] = [None if oracle is None else oracle(prompt, text) for prompt, text in asked]
    reward_mean, reward_sem = mean_and_error([score for score in scores if score is not None])
    judge_mean, judge_sem = mean_and_error([score for score in judged if score is not None])
    oracle_mean, oracle_sem = mean_and_error([value for value in oracles if value is not None])
    nll = [-float(value) for value in chosen_log]
    demonstration_tokens = [len(each.response) for each in demonstrations]
    likelihood = likelihood_of(nll, demonstration_tokens)
    empty = [not text.strip() for text in texts]
    repeated = [repeats_itself(text) for text in texts]
    per_prompt = PerPrompt(
        id=[row.id for row in rows],
        demonstration_tokens=demonstration_tokens,
        gap=[_rounded(gaps_of.get(row)) for row in range(len(rows))],
        gap_per_token=[_rounded(per_token_of.get(row)) for row in range(len(rows))],
        kl=[float(f"{value:.6g}") for value in log_ratios.tolist()],
        response_tokens=[len(sample.response) for sample in samples],
        ended=[sample.ended for sample in samples],
        empty=empty,
        repeated=repeated,
        response=texts,
    )
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
        demonstration_gap_sem=mean_and_error((chosen_log - own_log).tolist())[1],
        response_tokens=sum(len(sample.response) for sample in samples) / len(samples),
        ended=sum(sample.ended for sample in samples) / len(samples),
        kl_to_sft=float(log_ratios.mean()),
        distinct_2=distinct_pairs([sample.response for sample in samples]),
        oracle_mean=oracle_mean,
        oracle_sem=oracle_sem,
        pairs=len(with_rejected),
        judge_mean=judge_mean,
        judge_sem=judge_sem,
        demonstration_nll=likelihood.nll,
        demonstration_nll_sem=likelihood.nll_sem,
        demonstration_nll_per_token=likelihood.per_token,
        demonstration_nll_per_token_sem=likelihood.per_token_sem,
        perplexity=likelihood.perplexity,
        perplexity_sem=likelihood.perplexity_sem,
        perplexity_per_response=likelihood.perplexity_per_response,
        perplexity_per_response_sem=likelihood.perplexity_per_response_sem,
        empty=sum(empty) / len(empty),
        repeated=sum(repeated) / len(repeated),
    )
    return Evaluation(metrics, samples, texts, scores, judged, oracles, nll, per_prompt)


def measure_instruments(
    rows: Sequence[Demonstration], scorer: Scorer | None, judge: Scorer | None, context: WorkContext = LOCAL
) -> Instruments | None:
    """Accuracy of scorer and judge on pairs, and how often they agree; None without both kinds of pairs and scorers.

    Args:
        rows: held-out rows; those without a rejected response are left out.
    """
    pairs = [row for row in rows if row.rejected is not None]
    if not pairs or (scorer is None and judge is None):
        return None
    chosen = [(row.prompt, row.response) for row in pairs]
    rejected = [(row.prompt, row.rejected or "") for row in pairs]

    def margins(model: Scorer | None) -> list[float] | None:
        if model is None:
            return None
        better, worse = (model.score(each, context) for each in (chosen, rejected))
        return [first - second for first, second in zip(better, worse, strict=True)]

    by_scorer, by_judge = margins(scorer), margins(judge)
    agreement = None
    if by_scorer is not None and by_judge is not None:
        agreement = accuracy_of([first * second for first, second in zip(by_scorer, by_judge, strict=True)])
    return Instruments(
        pairs=len(pairs),
        scorer_accuracy=_rounded(None if by_scorer is None else accuracy_of(by_scorer)),
        judge_accuracy=_rounded(None if by_judge is None else accuracy_of(by_judge)),
        agreement=_rounded(agreement),
    )


def _scores(
    scorer: Scorer | None, rows: Sequence[tuple[list[Message], str]], context: WorkContext
) -> list[float | None]:
    return [None] * len(rows) if scorer is None else list(scorer.score(rows, context))


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def distinct_pairs(responses: Sequence[list[int]]) -> float:
    """Number of distinct adjacent token pairs divided by the number of all, in [0, 1]; 0 if there are none."""
    pairs = [pair for response in responses for pair in pairwise(response)]
    return len(set(pairs)) / len(pairs) if pairs else 0.0
