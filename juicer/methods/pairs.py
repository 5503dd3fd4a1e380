"""The demonstration/sample pairs of a round, and the demonstrations that a round uses."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from juicer.data.demonstrations import Demonstration
from juicer.data.dialogues import Dialogue, Sample
from juicer.data.template import Template
from juicer.runtime.errors import InputError


@dataclass(frozen=True)
class Pair:
    """The same prompt answered by a human (y) and by the policy (y')."""

    demonstration: Dialogue
    sample: Dialogue
    sample_log_probability: float | None = None
    """log pi(y'|x) as recorded while the policy sampled y'; None where it was not recorded."""


def part_of(rows: Sequence[Demonstration], part: str, seed: int) -> list[Demonstration]:
    """The rows that a round uses: "all", or the i-th of n equal slices of the shuffled rows, written "i/n".

    Every row is in exactly one slice; slice sizes differ by at most one.
    """
    if part == "all":
        return list(rows)
    index, count = map(int, part.split("/"))
    if len(rows) < count:
        what = f"{len(rows)} demonstrations cannot be split over {count} rounds"
        raise InputError(what, do="lower the number of rounds")
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    return [rows[row] for row in sorted(order[(index - 1) * len(rows) // count : index * len(rows) // count])]


def make_pairs(demonstrations: Sequence[Demonstration], samples: Sequence[Sample], template: Template) -> list[Pair]:
    """Join samples to the demonstrations they answer, in the order of the samples.

    A sample keeps the tokens that were sampled: it is not decoded and tokenised again, and a sample that was cut off at
    the limit does not get an end-of-text.

    Raises:
        InputError: a sample belongs to an unknown demonstration or occurs twice, or there are no pairs.
    """
    known = {row.id: row for row in demonstrations}
    seen: set[tuple[str, int]] = set()
    pairs = []
    for sample in samples:
        if sample.id not in known:
            what = f"sample {sample.id} does not belong to any demonstration"
            raise InputError(what, do="generate the samples again")
        if (sample.id, sample.index) in seen:
            raise InputError(f"sample {sample.id} number {sample.index} occurs twice", do="generate the samples again")
        seen.add((sample.id, sample.index))
        row = known[sample.id]
        demonstration = Dialogue(sample.prompt, template.response(row.prompt, row.response))
        pairs.append(Pair(demonstration, Dialogue(sample.prompt, sample.response), sample.log_probability))
    if not pairs:
        raise InputError("there are no demonstration/sample pairs", do="generate the samples again")
    return pairs


def response_tokens(pairs: Sequence[Pair], batches: Iterable[Sequence[int]]) -> int:
    """Number of response tokens, of demonstrations and of samples, in batches of pairs that are given by index."""
    lengths = [len(pair.demonstration.response) + len(pair.sample.response) for pair in pairs]
    return sum(lengths[row] for batch in batches for row in batch)
