"""The three sizes at which a round is measured, and what each way gets of one: a policy's folder, prompts, responses.

0.5M is the quickstart's policy, pretrained, which ends its responses itself. The larger two have random weights,
prompts of random tokens as long as those of Anthropic-HH (bench/hh_lengths.json), and responses that are made to end
where the real ones do: left to themselves, random weights would go on to the limit.
"""

import random
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer, models
from transformers import GPTNeoXConfig, LlamaConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from bench import inputs
from bench.gpu_parts.common import lengths_forced, lengths_within
from juicer.data.dialogues import Dialogue, Sample
from juicer.methods.pairs import Pair
from juicer.models.loading import TRAINING_DTYPE, load_policy
from juicer.sampling.decoding import SampleRequest, sample_responses, seed_of
from juicer.settings.compute import ComputeSettings
from juicer.settings.data import TemplateSettings
from juicer.settings.irft import IrftTrainingSettings
from juicer.settings.training import OptimiserSettings, SamplingSettings

if TYPE_CHECKING:
    from juicer.data.template import Template

SEED = 0
END, PADDING = 0, 1
"""Tokens of the policies of random weights."""


@dataclass(frozen=True)
class Size:
    """How large the policy is, and how much it is given to do."""

    about: str
    prompts: int
    repeats: int
    training: IrftTrainingSettings
    goal: float
    """How many times faster than stock TRL, at its faster precision, a round is to be."""
    config: PreTrainedConfig | None = None
    """None for the quickstart's pretrained policy."""
    limits: TemplateSettings = field(default_factory=TemplateSettings)


def _training(batch_size: int, learning_rate: float) -> IrftTrainingSettings:
    optimiser = OptimiserSettings(learning_rate=learning_rate, warmup_ratio=0.1)
    return IrftTrainingSettings(epochs=2, batch_size=batch_size, beta=0.3, optimiser=optimiser)


def _neox(width: int, layers: int, heads: int, vocabulary: int) -> GPTNeoXConfig:
    return GPTNeoXConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=1024,
        bos_token_id=END,
        eos_token_id=END,
    )


SMOLLM2_135M = LlamaConfig(
    vocab_size=49_152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    max_position_embeddings=2048,
    rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
    tie_word_embeddings=True,
    bos_token_id=END,
    eos_token_id=END,
)
SIZES = {
    "0.5M": Size(
        "the quickstart's GPT-NeoX: 3 layers, 96 wide, 1,024 tokens",
        500, 3, _training(32, 4e-4), goal=4.0, limits=inputs.LIMITS,
    ),
    "10M": Size(
        "GPT-NeoX: 8 layers, 256 wide, 8,192 tokens, random weights",
        48, 2, _training(16, 1e-5), goal=2.5, config=_neox(256, 8, 8, 8192),
    ),
    "135M": Size(
        "Llama of SmolLM2-135M's shape: 30 layers, 576 wide, 49,152 tokens, random weights",
        16, 1, _training(8, 1e-6), goal=2.0, config=SMOLLM2_135M,
    ),
    "toy": Size(
        "for tests: GPT-NeoX, 2 layers, 32 wide, 128 tokens, random weights",
        8, 1, _training(8, 1e-5), goal=0.0, config=_neox(32, 2, 2, 128),
        limits=TemplateSettings(max_prompt_tokens=24, max_response_tokens=16),
    ),
}  # fmt: skip
"""Prompts and repeats such that a part takes minutes at each size."""
MEASURED = ("0.5M", "10M", "135M")


@dataclass(frozen=True)
class TokenTemplate:
    """What sampling and training ask of a template, for policies whose tokens have no text."""

    settings: TemplateSettings
    end_of_text: int = END
    ends: tuple[int, ...] = (END,)
    padding: int = PADDING

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """One that TRL and transformers accept; nothing is tokenised."""
        end, padding = "<end>", "<padding>"
        words = models.WordLevel({end: END, padding: PADDING}, unk_token=end)
        return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), eos_token=end, pad_token=padding)


@dataclass(frozen=True)
class Subject:
    """What every way is given."""

    size: Size
    folder: Path
    """The policy's."""
    template: Any
    """A `Template`, or a `TokenTemplate`."""
    prompts: list[tuple[str, list[int]]]
    """(id, tokens), in the order of arrival."""
    demonstrations: dict[str, list[int]]
    """Response tokens with their end, by id."""
    lengths: list[int] | None
    """Lengths that responses are made to have, of which an id chooses one; None where the policy ends them itself."""

    @property
    def wanted(self) -> list[int] | None:
        """The length of the response to each prompt; None where the policy decides."""
        if self.lengths is None:
            return None
        seeds = (seed_of(SEED, SampleRequest(name, 0, prompt)) for name, prompt in self.prompts)
        return [self.lengths[seed % len(self.lengths)] for seed in seeds]

    def policy(self, precision: str = "fp32", training: bool = False) -> PreTrainedModel:
        """A fresh copy on the CPU: weights in the precision for sampling, in float32 for training."""
        return load_policy(self.folder, compute(precision), TRAINING_DTYPE if training else None)

    def sample(self, policy: PreTrainedModel, settings: SamplingSettings) -> list[Sample]:
        """Responses by our sampler."""
        forced = nullcontext() if self.lengths is None else lengths_forced(self.lengths, self.template.end_of_text)
        with forced:
            return sample_responses(policy, self.template, self.prompts, settings, SEED)

    def pairs(self, samples: Sequence[Sample]) -> list[Pair]:
        """Each demonstration with the sample that answers the same prompt."""
        return [
            Pair(
                Dialogue(each.prompt, self.demonstrations[each.id]),
                Dialogue(each.prompt, each.response),
                each.log_probability,
            )
            for each in samples
        ]

    def first(self, count: int) -> "Subject":
        """The same with only the first prompts."""
        return Subject(self.size, self.folder, self.template, self.prompts[:count], self.demonstrations, self.lengths)


def compute(precision: str) -> ComputeSettings:
    """One process on the CPU, in the threads that were set."""
    return ComputeSettings.model_validate({"device": "cpu", "precision": precision, "threads": torch.get_num_threads()})


def make(name: str, prompts: int | None = None, cache: Path = inputs.CACHE) -> Subject:
    """The subject of one size, with as many prompts as are asked for; made once, then read from `cache`."""
    size = SIZES[name]
    count = prompts or size.prompts
    return _pretrained(size, count) if size.config is None else _random(name, size, size.config, count, cache)


def _pretrained(size: Size, count: int) -> Subject:
    given = inputs.make(count)
    template: Template = given.template
    answers = {row.id: template.response(row.prompt, row.response) for row in given.rows}
    return Subject(size, given.folder, template, given.prompts(), answers, None)


def _random(name: str, size: Size, config: PreTrainedConfig, count: int, cache: Path) -> Subject:
    from transformers import AutoModelForCausalLM

    folder = cache / f"random-{name}"
    if not (folder / "model.safetensors").is_file():
        torch.manual_seed(SEED)
        AutoModelForCausalLM.from_config(config, trust_remote_code=False).save_pretrained(folder)
    real, drawn = lengths_within(size.limits.max_prompt_tokens, size.limits.max_response_tokens), random.Random(SEED)

    def tokens(length: int) -> list[int]:
        return [drawn.randrange(2, config.vocab_size) for _ in range(length)]

    prompts, demonstrations = [], {}
    for row in range(count):
        prompt, chosen, _ = real[row % len(real)]
        prompts.append((str(row), tokens(prompt)))
        demonstrations[str(row)] = [*tokens(chosen - 1), END]
    lengths = [rejected for _, _, rejected in real]
    return Subject(size, folder, TokenTemplate(size.limits), prompts, demonstrations, lengths)
