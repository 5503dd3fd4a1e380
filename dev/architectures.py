"""The probe over every causal language model of the installed transformers: the table in docs/models.md.

python -m dev.architectures            # print the table
python -m dev.architectures --write    # and replace it in docs/models.md
python -m dev.architectures granite    # some of them

Each architecture is built tiny from its default configuration. Constants that are 1 by default, which would hide what
a model does to its logits, get other values, and encoders are made decoders.
"""

import argparse
import importlib.metadata
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from juicer.methods.probe import Probed, probe_policy, probe_reward
from juicer.runtime.errors import InputError
from juicer.settings.training import LoraSettings

if TYPE_CHECKING:
    from transformers import PretrainedConfig

PAGE = Path(__file__).resolve().parents[1] / "docs" / "models.md"
BEGIN, END = "<!-- table -->\n", "<!-- end of the table -->"
CONSTANTS = {
    "logits_scaling": 8.0,
    "logit_scale": 0.0625,
    "lm_head_multiplier": 0.25,
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.5,
    "attention_out_multiplier": 0.5,
    "ssm_out_multiplier": 0.5,
}
VALUES: dict[str, dict[str, Any]] = {
    "bamba": {"num_hidden_layers": 4, "attn_layer_indices": [1, 3]},
    "granitemoehybrid": {"num_hidden_layers": 4, "layer_types": ["mamba", "attention", "mamba", "attention"]},
    "lfm2": {"num_hidden_layers": 4, "layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "lfm2_moe": {"num_hidden_layers": 4, "layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "dots1": {"num_experts_per_tok": 2, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "n_shared_experts": 1},
    "reformer": {"attn_layers": ["local"] * 2, "num_hidden_layers": 2},
}
"""What default configurations leave open, and layers of a kind that they have none of but the models do."""


@dataclass(frozen=True)
class Entry:
    """What the probe says of one architecture.

    Attributes:
        kind: model type in config.json.
        policy: how it is computed, or why it is refused.
        limits: what a policy of this architecture cannot do.
        reward: whether a reward model can be made of it.
    """

    kind: str
    policy: Probed | str
    limits: tuple[str, ...] = ()
    reward: bool = False

    @property
    def works(self) -> bool:
        """Whether a policy of this architecture is exact."""
        return isinstance(self.policy, Probed)


def kinds() -> list[str]:
    """The model types that transformers has a causal language model for."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def example_config(kind: str) -> "PretrainedConfig":
    """The default configuration of a model type, with constants that show."""
    from transformers import AutoConfig

    values: dict[str, Any] = VALUES.get(kind, {})
    config = AutoConfig.for_model(kind, **values)
    text = config.get_text_config(decoder=True)
    for name, value in CONSTANTS.items():
        if name in text.to_dict() and getattr(text, name) is not None:
            setattr(text, name, value)
    if getattr(text, "is_decoder", None) is False:
        text.is_decoder = True
    return config


def probe(kind: str) -> Entry:
    """Probe one architecture as a policy, with LoRA, with recomputed activations, and as a reward."""
    try:
        config = example_config(kind)
    except Exception as error:  # whatever a configuration's own checks raise
        return Entry(kind, f"no default configuration: {_first_line(error)}")
    try:
        policy = probe_policy(config, where=kind)
    except InputError as error:
        return Entry(kind, _without_class(error.what))
    limits = []
    for limit, given in (("LoRA", {"lora": LoraSettings(r=4)}), ("recomputed activations", {"recompute": True})):
        try:
            probe_policy(config, where=kind, **given)
        except InputError:
            limits.append(limit)
    try:
        probe_reward(config, where=kind)
        reward = True
    except InputError:
        reward = False
    return Entry(kind, policy, tuple(limits), reward)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _without_class(text: str) -> str:
    return re.sub(r"^Juicer is not exact on \w+: |^a small random copy .* cannot be built: ", "", text)


def rows(entries: Iterable[Entry]) -> Iterator[str]:
    """The lines of the table."""
    yield "| model type | forward pass | sampling | attention | not available | reward |"
    yield "|---|---|---|---|---|---|"
    for entry in entries:
        if isinstance(entry.policy, str):
            reason = re.sub(r"[|<>]", " ", entry.policy)[:160]
            yield f"| {entry.kind} | refused | {reason} | | | |"
            continue
        cache = {"buffered": "buffered cache", "own": "its own cache", "none": "no cache"}[entry.policy.cache]
        yield (
            f"| {entry.kind} | {entry.policy.forward} | {cache} | {entry.policy.attention} "
            f"| {', '.join(entry.limits)} | {'yes' if entry.reward else 'no'} |"
        )


def table(entries: list[Entry]) -> str:
    """The table, with its count above it."""
    works = [entry for entry in entries if entry.works]
    version = importlib.metadata.version("transformers")
    count = f"transformers {version}: {len(works)} of {len(entries)} model types work, the others are refused.\n\n"
    return count + "\n".join(rows(entries)) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="MODEL_TYPE", help="some of them; by default all")
    parser.add_argument("--write", action="store_true", help="replace the table in docs/models.md")
    given = parser.parse_args()
    entries = []
    for kind in given.kinds or kinds():
        entries.append(probe(kind))
        print(*list(rows(entries[-1:]))[2:], flush=True)
    if given.write and not given.kinds:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        PAGE.write_text(before + BEGIN + table(entries) + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
