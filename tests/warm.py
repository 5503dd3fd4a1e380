"""Stage programs for tests, from one warm parent: a fork instead of an interpreter that imports the libraries again.

@pytest.fixture(scope="session")
def stages() -> Iterator[WarmStages]:
    with warm_stages() as stages:
        yield stages

done = stages.run(folder, "tasks.sft", "--policy", "base", "--data", "data", "--out", "out")
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from juicer.running.warm import WarmParent
from juicer.settings.compute import ComputeSettings

ROOT = Path(__file__).resolve().parents[1]


class WarmStages:
    """Runs stage programs as `subprocess.run([sys.executable, "-m", ...], capture_output=True, text=True)` does."""

    def __init__(self, parent: WarmParent) -> None:
        self._parent = parent

    def run(self, folder: Path, module: str, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Run `python -m MODULE ARGUMENTS` in a folder that has the module.

        Its parameters have to ask for as many threads as the parent has.
        """
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
            code = self._parent.run(
                module,
                arguments,
                {**os.environ, **variables},
                folder=folder,
                output=(out.fileno(), errors.fileno()),
            )
            out.seek(0)
            errors.seek(0)
            return subprocess.CompletedProcess(["python", "-m", module, *arguments], code, out.read(), errors.read())


@contextmanager
def warm_stages(threads: int = 1) -> Iterator[WarmStages]:
    """A warm parent for the block; it starts with the first stage."""
    parent = WarmParent(ComputeSettings(device="cpu", threads=threads), ROOT)
    try:
        yield WarmStages(parent)
    finally:
        parent.close()
