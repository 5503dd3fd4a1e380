"""Sample responses of the current policy to a round's prompts (first half of a round of RFT)."""

from irl.settings.data import TemplateSettings
from irl.settings.training import GenerationSettings
from tasks.generate import arguments, generate
from tasks.launch import main
from tasks.stage import Stage


def run(stage: Stage) -> str:
    sampling = stage.read("rft.sampling", GenerationSettings)
    return generate(stage, "rft", stage.value("seed"), sampling, stage.read("template", TemplateSettings))


if __name__ == "__main__":
    main(run, arguments, __doc__)
