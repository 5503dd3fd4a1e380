"""Weights that are mapped from a file: what is only read need not stay in memory while something else is computed."""

import ctypes
import mmap
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import torch

SMAPS = Path("/proc/self/smaps")
CHANGED = ("Anonymous", "Swap")
"""Lines of a mapping that count its changed bytes, in memory and swapped out, in the order in which they stand."""


def release(*models: torch.nn.Module) -> int:
    """Drop the pages of weights that are only read from this process; returns how many bytes were mapped there.

    safetensors maps a file into memory. Its pages stay in the system's cache, from which they come back when they are
    next read. Weights that were changed or copied, or that are on a GPU, are left alone.
    """
    if not SMAPS.is_file():
        return 0
    wanted = [weight.data_ptr() for weight in chain(*(model.parameters() for model in models))]
    advise, released = ctypes.CDLL(None).madvise, 0
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for start, end in _unchanged_files():
        if any(start <= place < end for place in wanted):
            advise(start, end - start, mmap.MADV_DONTNEED)
            released += end - start
    return released


def _unchanged_files() -> Iterator[tuple[int, int]]:
    """Where this process has mapped safetensors files of which it has changed nothing."""
    here: tuple[int, int] | None = None
    for line in SMAPS.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if "-" in name:  # the first line of a mapping: its addresses ... its file
            ends = [int(each, 16) for each in line.split(maxsplit=1)[0].split("-")]
            here = (ends[0], ends[1]) if line.endswith(".safetensors") else None
        elif name in CHANGED and value.split()[0] != "0":
            here = None
        elif name == CHANGED[-1] and here is not None:
            yield here
