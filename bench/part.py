"""The command line that the parts of the measurement of a round share."""

import argparse
import json
import logging
import os
import platform
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch


def main(run: Callable[[int, int], dict[str, Any]], doc: str | None) -> None:
    """Run one part and print, or write, its results as JSON.

    Args:
        run: the part: given a number of prompts and of repeats.
        doc: what it is.
    """
    parser = _parser(doc)
    parser.set_defaults(prompts=1000, repeats=3)
    given = parser.parse_args()
    quiet()
    finish(run(given.prompts, given.repeats), given.out)


def size_main(run: Callable[..., dict[str, Any]], doc: str | None, more: Mapping[str, str]) -> None:
    """Run a part that is measured at several sizes, at one of them.

    Args:
        run: the part: given the size, a number of prompts and of repeats, None for the size's own, and `more`.
        doc: what it is.
        more: its own switches, and what they do.
    """
    parser = _parser(doc)
    parser.add_argument("--size", required=True, help="0.5M, 10M or 135M; toy shows that everything starts")
    for name, about in more.items():
        parser.add_argument(f"--{name}", action="store_true", help=about)
    given = parser.parse_args()
    quiet()
    switches = {name: getattr(given, name) for name in more}
    finish(run(given.size, given.prompts, given.repeats, **switches), given.out)


def _parser(doc: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--out", type=Path, help="where to write the results; printed otherwise")
    return parser


def finish(results: dict[str, Any], out: Path | None) -> None:
    """Write the results with the machine, or print them."""
    text = json.dumps(results | {"machine": machine()}, indent=1, allow_nan=False)
    if out:
        out.write_text(text + "\n", encoding="utf-8")
    else:
        print(text)


def quiet() -> None:
    """One thread unless told otherwise, and no remarks of libraries."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "bf16": bf16_support(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def bf16_support(flags: str | None = None) -> Literal["hardware", "emulated"]:
    """Whether this processor multiplies matrices in bf16 itself (AVX512-BF16, AMX or Arm's bf16), or torch emulates it.

    Args:
        flags: the processor's, as /proc/cpuinfo lists them; by default they are read there.
    """
    if flags is None:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        flags = next((line.partition(":")[2] for line in lines if line.startswith(("flags", "Features"))), "")
    return "hardware" if {"avx512_bf16", "amx_bf16", "bf16"} & set(flags.split()) else "emulated"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
