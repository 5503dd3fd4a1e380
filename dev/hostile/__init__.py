"""Bad recipes, data files and model folders, each with what its one line of refusal has to say.

`python -m dev.hostile` tries them as a user would, one process each, within a time and a size; the unit tests try them
in their own process.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["recipe", "params", "data", "policy", "scorer", "reward"]


@dataclass(frozen=True)
class Case:
    """Something bad.

    Attributes:
        name: what is bad about it.
        kind: what it is given as.
        make: makes it in an empty folder, and returns its path; for recipes, in a folder of recipes.
        says: a part of the line that refuses it.
        words: overrides on the command line, for recipes.
    """

    name: str
    kind: Kind
    make: Callable[[Path], Path]
    says: str
    words: tuple[str, ...] = ()
