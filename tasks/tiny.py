"""Stage tiny: a random tiny model with the architecture of one of the recipe's models, for recipes with `--tiny`."""

import argparse
from pathlib import Path

from juicer.quickstart import world
from juicer.runtime.seeding import derive
from juicer.settings.data import TemplateSettings
from juicer.settings.tiny import TinySettings
from juicer.stages.stage import Stage, main

DOCUMENTS = 200
"""Number of the quickstart's dialogues that the tokenizer is trained on."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, help="config.json of the real model")
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")


def run(stage: Stage) -> str:
    from juicer.quickstart.random_models import write_random_model

    settings, template = stage.read("tiny", TinySettings), stage.read("template", TemplateSettings)
    seed = stage.value("seed")
    documents = world.documents(DOCUMENTS, derive(seed, "tiny", "tokenizer"))
    texts = [" ".join([*(turn["content"] for turn in prompt), response]) for prompt, response in documents]
    with stage.publish(stage.arguments.out) as folder:
        parameters = write_random_model(stage.arguments.config, texts, template, settings, seed, folder)
    return f"{parameters:,} random parameters in the architecture of {stage.arguments.config.name}"


if __name__ == "__main__":
    main(run, arguments, __doc__)
