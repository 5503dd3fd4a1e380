"""The quickstart's tiny models, trained from scratch: a GPT-NeoX like pythia and a LlamaForScore like beaver-7b.

They are trained on the quickstart's world or on local preference data and saved as ordinary folders, policy/ and
scorer/.
"""

import argparse
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from juicer.data.demonstrations import Demonstration, Message
from juicer.quickstart import world
from juicer.runtime.errors import InputError
from juicer.runtime.seeding import derive
from juicer.settings.compute import ComputeSettings
from juicer.settings.data import CurateSettings, TemplateSettings
from juicer.settings.sources import ReadingSettings
from juicer.settings.world import PretrainSettings
from juicer.sources.files import rows_of_source
from juicer.sources.formats import Reader
from juicer.stages.stage import Stage, main

if TYPE_CHECKING:
    from juicer.quickstart.pretraining import Preference

T = TypeVar("T")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("models/world"), help="folder to write")


def run(stage: Stage) -> str:
    from juicer.models.loading import save_policy
    from juicer.quickstart import pretraining

    settings = stage.read("pretrain", PretrainSettings)
    compute, template = stage.read("compute", ComputeSettings), stage.read("template", TemplateSettings)
    seed = stage.value("seed")
    shares = CurateSettings(
        validation_share=stage.value("curate.validation_share"), held_out_share=stage.value("curate.held_out_share")
    )
    dialogues, preferences = corpus_of(settings, derive(seed, "pretrain"), shares)
    with stage.publish(stage.arguments.out) as out:
        steps = pretraining.steps_of(len(dialogues), settings.policy.batch_size, settings.policy.epochs)
        with stage.training(None, "policy", steps=steps, resumable=False) as context:
            policy, written = pretraining.train_policy(dialogues, settings.policy, template, compute, seed, context)
        save_policy(policy, written, out / "policy", None)
        scorer_steps = pretraining.steps_of(len(preferences), settings.scorer.batch_size, settings.scorer.epochs)
        with stage.training(None, "scorer", steps=scorer_steps, resumable=False) as context:
            scorer, tokenizer = pretraining.train_scorer(
                preferences, settings.scorer, settings.policy, compute, seed, context
            )
        pretraining.save_scorer(scorer, tokenizer, out / "scorer")
    stage.record(steps=steps + scorer_steps)
    parameters = sum(parameter.numel() for parameter in policy.parameters())
    return (
        f"policy of {parameters:,} parameters from {len(dialogues)} dialogues, scorer from {len(preferences)} pairs, "
        f"corpus {settings.corpus}"
    )


def corpus_of(
    settings: PretrainSettings, seed: int, shares: CurateSettings
) -> "tuple[list[tuple[list[Message], str]], list[Preference]]":
    """Dialogues for the policy and preferences for the scorer, at most as many as the settings ask for.

    A local corpus may be the source of the demonstrations, so prompts that `curate` would hold out are left out.

    Raises:
        InputError: the corpus cannot be read, or has no rejected responses to train the scorer with.
    """
    from juicer.quickstart.pretraining import Preference

    documents, pairs = settings.policy.documents, settings.scorer.pairs
    if settings.corpus == "world":
        preferences = [Preference(*pair) for pair in world.pairs(pairs, seed)]
        return list(world.documents(documents, seed)), preferences
    rows = list(_demonstrations(settings.corpus, shares))
    preferences = [Preference(row.prompt, row.response, row.rejected) for row in rows if row.rejected is not None]
    if not preferences:
        what = "no row to train on has a rejected response to train the scorer with"
        raise InputError(what, where=settings.corpus, do="give pretrain.corpus chosen/rejected dialogues")
    answered = [(row.prompt, row.response) for row in rows]
    rejected = [(row.prompt, row.worse) for row in preferences]
    return _some(answered + rejected, documents, seed), _some(preferences, pairs, seed)


def _demonstrations(corpus: str, shares: CurateSettings) -> Iterator[Demonstration]:
    """Usable rows of a local corpus whose prompts are for training; fetch reports unusable rows."""
    from juicer.sources.curation import split_of

    held_out = {row.split_hash() for row in _usable(corpus) if row.held_out}
    for row in _usable(corpus):
        prompt = row.split_hash()
        # fetch.source may be other files, so the rows held out here do not determine what curate holds out.
        if prompt not in held_out and split_of(prompt, shares, source_holds_out=False) == "train":
            yield row


def _usable(corpus: str) -> Iterator[Demonstration]:
    reader = Reader(ReadingSettings())
    for _, rows in rows_of_source(corpus):
        for converted in reader.convert(rows):
            if isinstance(converted, Demonstration):
                yield converted


def _some(rows: list[T], count: int, seed: int) -> list[T]:
    """A seeded sample of `count` rows, or all rows if there are fewer."""
    return random.Random(seed).sample(rows, min(count, len(rows)))


if __name__ == "__main__":
    main(run, arguments, __doc__)
