"""A stand-in for a borrowed machine with a GPU: a Python that has no more than such a machine, and its transformers.

Packages are really absent there, and transformers is really older. Two things are this environment's: the Python, and
torch, because a second one is too large. For the rest there is `make gpu-bare`.
"""

import os
import subprocess
import sys
import sysconfig
import venv
from collections import defaultdict
from importlib.metadata import Distribution, distributions
from pathlib import Path, PurePosixPath

from packaging.utils import canonicalize_name

from bench.gpu_kit import BARE, pinned
from tests.conftest import ROOT

REAL = ("transformers", "huggingface-hub", "typer")
"""What is installed in the machine's own version. The older transformers wants an older huggingface_hub, and the newest
typer wants pydantic."""
QUIET = ("-q", "--disable-pip-version-check", "--no-input")


class NoRegistryError(Exception):
    """pip could not download what the stand-in is made of."""


def make(folder: Path, transformers: str = "5.17.0") -> Path:
    """A virtual environment of this interpreter's base in `folder`; returns the path of its Python.

    Args:
        folder: where to make it; must not exist.
        transformers: the version that it gets.

    Raises:
        NoRegistryError: pip cannot download transformers, or its huggingface_hub or typer.
    """
    venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
    python = folder / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    for distribution in _bare(Path(sysconfig.get_path("purelib"))):
        _link(distribution, site)
    versions = pinned(ROOT / "constraints-bare.txt") | {"transformers": transformers}
    packages = [f"{name}=={versions[name]}" for name in REAL]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(python), "-m", "pip", "install", *QUIET, "--no-deps", *packages]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoRegistryError((done.stderr.strip().splitlines() or ["pip failed"])[-1])
    return python


def _bare(site: Path) -> list[Distribution]:
    """Those of a site-packages that the machine has, in whatever version they are here."""
    found = distributions(path=[str(site)])
    return [each for each in found if (name := canonicalize_name(each.name)) in BARE and name not in REAL]


def _link(distribution: Distribution, site: Path) -> None:
    """Link every file of a distribution on its own, its metadata included.

    Not whole folders: pip, which runs in the stand-in too, would uninstall what is behind the link, and some folders
    (google/, nvidia/) belong to packages that the machine does not have as well.
    """
    folders = defaultdict[Path, list[tuple[str, Path]]](list)
    for file in distribution.files or []:
        inside = PurePosixPath(file)
        if ".." not in inside.parts and not inside.is_absolute():  # scripts, which go to bin/
            folders[site / inside.parent].append((inside.name, Path(str(distribution.locate_file(file)))))
    for folder, files in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        for name, real in files:
            if real.exists() and not (folder / name).is_symlink():
                (folder / name).symlink_to(real)


if __name__ == "__main__":
    print(make(Path(sys.argv[1]).absolute(), *sys.argv[2:3]))
