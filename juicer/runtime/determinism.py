"""The deterministic mode of a GPU (`compute.deterministic`): the same bytes again on the same card and versions.

Many operations on a GPU add in the order in which its threads finish. The mode takes slower ones that do not, and
stops a stage that has an operation without such a form. A CPU has no others, so nothing is set there.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from juicer.runtime.errors import InputError

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
WORKSPACES = (":4096:8", ":16:8")
"""The values with which cuBLAS sums in a fixed order; the first one is faster and takes 24 MiB."""


def set_variables() -> None:
    """Set what libraries read when they start, here and in the processes that this one starts; before CUDA starts."""
    if os.environ.get(WORKSPACE) not in WORKSPACES:
        os.environ[WORKSPACE] = WORKSPACES[0]
    os.environ["FLASH_ATTENTION_DETERMINISTIC"] = "1"  # transformers passes it on to flash-attention at every call
    os.environ.setdefault("NCCL_ALGO", "Ring")  # GPUs are summed over in the order of a ring, whatever the size


def begin() -> None:
    """Take deterministic operations only, if this process has a GPU; imports torch."""
    import torch

    if torch.cuda.is_available():
        # Attention's backward passes, fused or not, ask for this flag, too.
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False


def is_on() -> bool:
    """Whether the mode is on in this process."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.are_deterministic_algorithms_enabled())


@contextmanager
def refusals_told() -> Iterator[None]:
    """Within the block, torch's refusal of an operation is told in one line.

    Raises:
        InputError: an operation has no deterministic form.
    """
    try:
        yield
    except RuntimeError as error:
        if "does not have a deterministic implementation" not in str(error):
            raise
        what = f"compute.deterministic is true, but {str(error).split(',')[0]}"
        raise InputError(what, do="set compute.deterministic to false, or use another model or method") from error
