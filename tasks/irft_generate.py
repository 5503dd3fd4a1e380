"""Sample responses of the current policy to a round's prompts (first half of a round of IRFT)."""

from juicer.settings.data import TemplateSettings
from juicer.settings.training import GenerationSettings
from juicer.stages.generation import arguments, generate
from juicer.stages.launch import main
from juicer.stages.stage import Stage


def run(stage: Stage) -> str:
    sampling = stage.read("irft.sampling", GenerationSettings)
    return generate(stage, "irft", stage.value("seed"), sampling, stage.read("template", TemplateSettings))


if __name__ == "__main__":
    main(run, arguments, __doc__)
