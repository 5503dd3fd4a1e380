"""Which GPU a single-process stage computes on: one that no other such stage on this machine has locked.

A GPU is identified by its name in CUDA_VISIBLE_DEVICES, a number or a UUID. Stages in different
containers, or with different names for one GPU, do not see each other's locks.
"""

import os
import tempfile
from pathlib import Path

from filelock import FileLock, Timeout

from juicer.runtime.devices import visible_gpus

DEVICES = Path("/dev")
VISIBLE = "CUDA_VISIBLE_DEVICES"


def take_one_gpu() -> FileLock | None:
    """Restrict this process and its children to one GPU; call it before torch is imported.

    transformers spreads a model over all visible GPUs (nn.DataParallel), which TRL refuses. If CUDA_VISIBLE_DEVICES is
    set, the GPU is one of those; if all are locked, it is the first.

    Returns:
        The lock on the GPU, to be kept as long as the GPU is used; None if there is no GPU, or no free one.
    """
    # One device file per GPU. Asking CUDA takes seconds and would fix what this process sees.
    gpus = visible_gpus(os.environ.get(VISIBLE), len(list(DEVICES.glob("nvidia[0-9]*"))))
    if not gpus:
        return None
    # A single GPU is locked too, so that processes which see more of them leave it alone.
    locked = next(((gpu, lock) for gpu in gpus if (lock := _locked(gpu)) is not None), None)
    gpu, lock = locked or (gpus[0], None)
    if len(gpus) > 1:
        os.environ[VISIBLE] = gpu
    return lock


def _locked(gpu: str) -> FileLock | None:
    """A lock on a GPU, which the system frees however this process ends; None if another process holds it."""
    folder = Path(tempfile.gettempdir()) / f"juicer-{os.getuid()}"
    lock = FileLock(folder / f"gpu-{gpu.replace('/', '-')}.lock", mode=0o600)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        lock.acquire(blocking=False)
    except (OSError, Timeout):  # another user's folder or a full disk is no reason to end the stage
        return None
    return lock
