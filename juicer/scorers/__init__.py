"""Scorers: models that give a response one number. They curate demonstrations and judge samples.

One small interface; what a scorer needs besides (a checkpoint format, a prompt format) stays in its own module.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from juicer.data.demonstrations import Message
from juicer.runtime.errors import InputError
from juicer.runtime.memo import Memo, no_memo
from juicer.runtime.processes import SINGLE_PROCESS, Processes
from juicer.settings.compute import ComputeSettings
from juicer.settings.data import ScorerSettings


class Scorer(Protocol):
    """What every scorer can do."""

    def score(self, rows: Sequence[tuple[list[Message], str]], memo: Memo = no_memo) -> list[float]:
        """Score (prompt, response) rows.

        Args:
            memo: gives the batches that an interrupted run has scored.

        Returns:
            One finite number per row, in the order of the rows; the same rows give the same numbers.
        """
        ...


def load(
    settings: ScorerSettings, folder: Path | None, compute: ComputeSettings, processes: Processes = SINGLE_PROCESS
) -> Scorer | None:
    """Load the scorer in `folder`, or None for kind `none`. Rows that it scores are dealt out over `processes`.

    Raises:
        InputError: the folder holds no such model, lacks a tokenizer, or its checkpoint has unexpected tensors.
    """
    if settings.kind == "none":
        return None
    if folder is None:
        raise InputError(f"scorer.kind is {settings.kind!r}, but there is no scorer", do="set scorer.model")
    if not (folder / "config.json").is_file():
        raise InputError("no model here: config.json is missing", where=str(folder), do="check scorer.model")
    # Each kind imports torch and transformers, seconds that the kind `none` does not have to pay.
    if settings.kind == "beaver":
        from juicer.scorers.beaver import BeaverScorer

        return BeaverScorer.load(folder, settings, compute, processes)
    from juicer.scorers.sequence_classification import SequenceClassificationScorer

    return SequenceClassificationScorer.load(folder, settings, compute, processes)
