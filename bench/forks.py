"""When does it pay to compute a prompt once for both responses of a pair? One row for both, against one for each.

    python -m bench.forks

Prints, per width of the model and lengths of prompt and responses, the processor seconds of forward and backward
passes in one row over those in two, and what the rule of juicer/models/forks.py says.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from transformers import GPTNeoXForCausalLM

from bench.measure import Timings
from juicer.data.dialogues import Dialogue
from juicer.models.forks import Fork, ForkBatch, fork_log_probabilities, forks_are_faster
from juicer.models.log_probability import compute_in_chunks, response_log_probabilities
from juicer.quickstart.pretraining import policy_config
from juicer.settings.world import TinyPolicySettings

CPU = torch.device("cpu")
SHAPES = ((26, 14), (64, 16), (64, 64), (32, 128), (128, 128), (256, 256), (64, 256), (16, 512))
"""Tokens of the prompt and of each response; the first is the quickstart's."""
WIDTHS = (96, 256)


def compare(policy: GPTNeoXForCausalLM, prompt: int, response: int, repeats: int) -> tuple[float, bool]:
    """Seconds together over seconds apart, and whether the rule would fork."""
    vocabulary = policy.config.vocab_size

    def tokens(count: int) -> list[int]:
        return torch.randint(2, vocabulary, (count,)).tolist()

    # Lengths vary as they do in a batch, so there is some padding.
    spread = [0.75 + 0.5 * number / 15 for number in range(16)]
    forks = [Fork(tokens(prompt), tokens(int(response * each)), tokens(int(response * each))) for each in spread]
    dialogues = [Dialogue(fork.prompt, each) for fork in forks for each in fork.responses]

    def together() -> Tensor:
        return compute_in_chunks(partial(fork_log_probabilities, policy), forks, 1, CPU, batch_of=ForkBatch.of)

    def apart() -> Tensor:
        return compute_in_chunks(partial(response_log_probabilities, policy), dialogues, 1, CPU)

    def differentiate(way: Callable[[], Tensor]) -> None:
        way().sum().backward()

    ways = {together: Timings(), apart: Timings()}
    for way in ways:
        differentiate(way)
    for _ in range(repeats):
        for way, times in ways.items():
            times.time(partial(differentiate, way))
    return ways[together].median("cpu") / ways[apart].median("cpu"), forks_are_faster(policy, forks)


def main() -> None:
    torch.set_num_threads(1)
    print("width  prompt  response  together/apart  rule")
    for width in WIDTHS:
        torch.manual_seed(0)
        settings = TinyPolicySettings(hidden_size=width, context=2048)
        policy = GPTNeoXForCausalLM(policy_config(settings, settings.vocabulary)).eval()
        for prompt, response in SHAPES:
            found, rule = compare(policy, prompt, response, repeats=3)
            print(f"{width:5d}  {prompt:6d}  {response:8d}  {found:14.2f}  {'fork' if rule else 'apart'}", flush=True)


if __name__ == "__main__":
    main()
