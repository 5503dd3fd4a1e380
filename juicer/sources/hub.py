"""Rows of datasets on the Hugging Face hub; every failure becomes one readable error."""

import logging
from collections.abc import Iterator
from typing import Any

from juicer.runtime.errors import InputError


def split_of(source: str, revision: str, subset: str | None, split: str) -> Iterator[dict[str, Any]]:
    """Stream one split of a dataset of the hub at a commit.

    Args:
        subset: configuration or data folder; None if the dataset has only one.

    Raises:
        InputError: the hub cannot be reached, or the dataset, revision, subset or split does not exist.
    """
    import datasets

    # The library logs every retry; the error below reports the outcome once.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    try:
        names = datasets.get_dataset_config_names(source, revision=revision) if subset else []
        where = {"name": subset} if subset in names else {"data_dir": subset}
        yield from datasets.load_dataset(source, revision=revision, split=split, streaming=True, **where)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        do = "check the id, revision, subset and split, and that this machine can reach the hub"
        raise InputError(f"cannot read split {split!r}: {reason}", where=source, do=do) from error
