"""How good a reward model is that was trained on preference pairs: its accuracy and calibration on held-out ones.

The stage `preferences` writes the record beside the weights, and every stage that uses the folder as a scorer reads it.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from juicer.evaluation.documents import Document
from juicer.evaluation.significance import half_width, share_error
from juicer.runtime.errors import InputError

RECORD = "pairs.json"
BINS = 5
"""Bins of the calibration, each with as many pairs."""
CHANCE = 0.5


class Bin(Document):
    """Held-out pairs in which the model is about equally sure."""

    pairs: int
    confidence: float
    """Mean of sigmoid(|r(chosen) - r(rejected)|): how often the model says that it is right, from 0.5."""
    right: float
    """Share in which it is."""


class PairsRecord(Document):
    """pairs.json: what a reward model was trained on, and how often it is right on held-out pairs."""

    role: str
    """scorer or judge."""
    trained_pairs: int
    held_out_pairs: int
    left_out: dict[str, int] = Field(default_factory=dict)
    """Pairs that were not used, by reason."""
    training_accuracy: float
    """Share of the training pairs with r(chosen) > r(rejected)."""
    accuracy: float
    """The same of held-out pairs; ties count half."""
    low: float
    """Lower end of its 95% interval."""
    high: float
    log_loss: float
    """Mean of -log sigmoid(r(chosen) - r(rejected)) of held-out pairs, in nats; log 2 = 0.693 is that of a coin."""
    calibration_error: float
    """Mean distance between the confidence of a bin and the share in which it is right, weighted by pairs."""
    bins: list[Bin]
    held_out_prompts: list[str] = Field(default_factory=list)
    """Prompts of the held-out pairs, as the first 16 hex digits of their SHA-256."""

    @property
    def said(self) -> str:
        """The accuracy in words."""
        return f"{self.accuracy:.3f} (95% interval {self.low:.3f} to {self.high:.3f}) of {self.held_out_pairs} pairs"


def accuracy_interval(share: float, count: int) -> tuple[float, float]:
    """The 95% interval of a share of `count` pairs, within [0, 1] (`juicer.evaluation.significance`)."""
    width = half_width(count) * share_error(share, count)
    return max(0.0, share - width), min(1.0, share + width)


def accuracy_of(margins: Sequence[float]) -> float:
    """Share of the margins r(chosen) - r(rejected) above 0; ties count half."""
    return sum(1.0 if margin > 0 else 0.5 if margin == 0 else 0.0 for margin in margins) / len(margins)


def log_loss(margins: Sequence[float]) -> float:
    """Mean of -log sigmoid(margin), in nats."""
    return sum(math.log1p(math.exp(-abs(margin))) + max(0.0, -margin) for margin in margins) / len(margins)


def calibration(margins: Sequence[float], bins: int = BINS) -> list[Bin]:
    """Confidence against the share that is right, in bins of about equally many pairs.

    Args:
        margins: r(chosen) - r(rejected) of held-out pairs, at least one.
    """
    ordered = sorted(margins, key=abs)
    bins = min(bins, len(ordered))
    found = []
    for number in range(bins):
        part = ordered[number * len(ordered) // bins : (number + 1) * len(ordered) // bins]
        confidence = sum(1 / (1 + math.exp(-min(abs(margin), 700.0))) for margin in part) / len(part)
        right = accuracy_of(part)
        found.append(Bin(pairs=len(part), confidence=_rounded(confidence), right=_rounded(right)))
    return found


def record_of(
    role: str,
    margins: Sequence[float],
    trained_pairs: int,
    training_accuracy: float,
    left_out: dict[str, int],
    held_out_prompts: Sequence[str],
) -> PairsRecord:
    """The record of a trained model.

    Args:
        margins: r(chosen) - r(rejected) of the held-out pairs.
    """
    accuracy, bins = accuracy_of(margins), calibration(margins)
    low, high = accuracy_interval(accuracy, len(margins))
    return PairsRecord(
        role=role,
        trained_pairs=trained_pairs,
        held_out_pairs=len(margins),
        left_out=left_out,
        training_accuracy=_rounded(training_accuracy),
        accuracy=_rounded(accuracy),
        low=_rounded(low),
        high=_rounded(high),
        log_loss=_rounded(log_loss(margins)),
        calibration_error=_rounded(sum(each.pairs * abs(each.confidence - each.right) for each in bins) / len(margins)),
        bins=bins,
        held_out_prompts=list(held_out_prompts),
    )


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def read_record(folder: Path | None) -> PairsRecord | None:
    """The record beside a reward model's weights; None for a model that was not trained here on pairs."""
    path = None if folder is None else folder / RECORD
    return PairsRecord.read(path) if path is not None and path.is_file() else None


def check_accuracy(folder: Path | None, slot: str, *, accept_chance: bool) -> PairsRecord | None:
    """Refuse a reward model that is no better than chance on held-out pairs.

    Args:
        folder: the model's; None for no model.
        slot: the section of the recipe that uses it, `scorer` or `judge`.
        accept_chance: whether it is used all the same.

    Returns:
        The record; None if there is none.

    Raises:
        InputError: its held-out accuracy is 0.5 or less.
    """
    record = read_record(folder)
    if record is not None and record.accuracy <= CHANCE and not accept_chance:
        what = f"the {slot} is no better than chance on held-out pairs: accuracy {record.said}"
        do = f"train it on more pairs or for longer (preferences.{slot}), or set {slot}.accept_chance to true"
        raise InputError(what, where=str(folder), do=do)
    return record
