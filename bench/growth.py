"""How time grows: rows, rounds and tokens at 1, 4 and 16 times; an exponent of 1 is linear."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import GPTNeoXForCausalLM

from bench import inputs
from bench.measure import Timings, exponent
from bench.part import main
from juicer.data.dialogues import Dialogue
from juicer.data.template import Template
from juicer.methods.irft import irft_round
from juicer.methods.pairs import Pair, make_pairs
from juicer.quickstart.pretraining import policy_config
from juicer.sampling.decoding import sample_responses
from juicer.settings.irft import IrftTrainingSettings
from juicer.settings.training import OptimiserSettings, SamplingSettings
from juicer.settings.world import TinyPolicySettings

TIMES = (1, 4, 16)
PASS = IrftTrainingSettings(epochs=1, batch_size=32, beta=0.3, optimiser=OptimiserSettings(learning_rate=1e-6))
"""So small a learning rate that samples do not become longer or shorter from round to round."""


def measured(work: Callable[[int], int], repeats: int) -> dict[str, Any]:
    """Time `work`, given 1, 4 and 16, which returns what it was given to do in its own unit."""
    work(1)
    times, sizes = {factor: Timings() for factor in TIMES}, {}
    for _ in range(repeats):
        for factor in TIMES:
            sizes[factor] = times[factor].time(partial(work, factor))
    seconds = [times[factor].median("cpu") for factor in TIMES]
    return {
        "exponent": round(exponent(list(sizes.values()), seconds), 3),
        "goal": 1.05,
        "sizes": list(sizes.values()),
        "seconds": {str(factor): times[factor].cpu for factor in TIMES},
    }


def run(prompts: int, repeats: int) -> dict[str, Any]:
    """Measure; returns the part's results."""
    given = inputs.make(2 * prompts)
    policy, named, template = given.policy(), given.prompts(), given.template

    def round_of(rows: int) -> None:
        samples = sample_responses(policy, template, named[:rows], SamplingSettings(), seed=0)
        irft_round(policy, policy, make_pairs(given.rows, samples, template), PASS, template.padding, 0)

    def rows(factor: int) -> int:
        round_of(factor * prompts // 8)
        return factor * prompts // 8

    def rounds(factor: int) -> int:
        for _ in range(factor):
            round_of(64)
        return factor

    torch.manual_seed(0)
    size = TinyPolicySettings(context=1024)
    random = GPTNeoXForCausalLM(policy_config(size, size.vocabulary)).eval()
    count = max(16, prompts // 16)

    def tokens(length: int) -> list[list[int]]:
        return torch.randint(2, size.vocabulary, (count, length)).tolist()

    def sampled(length: int) -> int:
        # End-of-text is one of 1,024 random tokens, so most responses go on to the limit.
        limits = template.settings.model_copy(update={"max_response_tokens": length})
        asked = [(str(number), prompt) for number, prompt in enumerate(tokens(16))]
        limited = Template(template.tokenizer, limits)
        return sum(len(sample.response) for sample in sample_responses(random, limited, asked, SamplingSettings(), 0))

    def trained(length: int) -> int:
        columns = zip(tokens(16), tokens(length), tokens(length), strict=True)
        pairs = [Pair(Dialogue(prompt, one), Dialogue(prompt, other)) for prompt, one, other in columns]
        irft_round(random, random, pairs, PASS.model_copy(update={"batch_size": 8}), 1, 0)
        return 2 * count * length

    ways = {
        "rows": rows,
        "rounds": rounds,
        # The quickstart's responses have up to 40 tokens. Attention grows with the square, and at a width of 96 that
        # shows in longer ones; so they are measured too.
        "sampled tokens": lambda factor: sampled(8 * factor),
        "trained tokens": lambda factor: trained(8 * factor),
        "sampled tokens, long": lambda factor: sampled(32 * factor),
        "trained tokens, long": lambda factor: trained(32 * factor),
    }
    return {"growth_exponents": {name: measured(work, repeats) for name, work in ways.items()}}


if __name__ == "__main__":
    main(run, __doc__)
