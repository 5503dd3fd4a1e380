"""Rows of data sets of the Hugging Face hub; whatever goes wrong there becomes one readable error."""

import logging
from collections.abc import Iterator
from typing import Any

from juicer.runtime.errors import InputError


def split_of(source: str, revision: str, subset: str | None, split: str) -> Iterator[dict[str, Any]]:
    """Stream one split of a dataset of the hub at a commit.

    Args:
        subset: its configuration or data folder; None where it has one only.

    Raises:
        InputError: the hub cannot be reached, or has no such dataset, revision, subset or split.
    """
    import datasets

    # They tell of every retry; we tell once how it ended.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    try:
        names = datasets.get_dataset_config_names(source, revision=revision) if subset else []
        where = {"name": subset} if subset in names else {"data_dir": subset}
        yield from datasets.load_dataset(source, revision=revision, split=split, streaming=True, **where)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        do = "check the id, revision, subset and split, and that this machine reaches the hub"
        raise InputError(f"cannot read split {split!r}: {reason}", where=source, do=do) from error
