"""Scorers: models that give a response one number. They curate demonstrations and judge samples.

One small interface; what a scorer needs besides (a checkpoint format, a prompt format) stays in its own module.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from juicer.data.demonstrations import Message
from juicer.runtime.context import LOCAL, WorkContext
from juicer.runtime.errors import InputError
from juicer.settings.compute import ComputeSettings
from juicer.settings.data import ScorerSettings


class Scorer(Protocol):
    """What every scorer can do."""

    def score(self, rows: Sequence[tuple[list[Message], str]], context: WorkContext = LOCAL) -> list[float]:
        """Score (prompt, response) rows.

        Args:
            context: the rows are distributed over its processes; its memo keeps scored batches.

        Returns:
            One finite number per row, in the order of the rows; the same rows give the same numbers.
        """
        ...


def load(settings: ScorerSettings, folder: Path, compute: ComputeSettings) -> Scorer | None:
    """Load the scorer in `folder`, or None for kind `none`.

    Raises:
        InputError: the folder holds no such model, lacks a tokenizer, or its checkpoint has unexpected tensors.
    """
    if settings.kind == "none":
        return None
    if not (folder / "config.json").is_file():
        raise InputError("no model here: config.json is missing", where=str(folder), do="check scorer.model")
    # Each kind imports torch and transformers, seconds that the kind `none` does not have to pay.
    if settings.kind == "beaver":
        from juicer.scorers.beaver import BeaverScorer

        return BeaverScorer.load(folder, settings, compute)
    from juicer.scorers.sequence_classification import SequenceClassificationScorer

    return SequenceClassificationScorer.load(folder, settings, compute)
