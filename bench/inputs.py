"""What all measurements of a round work on: the quickstart's tiny policy, prompts and demonstrations, made once."""

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from juicer.data.demonstrations import Demonstration
from juicer.data.template import Template
from juicer.models.loading import load_policy, load_template, save_policy
from juicer.quickstart import pretraining, world
from juicer.settings.compute import ComputeSettings
from juicer.settings.data import TemplateSettings
from juicer.settings.world import TinyPolicySettings, WorldSettings

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".juicer/bench"
LIMITS = TemplateSettings(max_prompt_tokens=64, max_response_tokens=40)
"""The quickstart's template."""
CPU = ComputeSettings(device="cpu", precision="fp32")
SEED = 0


@dataclass(frozen=True)
class Inputs:
    """One set of inputs."""

    folder: Path
    """The policy's folder: what has to start from a file starts there."""
    template: Template
    rows: list[Demonstration]

    def policy(self) -> PreTrainedModel:
        """A fresh copy of the policy, on the CPU in float32."""
        return load_policy(self.folder, CPU)

    def prompts(self) -> list[tuple[str, list[int]]]:
        """(id, tokens), in the order of arrival."""
        return [(row.id, self.template.prompt(row.prompt)) for row in self.rows]


def make(count: int) -> Inputs:
    """`count` demonstrations of the quickstart's world, and a policy that was pretrained on it as the quickstart's."""
    folder = CACHE / "policy"
    if not (folder / "config.json").is_file():
        settings = TinyPolicySettings(documents=4000)
        policy, template = pretraining.train_policy(
            list(world.documents(settings.documents, SEED)), settings, LIMITS, CPU, SEED
        )
        save_policy(policy, template, folder, None)
    template = load_template(folder, LIMITS)
    rows: list[Demonstration] = []
    seen: set[str] = set()
    for row in world.rows(WorldSettings(rows=max(100, 10 * count)), SEED):
        if len(rows) == count:
            break
        fits = len(template.prompt(row.prompt)) <= LIMITS.max_prompt_tokens
        if row.id not in seen and fits and len(template.response(row.prompt, row.response)) <= 40:
            seen.add(row.id)
            rows.append(row)
    assert len(rows) == count, "the world repeats itself too often for so many different dialogues"
    return Inputs(folder, template, rows)
