"""Train a reward model on preference pairs: the scorer that curates demonstrations, or the judge of the evaluation."""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from juicer.data import demonstrations
from juicer.data.demonstrations import Demonstration
from juicer.evaluation.pairs_record import CHANCE, RECORD, record_of
from juicer.runtime.errors import InputError
from juicer.runtime.files import write_json
from juicer.settings.compute import ComputeSettings
from juicer.settings.data import CurateSettings, ScorerSettings, TemplateSettings
from juicer.settings.preferences import ROLES, PreferencesSettings, Role
from juicer.settings.sources import ReadingSettings
from juicer.sources.curation import place_of, side_of
from juicer.stages.launch import main
from juicer.stages.stage import Stage, optional_path

if TYPE_CHECKING:
    from juicer.methods.pairs import Pair

NOTED = 0.25
"""Share of pairs that may be left out before the result warns of it."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--role", choices=ROLES, required=True, help="the model to train: scorer or judge")
    parser.add_argument("--raw", type=Path, required=True, help="folder that fetch wrote")
    parser.add_argument("--pairs", type=optional_path, help="file or folder of pairs, instead of the fetched rows")
    parser.add_argument("--trunk", type=Path, required=True, help="model that it is initialised from")
    parser.add_argument("--out", type=Path, required=True, help="reward model folder to write")


def run(stage: Stage) -> str:
    from juicer.methods.preferences import check_enough, pairs_of
    from juicer.methods.reward import freeze_blocks, load_reward, score_rewards, train_reward
    from juicer.models.loading import TRAINING_DTYPE, load_template, mixed_precision, save_model
    from juicer.models.precision import training_compute
    from juicer.models.shape import count_parameters
    from juicer.runtime.seeding import derive
    from juicer.scorers.sequence_classification import SequenceClassificationScorer
    from juicer.training.loop import steps_for
    from juicer.training.passes import passes_of
    from juicer.training.utilisation import peak_share

    given, section = stage.arguments, stage.read("preferences", PreferencesSettings)
    role: Role = given.role
    settings, compute = section.models[role], stage.read("compute", ComputeSettings)
    ends: dict[Role, bool] = {"scorer": stage.value("scorer.end_of_text"), "judge": stage.value("judge.end_of_text")}
    slot = ScorerSettings(kind="sequence-classification", end_of_text=ends[role])
    template = load_template(given.trunk, stage.read("template", TemplateSettings))
    model = load_reward(given.trunk, compute, derive(section.seed, "preferences", role, "head"), TRAINING_DTYPE)
    scorer = SequenceClassificationScorer(model, template.tokenizer, slot)
    rows = list(_external(given, section, role) if given.pairs else _shared(stage, given.raw, section, role))
    pairs = pairs_of(rows, settings, scorer.encoder.encode, scorer.refusals)
    check_enough(role, pairs, settings, str(given.pairs or given.raw))

    training = training_compute(compute, count_parameters(model))
    freeze_blocks(model, settings.frozen_blocks)  # before peak_share counts the operations per token
    dialogues = [each for pair in pairs.training for each in (pair.demonstration, pair.sample)]
    steps = steps_for(settings.epochs, len(pairs.training), settings.batch_size)
    padding = template.padding
    with stage.training(peak_share(model, dialogues), steps=steps) as context, mixed_precision(training):
        order = derive(section.seed, "preferences", role, "order")
        record = train_reward(model, pairs.training, settings, padding, order, context, passes_of(training, model))

    def margins(of: "list[Pair]") -> list[float]:
        chosen, rejected = (
            score_rewards(model, each, padding, context=stage.context)
            for each in ([pair.demonstration for pair in of], [pair.sample for pair in of])
        )
        return [float(margin) for margin in chosen - rejected]

    model.eval()
    # As scorers compute: not in the precision of training.
    found = record_of(
        role,
        margins(pairs.held_out),
        len(pairs.training),
        float(record.facts["training_accuracy"]),
        dict(sorted(pairs.left_out.items())),
        pairs.held_out_prompts,
    )
    record.stage = "preferences"
    record.facts |= {"held_out_accuracy": found.accuracy, "held_out_pairs": found.held_out_pairs}
    stage.record(steps=record.steps, pairs=len(pairs.training))
    with stage.publish(given.out) as folder:
        save_model(model, template, folder, asdict(record))
        write_json(folder / RECORD, found.as_json())
    if stage.is_main:
        for line in _notes(found.left_out, len(rows), found.low):
            print(f"{stage.name}: {line}", file=sys.stderr)
    return f"accuracy {found.said}; K = {record.steps} steps on {found.trained_pairs} pairs"


def _notes(left_out: dict[str, int], rows: int, low: float) -> list[str]:
    lost = sum(left_out.values())
    why = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
    notes = [f"warning: {lost} of {rows} pairs are left out ({why})"] if lost > NOTED * rows else []
    return [*notes, "warning: the interval of its accuracy contains 0.5, that of a coin"] if low <= CHANCE else notes


def _shared(stage: Stage, raw: Path, section: PreferencesSettings, role: Role) -> Iterator[Demonstration]:
    """The fetched rows of this model's share; curate leaves them out."""
    file = raw / "demonstrations.jsonl"
    curate = CurateSettings(
        validation_share=stage.value("curate.validation_share"), held_out_share=stage.value("curate.held_out_share")
    )
    held_out: set[str] = set()
    for row in demonstrations.read(file):
        if row.held_out:
            held_out |= {row.split_hash(), row.prompt_hash()}
    seen: set[str] = set()
    for row in demonstrations.read(file):
        if row.held_out or not held_out.isdisjoint({row.split_hash(), row.prompt_hash()}):
            continue
        if side_of(row.split_hash(), curate, bool(held_out), section.withheld) == role and row.id not in seen:
            seen.add(row.id)
            yield row


def _external(given: argparse.Namespace, section: PreferencesSettings, role: Role) -> Iterator[Demonstration]:
    """The pairs of a file of their own, without those whose prompts the demonstrations have."""
    from juicer.sources.files import rows_of_source
    from juicer.sources.formats import LeftOut, Reader

    known = {row.prompt_hash() for row in demonstrations.read(given.raw / "demonstrations.jsonl")}
    reader = Reader(ReadingSettings(format=section.format))
    low = 0.0  # shares of the file's prompts, one model's after the other's; they need not add up to 1
    for name, each in section.models.items():
        if name == role:
            break
        low += each.share
    high, shared = low + section.models[role].share, 0
    seen: set[str] = set()
    for _, rows in rows_of_source(str(given.pairs), among_others=False):
        for row in reader.convert(rows):
            if isinstance(row, LeftOut) or row.id in seen:
                continue
            seen.add(row.id)
            if row.prompt_hash() in known:
                shared += 1
            elif low <= place_of(row.split_hash()) < high:
                yield row
    if not seen:
        raise InputError("there are no pairs", where=str(given.pairs), do="check preferences.source")
    if shared:
        print(f"{shared} pairs have a prompt that the demonstrations have, and are left out", file=sys.stderr)


if __name__ == "__main__":
    main(run, arguments, __doc__)
