"""How far log-probabilities in bf16 lie from each other, by the shapes of a pass: SmolLM2-135M-Instruct on real rows.

    python -m bench.bf16 ../shared/data/hh-harmless/train.jsonl.gz          # 8 rows; minutes on a CPU without bf16

Of a response: the mean and the largest absolute difference of log pi(y|x), in nats.
"""

import argparse
import gzip
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from juicer.data import hh
from juicer.data.dialogues import Dialogue
from juicer.data.template import Template
from juicer.models.fetching import fetch
from juicer.models.loading import TRAINING_DTYPE, load_policy, load_template, mixed_precision
from juicer.models.log_probability import score_dialogues
from juicer.models.published import PUBLISHED
from juicer.settings.compute import ComputeSettings
from juicer.settings.data import TemplateSettings
from juicer.training.passes import Passes

LONG, SHORT = 2048, 256
"""Tokens of a packed pass."""


def dialogues(path: Path, template: Template) -> Iterator[Dialogue]:
    """Rows of an Anthropic-HH file with prompts of up to 160 tokens and responses of up to 100."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            prompt, response = hh.parse(json.loads(line)["chosen"]) or ([], "")
            if response:
                found = Dialogue(template.prompt(prompt), template.response(prompt, response))
                if len(found.prompt) <= 160 and len(found.response) <= 100:
                    yield found


def apart(one: Tensor, other: Tensor) -> str:
    """The differences of two sets of log-probabilities."""
    gap = (one - other).abs()
    return f"{float(gap.mean()):.3f} mean, {float(gap.max()):.3f} worst"


def main() -> None:
    """Print the differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="file of Anthropic-HH, .jsonl.gz")
    parser.add_argument("--rows", type=int, default=8)
    given = parser.parse_args()
    lower, exact = (ComputeSettings(precision=each) for each in ("bf16", "fp32"))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        fetch(PUBLISHED["smollm2"], folder, print)
        template = load_template(folder, TemplateSettings(name="model", max_prompt_tokens=256, max_response_tokens=128))
        policy = load_policy(folder, exact, TRAINING_DTYPE)
    found = dialogues(given.data, template)
    rows = [each for each, _ in zip(found, range(given.rows), strict=False)]
    true = score_dialogues(policy, rows, template.padding)

    def padded(size: int) -> Tensor:
        with mixed_precision(lower):
            return score_dialogues(policy, rows, template.padding, size)

    def packed(tokens: int, *, copies: bool) -> Tensor:
        with mixed_precision(lower), Passes(packed=True, copies=copies).entered(policy):
            return score_dialogues(policy, rows, template.padding, tokens=tokens)

    whole, alone = padded(len(rows)), padded(1)
    print(f"padded, float32 weights, {len(rows)} rows and 1: {apart(whole, alone)}; from float32 {apart(whole, true)}")
    for copies, name in ((False, "float32"), (True, "bf16")):
        long, short, again = (packed(tokens, copies=copies) for tokens in (LONG, SHORT, SHORT))
        print(f"packed, {name} weights, {LONG} and {SHORT} tokens: {apart(long, short)}; ", end="")
        print(f"the same pass twice {apart(short, again)}; from float32 {apart(long, true)}", flush=True)


if __name__ == "__main__":
    main()
