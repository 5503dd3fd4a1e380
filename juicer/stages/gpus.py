"""Which GPU a stage of one process computes on: one that no other such stage on this machine has taken.

Known by what CUDA calls it here: stages in containers of their own, or told of their GPUs in other words (a number, a
UUID), know nothing of each other.
"""

import fcntl
import os
import tempfile
from pathlib import Path

from juicer.runtime.devices import visible_gpus

DEVICES = Path("/dev")
VISIBLE = "CUDA_VISIBLE_DEVICES"


def take_one_gpu() -> None:
    """Let this process, and what it starts, see one GPU for the rest of its life; must come before torch is imported.

    transformers spreads a model over all GPUs that a process sees (nn.DataParallel), and TRL refuses that. Where
    CUDA_VISIBLE_DEVICES is set it is one of those; where all are taken, the first.
    """
    # One node per GPU. To ask CUDA would cost seconds, and settle what it shows this process.
    gpus = visible_gpus(os.environ.get(VISIBLE), len(list(DEVICES.glob("nvidia[0-9]*"))))
    if not gpus:
        return
    # One alone is taken as well: others, who see more, shall leave it.
    own = next((gpu for gpu in gpus if _taken(gpu)), gpus[0])
    if len(gpus) > 1:
        os.environ[VISIBLE] = own


def _taken(gpu: str) -> bool:
    """Take a GPU for the life of this process, by a lock that ends with it, however that ends; False if another has."""
    folder = Path(tempfile.gettempdir()) / f"juicer-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(folder / f"gpu-{gpu.replace('/', '-')}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError:  # a folder that is not ours, a full disk: no reason to end a stage
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return False
    return True
