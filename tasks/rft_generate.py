"""Sample responses of the current policy to a round's prompts (first third of a round of RFT)."""

import argparse
from pathlib import Path

from juicer.settings.data import TemplateSettings
from juicer.settings.training import GenerationSettings
from juicer.stages import generation
from juicer.stages.launch import main
from juicer.stages.stage import Stage


def arguments(parser: argparse.ArgumentParser) -> None:
    generation.arguments(parser)
    parser.add_argument(
        "--current", type=Path, help="model folder of the round's policy, if another one is sampled for the pairs"
    )
    parser.add_argument(
        "--validation", type=Path, help="file for a response to each of some validation prompts, to watch the reward by"
    )


def run(stage: Stage) -> str:
    sampling, template = stage.read("rft.sampling", GenerationSettings), stage.read("template", TemplateSettings)
    given = stage.arguments
    watching = None
    if given.validation is not None:
        watching = generation.Watching(given.current or given.policy, given.validation, stage.value("rft.watched"))
    return generation.generate(stage, "rft", stage.value("seed"), sampling, template, watching)


if __name__ == "__main__":
    main(run, arguments, __doc__)
