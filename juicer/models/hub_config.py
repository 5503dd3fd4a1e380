"""The config.json of a model on the hub, without its weights."""

import os
import re
from pathlib import Path

SECONDS = 5.0
"""How long the hub is waited for."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def hub_config(model: str, revision: str | None) -> Path | None:
    """The config.json of a hub model, from the hub's cache on this machine or from the hub.

    Args:
        model: a hub id; nothing is asked for anything else.
        revision: a commit; None takes the branch main.

    Returns:
        A file in the hub's cache; None where there is no such model, no network and no copy.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not HUB_ID.fullmatch(model):
        return None
    disable_progress_bars()
    is_offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    for local in (True,) if is_offline else (True, False):
        try:
            if not local:
                # Fails at once without a network, where a download would be tried again and again.
                HfApi().model_info(model, revision=revision, timeout=SECONDS)
            return Path(
                hf_hub_download(model, "config.json", revision=revision, etag_timeout=SECONDS, local_files_only=local)
            )
        except Exception:  # noqa: S112  whatever the network and the hub's client raise; None says it
            continue
    return None
