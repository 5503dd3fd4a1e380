"""Where vLLM is: in an environment of its own, because it pins other releases of torch and transformers than Juicer.

Nothing here imports torch, so recipes are checked before anything is loaded.
"""

import os
import subprocess
from pathlib import Path

from juicer.runtime.errors import InputError

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks of adapters for which vLLM makes room; smaller ones are padded."""
VARIABLE = "JUICER_VLLM_PYTHON"
"""Environment variable that names the Python of vLLM's environment."""
PYTHON = Path(".venv-vllm/bin/python")
"""The Python that `make vllm` makes, in the project's folder or in the checkout of this code."""
INSTALL = f"run make vllm, or set {VARIABLE} to the Python of an environment with vLLM"
_SEARCH = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
_LONGEST = 60
"""Seconds that a Python may take to say whether it has vLLM."""


def roomy_rank(rank: int) -> int:
    """The rank for which vLLM makes room where adapters have this one; it takes none above the last of `RANKS`."""
    return next((each for each in RANKS if each >= rank), rank)


def find_vllm() -> Path | None:
    """The Python of vLLM's environment; None where there is none.

    Raises:
        InputError: the environment variable names no Python that has vLLM.
    """
    if named := os.environ.get(VARIABLE):
        if not has_vllm(Path(named)):
            what = f"{VARIABLE} is {named}, which is no Python with vLLM"
            raise InputError(what, do="correct it, or unset it to take that of make vllm")
        return Path(named)
    places = (Path.cwd(), Path(__file__).parents[2])
    return next((folder / PYTHON for folder in places if has_vllm(folder / PYTHON)), None)


def check_vllm(key: str, where: str = "", others: str = "auto or torch") -> Path:
    """The Python of vLLM's environment, where something asks for it.

    Args:
        key: the setting that asks for it, in errors.
        where: the recipe, in errors.
        others: what else the setting may be, in errors.

    Raises:
        InputError: there is none.
    """
    found = find_vllm()
    if found is None:
        what = f"{key} is vllm, but there is no environment with vLLM"
        raise InputError(what, where=where, do=f"{INSTALL}, or set {key} to {others}")
    return found


def has_vllm(python: Path) -> bool:
    """Whether a file is a Python whose environment has vLLM, which is not imported."""
    if not python.is_file():
        return False
    try:
        # As it will be run: without the variables, packages and folders of this process.
        command = [str(python), "-I", "-c", _SEARCH]
        return not subprocess.run(command, check=False, capture_output=True, timeout=_LONGEST).returncode
    except (OSError, subprocess.SubprocessError):
        return False
