"""Ask the pairwise judge which is better, a model's response or the control's, to held-out prompts, in both orders.

Responses to validation prompts are judged too, for the choice between models, unless pairwise.chooses is off.

Answers are kept in .juicer/pairwise/ by what was asked, so that no question is paid for twice.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from juicer.runtime.errors import InputError
from juicer.runtime.files import write_json
from juicer.settings.compute import ComputeSettings
from juicer.settings.pairwise import PairwiseSettings
from juicer.stages.stage import Stage, main, optional_path

if TYPE_CHECKING:
    from juicer.evaluation.results import PerPrompt

CACHE = Path(".juicer/pairwise")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, help="evaluation of the model")
    parser.add_argument("--against", type=Path, required=True, help="evaluation of the control")
    parser.add_argument("--data", type=Path, required=True, help="curated data")
    parser.add_argument(
        "--judge", type=optional_path, required=True, help="folder of a judge of this machine, or its program"
    )
    parser.add_argument("--rubric", type=optional_path, required=True, help="what makes a response better")
    parser.add_argument("--out", type=Path, required=True, help="verdicts to write (.json)")


def responses(name: str, rows: "PerPrompt | None") -> dict[str, str]:
    """A model's responses, by the prompt's id."""
    if rows is None or not rows.response:
        raise InputError(
            f"the evaluation of {name} has no responses", do=f"evaluate it again: dvc repro evaluate@{name}"
        )
    return dict(zip(rows.id, rows.response, strict=True))


def run(stage: Stage) -> str:
    from juicer.data import demonstrations
    from juicer.evaluation.results import EvaluatedModel
    from juicer.judging.judges import opened
    from juicer.judging.judging import Pair, judge_pairs
    from juicer.judging.question import RUBRIC, Question

    given, settings = stage.arguments, stage.read("pairwise", PairwiseSettings)
    compute = stage.read("compute", ComputeSettings)
    model, control = EvaluatedModel.read(given.model), EvaluatedModel.read(given.against)
    rubric = RUBRIC if given.rubric is None else given.rubric.read_text(encoding="utf-8")
    if not rubric.strip():
        raise InputError("the rubric is empty", where=str(given.rubric), do="say what makes a response better")

    def pairs_of(split: str, mine: "PerPrompt | None", theirs: "PerPrompt | None") -> list[Pair]:
        rows = {row.id: row for row in demonstrations.read(given.data / f"{split}.jsonl")}
        answers, others = responses(model.name, mine), responses(control.name, theirs)
        shared = [each for each in answers if each in others and each in rows]
        if not shared:
            what = f"{model.name} and {control.name} have no prompt of {split}.jsonl in common"
            raise InputError(what, where=str(given.model))
        questions = (Pair(each, Question(rows[each].prompt, answers[each], others[each])) for each in shared)
        return list(questions)[: settings.prompts]

    splits = {"held_out": pairs_of("held_out", model.held_out_rows, control.held_out_rows)}
    if settings.chooses:
        splits["validation"] = pairs_of("validation", model.validation_rows, control.validation_rows)

    def loaded(folder: str) -> tuple[Any, Any]:
        from transformers import AutoTokenizer

        from juicer.models.loading import load_policy

        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return load_policy(Path(folder), compute), tokenizer

    judged_by = settings
    if settings.kind == "model" and given.judge is not None:
        judged_by = settings.model_copy(update={"model": given.judge.as_posix()})
    asked = 2 * sum(each.question.first != each.question.second for pairs in splits.values() for each in pairs)
    with opened(judged_by, loaded) as judge, stage.progress(asked, "question") as progress:
        records = {
            split: judge_pairs(
                judge, pairs, settings, rubric, CACHE, names=(model.name, control.name), progress=progress
            )
            for split, pairs in splits.items()
        }
    found = records["held_out"]
    if "validation" in records:
        found = found.model_copy(update={"validation": records["validation"]})
    with stage.publish(given.out) as path:
        write_json(path, found.as_json())
    for each in records.values():
        stage.record(prompts=each.prompts, tokens_in=each.tokens_in, tokens_out=each.tokens_out)
    rate = "no verdict" if found.win_rate is None else f"wins {found.win_rate:.1%}"
    line = f"{model.name} {rate} against {control.name} on {found.prompts} prompts"
    failed, questions = (sum(getattr(each, key) for each in records.values()) for key in ("failed", "questions"))
    if failed:
        line += f", {failed} of {questions} questions without a verdict"
    price = sum(each.price for each in records.values())
    return line + (f", {price:.2f} spent" if price else "")


if __name__ == "__main__":
    main(run, arguments, __doc__)
