"""A reward model from preference pairs: Bradley-Terry, P(chosen over rejected) = sigmoid(r(chosen) - r(rejected)).

It is trained by the reward step of RFT, on pairs that people judged instead of demonstration and sample. The dialogues
are encoded by the scorer that will use the model, so that training and use read the same token of the same text.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from juicer.data.demonstrations import Demonstration
from juicer.data.dialogues import Dialogue
from juicer.evaluation.pairs_record import accuracy_interval
from juicer.methods.pairs import Pair
from juicer.runtime.errors import InputError
from juicer.scorers.encoding import Row
from juicer.settings.preferences import PreferenceModelSettings, Role
from juicer.sources.curation import place_of

FEWEST_HELD_OUT = 10
"""Fewer held-out pairs say nothing of the accuracy."""


@dataclass
class Pairs:
    """The pairs of one reward model, chosen before rejected."""

    training: list[Pair] = field(default_factory=list)
    held_out: list[Pair] = field(default_factory=list)
    held_out_prompts: list[str] = field(default_factory=list)
    """Hashes of the held-out pairs' prompts."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Pairs that are not used, by reason."""


def pairs_of(
    rows: Sequence[Demonstration],
    settings: PreferenceModelSettings,
    encode: Callable[[Sequence[Row]], list[list[int]]],
    refusals: Callable[[Sequence[Row]], list[str | None]],
) -> Pairs:
    """Encode the rows and divide them by the hash of their prompts.

    Args:
        rows: those of this model's share.
        encode: token ids of (prompt, response) rows, as the scorer reads them.
        refusals: why the scorer's chat template refuses a row; None for those that it takes.
    """
    found, usable = Pairs(), list[Demonstration]()
    chosen = [(row.prompt, row.response) for row in rows]
    for row, reason in zip(rows, refusals(chosen), strict=True):
        if row.rejected is None:
            found.left_out["no_rejected_response"] += 1
        elif row.rejected.strip() == row.response.strip():
            found.left_out["equal_responses"] += 1
        elif reason is not None:
            found.left_out["refused_by_template"] += 1
        else:
            usable.append(row)
    better = encode([(row.prompt, row.response) for row in usable])
    worse = encode([(row.prompt, row.rejected or "") for row in usable])
    for row, first, second in zip(usable, better, worse, strict=True):
        if max(len(first), len(second)) > settings.max_tokens:
            found.left_out["too_long"] += 1
            continue
        pair = Pair(Dialogue(first[:-1], first[-1:]), Dialogue(second[:-1], second[-1:]))
        # Another part of the hash than the one that decides the side.
        if place_of(row.split_hash(), 1) < settings.held_out_share:
            found.held_out.append(pair)
            found.held_out_prompts.append(row.prompt_hash()[:16])
        else:
            found.training.append(pair)
    return found


def check_enough(role: Role, pairs: Pairs, settings: PreferenceModelSettings, where: str) -> None:
    """Refuse to train on too few pairs.

    Raises:
        InputError: says how many there are, and how wide the interval of the accuracy would be.
    """
    trained, held_out = len(pairs.training), len(pairs.held_out)
    if trained >= settings.least_pairs and held_out >= FEWEST_HELD_OUT:
        return
    what = f"preferences.{role} has {trained} pairs to train on and {held_out} held-out ones"
    needs = f"it needs at least {settings.least_pairs} and {FEWEST_HELD_OUT}"
    if held_out >= 2:
        low, high = accuracy_interval(0.6, held_out)
        needs += f"; an accuracy of 0.6 on {held_out} pairs has a 95% interval from {low:.2f} to {high:.2f}"
    lost = ", ".join(f"{count} {reason}" for reason, count in sorted(pairs.left_out.items()))
    do = f"add pairs, raise preferences.{role}.share or max_tokens, or lower least_pairs or held_out_share"
    raise InputError(f"{what} ({f'left out: {lost}; ' if lost else ''}{needs})", where=where, do=do)
