"""A stand-in for the Python of vLLM's environment: this one, with tests/fake_vllm in the place of vLLM."""

import shlex
import sys
from pathlib import Path

FAKE = Path(__file__).parent / "fake_vllm"


def fake_python(folder: Path, mode: str = "") -> Path:
    """Write it into a folder.

    Args:
        mode: how it misbehaves; see tests/fake_vllm/vllm/__init__.py.
    """
    path = folder / "python"
    given = {"PYTHONPATH": FAKE, "FAKE_VLLM": mode, "OMP_NUM_THREADS": 1}
    variables = " ".join(f"{name}={shlex.quote(str(value))}" for name, value in given.items())
    # Without -I, which would hide the stand-in; -P keeps the script's folder out, as -I does.
    path.write_text(f'#!/bin/sh\nshift\nexec env {variables} {shlex.quote(sys.executable)} -P "$@"\n')
    path.chmod(0o700)
    return path
