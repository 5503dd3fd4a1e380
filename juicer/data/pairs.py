"""Demonstration/sample pairs of one round, and which demonstrations a round sees."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from juicer.data.demonstrations import Demonstration
from juicer.data.dialogues import Dialogue
from juicer.data.samples import Sample
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
    """The rows a round sees: "all", or the i-th of n equal slices of the shuffled rows, written "i/n".

    Every row is in exactly one slice; slice sizes differ by at most one.
    """
    if part == "all":
        return list(rows)
    index, count = map(int, part.split("/"))
    if len(rows) < count:
        raise InputError(f"{len(rows)} demonstrations cannot be split over {count} rounds", do="lower the rounds")
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    return [rows[row] for row in sorted(order[(index - 1) * len(rows) // count : index * len(rows) // count])]


def make_pairs(demonstrations: Sequence[Demonstration], samples: Sequence[Sample], template: Template) -> list[Pair]:
    """Join samples to the demonstrations they answer, in the order of the samples.

    A sample keeps the tokens that were sampled: it is not decoded and tokenised again, and one that was cut at the
    limit gets no end-of-text.

    Raises:
        InputError: a sample of an unknown demonstration, or the same sample twice.
    """
    known = {row.id: row for row in demonstrations}
    seen: set[tuple[str, int]] = set()
    pairs = []
    for sample in samples:
        if sample.id not in known:
            raise InputError(f"sample {sample.id} answers no demonstration", do="generate the samples again")
        if (sample.id, sample.index) in seen:
            raise InputError(f"sample {sample.id} number {sample.index} is there twice", do="generate them again")
        seen.add((sample.id, sample.index))
        row = known[sample.id]
        demonstration = Dialogue(sample.prompt, template.response(row.prompt, row.response))
        pairs.append(Pair(demonstration, Dialogue(sample.prompt, sample.response), sample.log_probability))
    if not pairs:
        raise InputError("there are no demonstration/sample pairs", do="generate the samples again")
    return pairs


def response_tokens(pairs: Sequence[Pair], batches: Iterable[Sequence[int]]) -> int:
    """Response tokens, of demonstrations and samples, in batches of pairs given by their numbers."""
    lengths = [len(pair.demonstration.response) + len(pair.sample.response) for pair in pairs]
    return sum(lengths[row] for batch in batches for row in batch)
