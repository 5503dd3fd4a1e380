"""Scorers: models that assign one number to a response. They select demonstrations and judge samples.

All share one small interface; details such as a checkpoint format or a prompt format stay in a scorer's module.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from juicer.data.demonstrations import Message
from juicer.models.folder import check_folder
from juicer.runtime.context import LOCAL, WorkContext
from juicer.runtime.errors import InputError
from juicer.settings.compute import ComputeSettings
from juicer.settings.data import ScorerSettings


class Scorer(Protocol):
    """The interface of all scorers."""

    def refusals(self, rows: Sequence[tuple[list[Message], str]]) -> list[str | None]:
        """Why a row cannot be scored, because the scorer's chat template refuses it; None for the others."""
        ...

    def score(self, rows: Sequence[tuple[list[Message], str]], context: WorkContext = LOCAL) -> list[float]:
        """Score (prompt, response) rows.

        Args:
            context: the rows are distributed over its processes; its memo keeps scored batches.

        Returns:
            One finite number per row, in the order of the rows; the same rows give the same numbers.
        """
        ...


def check_rows(scorer: Scorer | None, rows: Sequence[tuple[str, list[Message], str]], where: str) -> None:
    """Raise InputError for the first row, given as (id, prompt, response), that the scorer's template refuses."""
    reasons = [] if scorer is None else scorer.refusals([(prompt, response) for _, prompt, response in rows])
    for (identity, _, _), reason in zip(rows, reasons, strict=False):
        if reason is not None:
            do = "curate the data again with this scorer: juicer run"
            raise InputError(f"{reason} (the row {identity})", where=where, do=do)


def load(settings: ScorerSettings, folder: Path | None, compute: ComputeSettings) -> Scorer | None:
    """Load the scorer in `folder`, or None for kind `none`.

    Raises:
        InputError: the folder holds no such model, lacks a tokenizer, or its checkpoint has unexpected tensors.
    """
    if settings.kind == "none":
        return None
    if folder is None:
        raise InputError(f"scorer.kind is {settings.kind!r}, but there is no scorer", do="set scorer.model")
    check_folder(folder)
    # Imported here because they import torch and transformers, which takes seconds and kind `none` does not need.
    if settings.kind == "beaver":
        from juicer.scorers.beaver import BeaverScorer

        return BeaverScorer.load(folder, settings, compute)
    from juicer.scorers.sequence_classification import SequenceClassificationScorer

    return SequenceClassificationScorer.load(folder, settings, compute)
