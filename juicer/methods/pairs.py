"""The demonstration/sample pairs of a round, and the demonstrations that a round uses."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

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
    """log pi(y'|x) as recorded while the policy sampled y'; None where it was not recorded, or by an earlier policy."""
    contrast: int | None = None
    """Number of the contrast that it is part of: pairs of one demonstration with several samples stand together and
    share it. None for a pair that stands alone."""


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
    seen: set[tuple[str, int, int]] = set()
    pairs: list[Pair] = []
    contrast, last = -1, None
    for sample in samples:
        if sample.id not in known:
            what = f"sample {sample.id} does not belong to any demonstration"
            raise InputError(what, do="generate the samples again")
        if (sample.id, sample.index, sample.earlier) in seen:
            raise InputError(f"sample {sample.id} number {sample.index} occurs twice", do="generate the samples again")
        seen.add((sample.id, sample.index, sample.earlier))
        contrast, last = contrast + ((sample.id, sample.earlier) != last), (sample.id, sample.earlier)
        row = known[sample.id]
        demonstration = Dialogue(sample.prompt, template.response(row.prompt, row.response))
        recorded = None if sample.earlier else sample.log_probability
        pairs.append(Pair(demonstration, Dialogue(sample.prompt, sample.response), recorded, contrast))
    if not pairs:
        raise InputError("there are no demonstration/sample pairs", do="generate the samples again")
    return pairs


def contrasts_of(pairs: Sequence[Pair]) -> list[list[int]]:
    """The indices of the pairs of each contrast: one demonstration, and its samples."""

    def name(place: int) -> tuple[bool, int]:
        contrast = pairs[place].contrast
        return (True, place) if contrast is None else (False, contrast)

    return [list(group) for _, group in groupby(range(len(pairs)), key=name)]


def with_replay(samples: Sequence[Sample], share: float, seed: int) -> list[Sample]:
    """The samples that a round trains on: its own, but for a share of the prompts those of an earlier round instead.

    The number of prompts stays the same, and samples of one prompt and round stay together. All earlier rounds'
    are equally likely to be taken, in whatever number they are.

    Args:
        samples: the round's own samples, and those of earlier rounds (`Sample.earlier`), in any order.
        share: of the round's prompts, rounded down; fewer where there are not as many earlier ones.
    """
    groups = [list(group) for _, group in groupby(samples, key=lambda sample: (sample.earlier, sample.id))]
    own = [group for group in groups if not group[0].earlier]
    earlier = [group for group in groups if group[0].earlier]
    count = min(int(share * len(own)), len(earlier))
    generator = torch.Generator().manual_seed(seed)
    kept = torch.randperm(len(own), generator=generator)[count:].sort().values.tolist()
    taken = torch.randperm(len(earlier), generator=generator)[:count].sort().values.tolist()
    return [sample for group in [*(own[row] for row in kept), *(earlier[row] for row in taken)] for sample in group]


def response_tokens(
    pairs: Sequence[Pair], batches: Iterable[Sequence[int]], contrasts: Sequence[Sequence[int]] | None = None
) -> int:
    """Number of response tokens, of demonstrations and of samples, in batches of contrasts that are given by index.

    Args:
        contrasts: the pairs of each contrast; None for a pair each.
    """
    lengths = [
        len(pairs[each[0]].demonstration.response) + sum(len(pairs[place].sample.response) for place in each)
        for each in (contrasts if contrasts is not None else [[place] for place in range(len(pairs))])
    ]
    return sum(lengths[row] for batch in batches for row in batch)
