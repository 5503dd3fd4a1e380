"""Results of bench/gpu.py: one JSON file, rewritten after every measurement. Needs the standard library only."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results/gpu"
"""One file per card; docs/performance.md is written from them."""
MEASURED, FAILED, CUT = "measured", "failed", "cut"


@dataclass(frozen=True)
class Measurement:
    """One figure, or several that belong together, or why there is none."""

    part: str
    name: str
    state: str
    """`measured`, `failed` (it raised, or its process died) or `cut` (it took longer than it may)."""
    seconds: float
    date: str
    """UTC, to the second."""
    environment: str
    """Key of the environment that it was taken in."""
    values: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    """One line, of what failed."""
    traceback: str = ""
    """The end of it, or of what the process printed."""

    @property
    def key(self) -> tuple[str, str]:
        return self.part, self.name


@dataclass
class Results:
    """What has been measured on one card."""

    card: str
    measurements: dict[tuple[str, str], Measurement] = field(default_factory=dict)
    environments: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Card, driver, versions, commit, code and command, by their hash: see `Measurement.environment`."""

    def enter(self, environment: dict[str, Any]) -> str:
        """Note an environment. Returns its key."""
        key = hashlib.sha256(json.dumps(environment, sort_keys=True).encode()).hexdigest()[:12]
        self.environments[key] = environment
        return key

    def add(self, new: Measurement) -> None:
        """Note a measurement in the place of an earlier one.

        A failure never takes the place of a figure that the same code gave in the same environment.
        """
        old = self.measurements.get(new.key)
        if old and old.date > new.date:
            return
        if old and old.state == MEASURED and new.state != MEASURED and self._same(old, new):
            return
        self.measurements[new.key] = new

    def merge(self, other: "Results") -> None:
        """Take over what `other` has, if it is of the same card."""
        if other.card != self.card:
            raise ValueError(f"results of {other.card} do not belong to those of {self.card}")
        self.environments |= other.environments
        for each in sorted(other.measurements.values(), key=lambda each: each.date):
            self.add(each)
        used = {each.environment for each in self.measurements.values()}
        self.environments = {key: value for key, value in self.environments.items() if key in used}

    def settled(self, environment: dict[str, Any], states: tuple[str, ...]) -> dict[str, set[str]]:
        """By part, the names of the measurements of the same code, driver and versions in one of these states."""
        found: dict[str, set[str]] = {}
        for each in self.measurements.values():
            if each.state in states and identity(self.environments[each.environment]) == identity(environment):
                found.setdefault(each.part, set()).add(each.name)
        return found

    def write(self, path: Path) -> None:
        """Write all of it, at once or not at all."""
        values = {
            "card": self.card,
            "measurements": [asdict(each) for each in self.measurements.values()],
            "environments": self.environments,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        temporary.replace(path)

    @staticmethod
    def read(path: Path) -> "Results":
        """Read what `write` wrote.

        Raises:
            ValueError: it is something else; names the file.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            listed = [Measurement(**each) for each in values["measurements"]]
            environments = {key: dict(value) for key, value in values["environments"].items()}
            if missing := {each.environment for each in listed} - set(environments):
                raise KeyError(*missing)
            return Results(str(values["card"]), {each.key: each for each in listed}, environments)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} holds no results of bench/gpu.py: {error}") from error

    def _same(self, one: Measurement, other: Measurement) -> bool:
        return identity(self.environments[one.environment]) == identity(self.environments[other.environment])


def identity(environment: dict[str, Any]) -> list[Any]:
    """What decides a figure, on one card: the code and what it runs on."""
    return [environment.get(name) for name in ("code", "driver", "cuda", "python", "versions")]


def place_of(card: str, folder: Path = RESULTS) -> Path:
    """The file of a card's results, for example "NVIDIA-H100-80GB-HBM3.json"."""
    return folder / f"{'-'.join(card.split())}.json"


def keep(paths: list[Path], folder: Path = RESULTS) -> list[Path]:
    """Add the results in `paths` to those of their cards. Returns the files that were written.

    Raises:
        ValueError: a file holds no results, or results of tiny models on a CPU.
    """
    written = []
    for path in paths:
        new = Results.read(path)
        if any(environment["tiny"] for environment in new.environments.values()):
            raise ValueError(f"{path} holds figures of tiny models, which mean nothing")
        place = place_of(new.card, folder)
        known = Results.read(place) if place.is_file() else Results(new.card)
        known.merge(new)
        known.write(place)
        written.append(place)
    return written
