"""Rows of datasets on the Hugging Face hub; every failure becomes one readable error."""

import logging
import os
from collections.abc import Iterator
from typing import Any

from juicer.runtime.errors import InputError

SECONDS = 5.0
"""How long the hub is waited for where its answer can be done without."""


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


def counted_rows(source: str, revision: str | None, subset: str | None, split: str) -> int | None:
    """Rows of a split, as the dataset's card on the hub says; None where it does not, or the hub does not answer.

    A few seconds are waited at most, and nothing is downloaded but the card.
    """
    from huggingface_hub import HfApi

    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return None
    try:
        card: Any = HfApi().dataset_info(source, revision=revision, timeout=SECONDS).card_data
        listed = (card or {}).get("dataset_info") or []
        configurations = listed if isinstance(listed, list) else [listed]
        if subset:
            configurations = [each for each in configurations if each.get("config_name") == subset]
        (configuration,) = configurations
        (rows,) = (int(each["num_examples"]) for each in configuration["splits"] if each["name"] == split)
    except Exception:  # whatever the network, the hub's client and other people's cards raise
        return None
    return rows if rows > 0 else None
