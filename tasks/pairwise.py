"""Ask the pairwise judge which is better, a model's response or the control's, on held-out prompts, in both orders.

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
    from juicer.evaluation.results import EvaluatedModel

CACHE = Path(".juicer/pairwise")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, help="evaluation of the model")
    parser.add_argument("--against", type=Path, required=True, help="evaluation of the control")
    parser.add_argument("--data", type=Path, required=True, help="curated data")
    parser.add_argument("--judge", type=optional_path, required=True, help="folder of a judge of this machine")
    parser.add_argument("--rubric", type=optional_path, required=True, help="what makes a response better")
    parser.add_argument("--out", type=Path, required=True, help="verdicts to write (.json)")


def responses(model: "EvaluatedModel") -> dict[str, str]:
    """The model's responses to held-out prompts, by the prompt's id."""
    rows = model.held_out_rows
    if rows is None or not rows.response:
        do = f"evaluate it again: dvc repro evaluate@{model.name}"
        raise InputError(f"the evaluation of {model.name} has no responses", do=do)
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
    mine, other = responses(model), responses(control)
    rows = {row.id: row for row in demonstrations.read(given.data / "held_out.jsonl")}
    pairs = [
        Pair(each, Question(rows[each].prompt, mine[each], other[each]))
        for each in mine
        if each in other and each in rows
    ][: settings.prompts]
    if not pairs:
        raise InputError(f"{model.name} and {control.name} have no held-out prompt in common", where=str(given.model))

    def loaded(folder: str) -> tuple[Any, Any]:
        from transformers import AutoTokenizer

        from juicer.models.loading import load_policy

        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return load_policy(Path(folder), compute), tokenizer

    judged_by = settings if given.judge is None else settings.model_copy(update={"model": given.judge.as_posix()})
    asked = 2 * sum(each.question.first != each.question.second for each in pairs)
    with opened(judged_by, loaded) as judge, stage.progress(asked, "question") as progress:
        found = judge_pairs(judge, pairs, settings, rubric, CACHE, names=(model.name, control.name), progress=progress)
    with stage.publish(given.out) as path:
        write_json(path, found.as_json())
    stage.record(prompts=found.prompts, tokens_in=found.tokens_in, tokens_out=found.tokens_out)
    rate = "no verdict" if found.win_rate is None else f"wins {found.win_rate:.1%}"
    line = f"{model.name} {rate} against {control.name} on {found.prompts} prompts"
    if found.failed:
        line += f", {found.failed} of {found.questions} questions without a verdict"
    return line + (f", {found.price:.2f} spent" if found.price else "")


if __name__ == "__main__":
    main(run, arguments, __doc__)
