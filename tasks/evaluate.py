"""Evaluate one model on the validation prompts (for choices) and the held-out prompts (for results)."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from juicer.evaluation.pairs_record import check_accuracy
from juicer.runtime.files import write_json
from juicer.settings.compute import ComputeSettings
from juicer.settings.data import JudgeSettings, ScorerSettings, TemplateSettings
from juicer.settings.evaluation import EvaluationSettings
from juicer.stages.launch import main
from juicer.stages.stage import Stage, optional_path

if TYPE_CHECKING:
    from juicer.data.demonstrations import Demonstration
    from juicer.data.template import Template
    from juicer.evaluation.metrics import Evaluation
    from juicer.evaluation.results import ShownSample


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", required=True, help="name of the model in tables, for example irft-r1")
    parser.add_argument("--method", required=True, help="base, sft, sft-matched, irft or rft")
    parser.add_argument("--round", type=int, required=True, help="round of the method, 0 for none")
    parser.add_argument("--policy", type=Path, required=True, help="model folder")
    parser.add_argument("--sft", type=Path, required=True, help="SFT model, the reference of KL and implicit reward")
    parser.add_argument("--scorer", type=optional_path, required=True, help="scorer folder")
    parser.add_argument("--judge", type=optional_path, help="judge's folder")
    parser.add_argument("--data", type=Path, required=True, help="curated data")
    parser.add_argument("--out", type=Path, required=True, help="evaluation to write (.json)")


def report_samples(template: "Template", rows: "Sequence[Demonstration]", done: "Evaluation") -> "list[ShownSample]":
    """The samples of the first `rows` for the report; all have the same keys.

    `ended` is given if any response was cut at the limit.
    """
    from juicer.evaluation.results import ShownSample, Turn

    shown = [
        ShownSample(
            prompt=template.render_prompt(row.prompt).strip(),
            demonstration=row.response,
            response=text,
            score=None if score is None else float(f"{score:.6g}"),
            oracle=value,
            turns=[Turn.parse(turn, row.id) for turn in template.turns(row.prompt)],
        )
        for row, text, score, value in zip(rows, done.texts, done.scores, done.oracles, strict=False)
    ]
    ended = [sample.ended for sample in done.samples[: len(rows)]]
    if not all(ended):
        shown = [sample.model_copy(update={"ended": each}) for sample, each in zip(shown, ended, strict=True)]
    return shown


def run(stage: Stage) -> str:
    from juicer import scorers
    from juicer.data import demonstrations
    from juicer.evaluation.metrics import Oracle, evaluate_policy, measure_instruments
    from juicer.evaluation.results import EvaluatedModel, Metrics, PerPrompt, ShownSample, Training
    from juicer.methods.probe import probe_policy
    from juicer.models.loading import load_policy, load_template, read_training
    from juicer.runtime.errors import InputError
    from juicer.runtime.seeding import derive

    given, settings = stage.arguments, stage.read("evaluation", EvaluationSettings)
    compute, seed = stage.read("compute", ComputeSettings), stage.value("seed")
    # The base model has no template yet; it is evaluated in the one that it is going to be trained in.
    template = load_template(given.policy, stage.read("template", TemplateSettings))
    policy = load_policy(given.policy, compute)
    probe_policy(policy.config, where=str(given.policy), training=False)
    sft = None if given.policy == given.sft else load_policy(given.sft, compute)
    scoring, judging = stage.read("scorer", ScorerSettings), stage.read("judge", JudgeSettings)
    check_accuracy(given.judge, "judge", accept_chance=judging.accept_chance)
    scorer = scorers.load(scoring, given.scorer, compute)
    judge = scorers.load(judging, given.judge, compute)
    exact: Oracle | None = None
    if stage.value("world") is not None:
        from juicer.quickstart.world import oracle

        exact = oracle

    metrics, scores, nll = dict[str, Metrics](), dict[str, list[float | None]](), dict[str, list[float]]()
    per_prompt = dict[str, PerPrompt]()
    samples, line, held_out = list[ShownSample](), "", dict[str, Any]()
    for split in ("held_out", "validation"):
        rows = list(demonstrations.read(given.data / f"{split}.jsonl"))[: settings.prompts]
        if not rows:
            raise InputError("no rows to evaluate on", where=str(given.data / f"{split}.jsonl"), do="raise its share")
        for each in (scorer, judge):
            scorers.check_rows(each, [(row.id, row.prompt, row.response) for row in rows], f"{split}.jsonl")
        judges = judge if split == "held_out" else None  # it chooses nothing
        purpose = derive(seed, "evaluation", split)
        with stage.batches(len(rows) // stage.processes.world_size, "prompt", split) as context:
            done = evaluate_policy(
                policy, sft, scorer, exact, template, rows, settings.sampling, purpose, context, judges
            )
        metrics[split] = done.metrics.rounded()
        scores[split] = _rounded(done.scores)
        nll[split] = [float(f"{value:.6g}") for value in done.nll]
        per_prompt[split] = done.rows
        stage.record(prompts=len(rows), response_tokens=sum(len(sample.response) for sample in done.samples))
        if split == "held_out":
            reward = done.metrics.reward_mean
            line = "" if reward is None else f"reward {reward:.3f}, "
            line += "" if done.metrics.judge_mean is None else f"judge {done.metrics.judge_mean:.3f}, "
            line += "" if done.metrics.perplexity is None else f"perplexity {done.metrics.perplexity:.3g}, "
            line += f"{done.metrics.response_tokens:.1f} tokens, {done.metrics.ended:.0%} ended"
            samples = report_samples(template, rows[: settings.shown], done)
            held_out = {"held_out_nll": nll[split]}
            held_out |= {"held_out_judged": _rounded(done.judged)} if judge is not None else {}
            if given.method == "base":
                with stage.batches(len(rows) // stage.processes.world_size, "pair", "instruments") as context:
                    found = measure_instruments(rows, scorer, judge, context)
                held_out |= {"instruments": found} if found is not None else {}
    training = read_training(given.policy)
    result = EvaluatedModel(
        name=given.name,
        method=given.method,
        round=given.round,
        path=given.policy.as_posix(),
        held_out=metrics["held_out"],
        held_out_scores=scores["held_out"],
        held_out_rows=per_prompt["held_out"],
        **held_out,
        samples=samples,
        validation=metrics["validation"],
        validation_scores=scores["validation"],
        validation_nll=nll["validation"],
        validation_rows=per_prompt["validation"],
        training=None if training is None else Training.parse(training, str(given.policy / "training.json")),
    )
    with stage.publish(given.out) as path:
        write_json(path, result.as_json())
    return line


def _rounded(scores: "Sequence[float | None]") -> list[float | None]:
    return [None if score is None else float(f"{score:.6g}") for score in scores]


if __name__ == "__main__":
    main(run, arguments, __doc__)
