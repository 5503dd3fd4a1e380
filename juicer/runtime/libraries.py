"""Which versions of other libraries Juicer is written for, where it relies on more than their public interface.

pyproject.toml states the same bounds for installers (tests/unit/test_libraries.py compares the two). Installers can be
told to ignore them, and a checkout on a rented machine may not be installed at all, so they are checked at run time.
"""

import importlib.metadata
from dataclasses import dataclass

from packaging.specifiers import SpecifierSet

from juicer.runtime.errors import InputError


@dataclass(frozen=True)
class Bounds:
    """The versions of one distribution that Juicer works with."""

    versions: str
    """A version specifier, as in pyproject.toml."""
    because: str
    """What Juicer uses beyond the public interface."""


BOUNDS = {
    "dvc": Bounds(">=3.67,<3.68", "reads DVC's run cache and repairs its list of files in use"),
    "mlflow": Bounds(">=3.17,<3.18", "reads the tables of MLflow's SQLite store and edits external logged models"),
    "prefect": Bounds(">=3.8,<3.9", "starts Prefect's server and workers with settings of this release"),
    "transformers": Bounds(">=5.17,<5.24", "saves and restores the random state and the optimiser of its Trainer"),
    "trl": Bounds(">=1.16,<1.17", "overrides private methods of TRL's SFT and RLOO trainers"),
}
"""By the name of the distribution. torch, peft and others are used through their public interface only."""
PPO_TRL = "==1.12.*"
"""The last TRL that has PPO, which constraints-ppo.txt installs on purpose; its SFT trainer works too."""


def require(distribution: str, *, also: str = "") -> None:
    """Check that the installed version of a library is one that Juicer works with.

    Args:
        distribution: a key of `BOUNDS`.
        also: a further version specifier that the caller works with, such as `PPO_TRL`.

    Raises:
        InputError: another version is installed, or none; says which one to install.
    """
    bounds = BOUNDS[distribution]
    do = f"install one of these: pip install '{distribution}{bounds.versions}'"
    try:
        installed = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(f"{distribution} is not installed", do=do) from error
    accepted = [SpecifierSet(each) for each in (bounds.versions, also) if each]
    if not any(each.contains(installed, prereleases=True) for each in accepted):
        what = f"{distribution} {installed} is installed, but Juicer, which {bounds.because}"
        raise InputError(f"{what}, is written for {distribution} {bounds.versions}", do=do)
